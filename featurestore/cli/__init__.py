"""The command line: every command is one verb of the store, and prints its result.

Each module has one group of commands. A command imports what it needs when it runs, so that ``--help`` is quick. A
mistake of the user is printed as one message on standard error, with exit code 2; an unexpected error is printed with
its traceback, with exit code 2 as well.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence

from featurestore.cli import audit, definitions, drift, events, features, live, release, schedule, server
from featurestore.cli.common import app, echo
from featurestore.core.cleaning import clean
from featurestore.core.errors import FeatureStoreError

__all__ = [
    "COULD_NOT_TELL",
    "app",
    "audit",
    "definitions",
    "drift",
    "events",
    "features",
    "live",
    "main",
    "release",
    "schedule",
    "server",
]

COULD_NOT_TELL = 2
"""Exit code of a command that could not do its work."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code.

    Args:
        arguments: The arguments; those of the process if ``None``.
    """
    _configure_logging()
    try:
        app(args=arguments, prog_name="featurestore")
    except FeatureStoreError as error:
        echo(f"featurestore: {error}", err=True)
        sys.exit(COULD_NOT_TELL)
    except Exception:  # Python's own exit code would be 1, which means that values differ
        echo(traceback.format_exc(), err=True)
        sys.exit(COULD_NOT_TELL)


class _CleanFormatter(logging.Formatter):
    """Formats log records without characters that control the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of a record."""
        return clean(super().format(record))


def _configure_logging() -> None:
    """Print the library's warnings on standard error."""
    logger = logging.getLogger("featurestore")
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(_CleanFormatter())
        logger.addHandler(handler)
