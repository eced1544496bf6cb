"""Commands of the server."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from featurestore.cli.common import app


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on; the configured one if left out.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one.")] = None,
) -> None:
    """Serve features over HTTP until stopped."""
    chosen = [*(["--host", host] if host else []), *(["--port", str(port)] if port is not None else [])]
    # The server stands above the library: it is started, not imported, and signals go straight to it.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "server", "--config", str(context.obj), *chosen])
