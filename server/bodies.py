"""Reading request bodies within a bound."""

from __future__ import annotations

from fastapi import Request

from server.problems import too_large


async def read_body(request: Request, most: int) -> bytes:
    """Read a body.

    Raises:
        RefusedError: It is larger than the server takes, whatever its header says.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise too_large(f"The body is larger than {most} bytes. Send several requests.")
    return body
