"""The server without direct answers: every request is answered by an ASGI task.

Usage: python -m benchmarks.contestants.asgi_server, with the arguments of ``python -m featurestore.server``.
"""

from __future__ import annotations

import sys

from featurestore.server import __main__ as server
from featurestore.server.app import Application


class AsgiApplication(Application):
    """An application that the protocol can only answer through ASGI, as it does any other one."""

    answer_directly = None  # type: ignore[assignment]


if __name__ == "__main__":
    server.create_app = AsgiApplication
    sys.exit(server.main())
