"""Commands of the server: serving, API keys, compiling kernels."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from featurestore.cli.common import app, echo, show, store_of
from featurestore.core.errors import ConfigError

keys = typer.Typer(name="keys", help="Create, list and revoke API keys.", no_args_is_help=True)
app.add_typer(keys)


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on. Default: the configured one.")] = None,
    port: Annotated[
        int | None,
        typer.Option(help="Port to listen on; 0 for a free one. Default: the configured one.", min=0, max=65_535),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of serving processes. Default: the configured number.", min=1)
    ] = None,
) -> None:
    """Serve features over HTTP until stopped."""
    options = {"--host": host, "--port": port, "--workers": workers}
    arguments = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    # The library must not import the server. The server replaces this process, so signals go straight to it.
    os.execv(
        sys.executable, [sys.executable, "-P", "-m", "featurestore.server", "--config", str(context.obj), *arguments]
    )


@app.command()
def warm() -> None:
    """Compile all kernels ahead of time.

    Then no first use waits for the compiler. Run it when you build an image.
    """
    from featurestore.operations.warming import warm as compile_all

    warmed = compile_all()
    folders = ", ".join(warmed.folders)
    typer.echo(f"compiled {warmed.compiled} kernels, {warmed.loaded} were compiled already: {folders}")
    if warmed.problem:
        raise ConfigError(
            f"compiled kernels cannot be written to {warmed.problem}",
            where="warm",
            hint="Set NUMBA_CACHE_DIR to a folder that can be written.",
            code="no-cache-folder",
        )


@keys.command("create")
def create_key(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What the key is for.", show_default=False)],
    scope: Annotated[list[str], typer.Option(help="Scope: read, write or admin. May be repeated.", show_default=False)],
) -> None:
    """Create a key and print it. It cannot be shown again."""
    from featurestore.registry.api_keys import Scope

    if unknown := [name for name in scope if name not in list(Scope)]:
        raise typer.BadParameter(f"'{unknown[0]}' is not a scope; expected one of {', '.join(Scope)}")
    with store_of(context) as store:
        _, key = store.api_keys.create(name, map(Scope, scope), now_us=store.clock.now_us())
    echo(key)


@keys.command("list")
def list_keys(context: typer.Context) -> None:
    """List all keys. The secret part of a key is not stored."""
    from featurestore.core.temporal import format_instant

    with store_of(context) as store:
        api_keys = store.api_keys.all()
    show(
        ["id", "name", "scopes", "created", "revoked"],
        [
            [
                key.id,
                key.name,
                " ".join(sorted(key.scopes)),
                format_instant(key.created_at_us),
                "" if key.revoked_at_us is None else format_instant(key.revoked_at_us),
            ]
            for key in api_keys
        ],
    )


@keys.command("revoke")
def revoke_key(
    context: typer.Context, key_id: Annotated[str, typer.Argument(help="Id of the key.", show_default=False)]
) -> None:
    """Revoke a key. Servers refuse it within one second."""
    with store_of(context) as store:
        store.api_keys.revoke(key_id, now_us=store.clock.now_us())
