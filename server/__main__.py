"""Runs the server: ``python -m server``. One process with one event loop, or several that share a socket."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from featurestore.config import CONFIG_VARIABLE, FILE_NAME, Config
from featurestore.core.cleaning import clean
from featurestore.core.errors import ConfigError, FeatureStoreError
from featurestore.server.app import create_app
from featurestore.server.process import Server, is_loopback
from featurestore.server.settling import settle, unsettle
from featurestore.server.workers import Workers
from featurestore.store import FeatureStore

_CANNOT_START = 2
_MOST_PORT = 65_535


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal says stop; then finish what is under way and write what waits.

    Args:
        arguments: Those of the command line if ``None``.

    Returns:
        Exit code: 0, or 2 if the server cannot start.
    """
    options = _options(arguments)
    try:
        config = Config.load(options.config)
        with FeatureStore(config) as store:
            # What cannot be read now is told here, and not by each worker in turn.
            store.service_names()
            if (options.workers or config.server.workers) == 1:
                serve(store, host=options.host, port=options.port)
                return 0
        return serve_with_workers(config, options)
    except FeatureStoreError as error:
        print(clean(f"featurestore: {error}"), file=sys.stderr)
        return _CANNOT_START


def serve(store: FeatureStore, *, host: str | None = None, port: int | None = None) -> None:
    """Serve a store until a signal says stop.

    The address is printed once the server takes requests, so that a program that started it with port 0 learns the
    port.

    Args:
        store: What answers; it stays the caller's to close.
        host: Address to listen on; the configured one if ``None``.
        port: Port to listen on, 0 for a free one; the configured one if ``None``.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    listening = _listen(store.config, host, port)
    # uvicorn raises the signal that stopped it again: it shall end the program by way of closing the store.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    announce = partial(_announce, listening, store.config)
    server = Server(create_app(store, on_ready=settle), store.config.server, announce)
    try:
        server.run(sockets=[listening])
    finally:
        unsettle()
    if not server.started:
        raise SystemExit(_CANNOT_START)


def serve_with_workers(config: Config, options: argparse.Namespace) -> int:
    """Serve with several processes until a signal says stop; one that dies is started again.

    Args:
        config: What is served.
        options: The command line: place of the configuration, address, count of workers.

    Returns:
        Exit code: 0, or 2 if the workers cannot start.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    listening = _listen(config, options.host, options.port)
    file = Path(options.config).absolute()
    os.environ[CONFIG_VARIABLE] = str(file)
    count = options.workers or config.server.workers
    workers = Workers(file, count, listening, config.data, partial(_announce, listening, config))
    workers.run()
    return _CANNOT_START if workers.have_failed else 0


def _announce(listening: socket.socket, config: Config) -> None:
    """Say where the server listens, and if anybody may ask it."""
    name, port = listening.getsockname()[:2]
    print(f"serving on http://{f'[{name}]' if ':' in name else name}:{port}", flush=True)
    if config.server.auth == "none" and not is_loopback(listening):
        print(f"featurestore: auth = 'none', and {name} is open to other machines", file=sys.stderr, flush=True)
    if name == "::" and listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        print("featurestore: this machine takes connections to :: by IPv6 only", file=sys.stderr, flush=True)


def _stop(*_: object) -> None:
    raise SystemExit(0)


def _listen(config: Config, host: str | None, port: int | None) -> socket.socket:
    address = (config.server.host if host is None else host, config.server.port if port is None else port)
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    both = address[0] == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(address, family=family, dualstack_ipv6=both)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {address[0]} port {address[1]}: {error.strerror}",
            where="server",
            hint="Name another port, or 0 for a free one.",
            code="address",
        ) from error


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m server", description="Serve features over HTTP.")
    parser.add_argument("--config", default=os.environ.get(CONFIG_VARIABLE, FILE_NAME), help="configuration file")
    parser.add_argument("--host", help="address to listen on (default: the configured one)")
    parser.add_argument("--port", type=_port, help="port to listen on, 0 for a free one (default: the configured one)")
    parser.add_argument("--workers", type=_count, help="how many processes serve (default: the configured number)")
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= _MOST_PORT:
        raise argparse.ArgumentTypeError(f"{number} is no port; they are 0 to {_MOST_PORT}")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} processes cannot serve; give 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
