"""TLS for tests: certificates of an authority of their own, and an end of TLS before a server that has none.

Certificates are made by the program ``openssl``, and hold for a day.
"""

import asyncio
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

_SERVER_NAMES = "subjectAltName=IP:127.0.0.1"


@dataclass(frozen=True)
class TlsSide:
    """What a server and its clients need for TLS.

    Attributes:
        folder: Holds ``ca``, ``server`` and ``client``, each a ``.pem`` and a ``.key``. The server's certificate is for
            127.0.0.1 and no other name.
        asks_clients: Whether clients need a certificate.
    """

    folder: Path
    asks_clients: bool

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def server_options(self, port: int) -> list[str]:
        """Return what a Redis or Valkey server is started with."""
        options = {
            "port": "0",
            "tls-port": str(port),
            "tls-ca-cert-file": self.file("ca.pem"),
            "tls-cert-file": self.file("server.pem"),
            "tls-key-file": self.file("server.key"),
            "tls-auth-clients": "yes" if self.asks_clients else "no",
        }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def client_query(self, **changes: str) -> str:
        """Return the options of a URL that a client is let in with, some of them changed."""
        own = {"ssl_certfile": self.file("client.pem"), "ssl_keyfile": self.file("client.key")}
        trusted = {"ssl_ca_certs": self.file("ca.pem")}
        return urlencode(trusted | (own if self.asks_clients else {}) | changes)

    def context(self) -> ssl.SSLContext:
        """Return the server's side for Python."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.file("ca.pem"))
        context.load_cert_chain(self.file("server.pem"), self.file("server.key"))
        context.verify_mode = ssl.CERT_REQUIRED if self.asks_clients else ssl.CERT_NONE
        return context


def make_certificates(folder: Path) -> Path:
    """Make an authority and the certificates it signs; skip the test if there is no program that can.

    Returns:
        The folder, with ``ca``, ``server`` and ``client``.
    """
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("certificates are made by the program 'openssl', which is not here")

    def run(*arguments: str) -> None:
        subprocess.run([program, *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    run("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "1", "-subj", "/CN=tests")
    for name in ("server", "client"):
        (folder / "extensions").write_text(
            f"{_SERVER_NAMES}\n" if name == "server" else "extendedKeyUsage=clientAuth\n"
        )
        run("req", "-new", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "extensions")
        run("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed)
    return folder


@contextmanager
def tls_before(url: str, side: TlsSide) -> Iterator[str]:
    """End TLS before a server that speaks none, on a port of its own: give the URL of that.

    Args:
        url: The server's: ``redis://127.0.0.1:6379/0``.
        side: What to speak TLS with.
    """
    behind = urlsplit(url)
    listening: Future[tuple[int, Callable[[], None]]] = Future()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while part := await reader.read(65_536):
                writer.write(part)
                await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(behind.hostname, behind.port)
        await asyncio.gather(pump(reader, to_server), pump(from_server, writer))

    async def serve() -> None:
        end, loop = asyncio.Event(), asyncio.get_running_loop()
        async with await asyncio.start_server(join, "127.0.0.1", 0, ssl=side.context()) as server:
            listening.set_result((server.sockets[0].getsockname()[1], lambda: loop.call_soon_threadsafe(end.set)))
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="end of TLS")
    thread.start()
    port, stop = listening.result(10)
    try:
        yield f"rediss://127.0.0.1:{port}/0"
    finally:
        stop()
        thread.join(10)
