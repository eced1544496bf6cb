"""The command line: every command is one verb of the store, and shows what it gives.

Commands stand in modules by what they are about. What a command needs is imported when it runs, so that ``--help`` is
quick. Mistakes are told in one message on standard error, with exit code 2; so are errors nobody foresaw, with all that
Python has to say about them.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence

from featurestore.cli import (
    audits,
    definitions,
    drifting,
    explaining,
    live,
    materializing,
    online,
    releasing,
    scheduling,
    serving,
    streams,
    training,
)
from featurestore.cli.common import app, echo
from featurestore.core.cleaning import clean
from featurestore.core.errors import FeatureStoreError

__all__ = [
    "COULD_NOT_TELL",
    "app",
    "audits",
    "definitions",
    "drifting",
    "explaining",
    "live",
    "main",
    "materializing",
    "online",
    "releasing",
    "scheduling",
    "serving",
    "streams",
    "training",
]

COULD_NOT_TELL = 2
"""Exit code of a command that could not do its work."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        arguments: Those of the process if ``None``.
    """
    _log_cleanly()
    try:
        app(args=arguments, prog_name="featurestore")
    except FeatureStoreError as error:
        echo(f"featurestore: {error}", err=True)
        sys.exit(COULD_NOT_TELL)
    except Exception:  # the edge of the program: Python's own exit code for it is 1, which says skew
        echo(traceback.format_exc(), err=True)
        sys.exit(COULD_NOT_TELL)


class _Lines(logging.Formatter):
    """Formats log records for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record without characters that control the terminal."""
        return clean(super().format(record))


def _log_cleanly() -> None:
    """Let the library's warnings go to standard error by way of the cleaning."""
    logger = logging.getLogger("featurestore")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_Lines())
        logger.addHandler(handler)
