"""Runs the server: ``python -m featurestore.server``. One process with one event loop, or several on one socket."""

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
from featurestore.server.workers import Workers
from featurestore.store import FeatureStore

_CANNOT_START = 2
_MAX_PORT = 65_535


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a stop signal; then finish all requests and write pending logs.

    Args:
        arguments: The arguments; those of the command line if ``None``.

    Returns:
        Exit code: 0, or 2 if the server cannot start.
    """
    options = _options(arguments)
    try:
        config = Config.load(options.config)
        with FeatureStore(config) as store:
            # A registry that cannot be read is reported here once, not by each worker.
            store.service_names()
            if (options.workers or config.server.workers) == 1:
                serve(store, host=options.host, port=options.port)
                return 0
        return serve_with_workers(config, options)
    except FeatureStoreError as error:
        print(clean(f"featurestore: {error}"), file=sys.stderr)
        return _CANNOT_START


def serve(store: FeatureStore, *, host: str | None = None, port: int | None = None) -> None:
    """Serve a store until a stop signal.

    The address is printed once the server accepts requests, so that a program that started it with port 0 learns the
    port.

    Args:
        store: The store that answers. The caller closes it.
        host: Address to listen on; the configured one if ``None``.
        port: Port to listen on, 0 for a free one; the configured one if ``None``.

    Raises:
        ConfigError: The address cannot be listened on.
    """
    listening = _listen(store.config, host, port)
    # uvicorn raises the signal again that stopped it: SystemExit lets the caller close the store.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    announce = partial(_announce, listening, store.config)
    server = Server(create_app(store), store.config.server, announce)
    server.run(sockets=[listening])
    if not server.started:
        raise SystemExit(_CANNOT_START)


def serve_with_workers(config: Config, options: argparse.Namespace) -> int:
    """Serve with several processes until a stop signal; restart a process that dies.

    Args:
        config: The configuration.
        options: The command line: configuration file, address, number of workers.

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
    """Print where the server listens; warn if other machines can reach it without a key."""
    name, port = listening.getsockname()[:2]
    print(f"serving on http://{f'[{name}]' if ':' in name else name}:{port}", flush=True)
    if config.server.auth == "none" and not is_loopback(listening):
        print(f"featurestore: auth = 'none', and other machines can reach {name}", file=sys.stderr, flush=True)
    if name == "::" and listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        print("featurestore: this machine accepts connections to :: over IPv6 only", file=sys.stderr, flush=True)


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
            hint="Choose another port, or 0 for a free one.",
            code="address",
        ) from error


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m featurestore.server", description="Serve features over HTTP.")
    parser.add_argument("--config", default=os.environ.get(CONFIG_VARIABLE, FILE_NAME), help="configuration file")
    parser.add_argument("--host", help="address to listen on (default: the configured one)")
    parser.add_argument("--port", type=_port, help="port to listen on, 0 for a free one (default: the configured one)")
    parser.add_argument("--workers", type=_count, help="number of serving processes (default: the configured number)")
    return parser.parse_args(arguments)


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= _MAX_PORT:
        raise argparse.ArgumentTypeError(f"{number} is not a port; ports are 0 to {_MAX_PORT}")
    return number


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} processes cannot serve; give 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
