"""The server without direct answers: every request is answered by an ASGI task.

Usage: python -m benchmarks.contestants.asgi_server --config FILE. The address is printed as ``python -m
featurestore.server`` prints it.
"""

from __future__ import annotations

import sys

from featurestore.server import __main__ as server
from featurestore.server.app import Application


class AsgiApplication(Application):
    """The application as the protocol sees any other one: it cannot answer directly."""

    answer_directly = None  # type: ignore[assignment]


if __name__ == "__main__":
    server.create_app = lambda store=None, *, on_ready=lambda: None: AsgiApplication(store, on_ready)
    sys.exit(server.main())
