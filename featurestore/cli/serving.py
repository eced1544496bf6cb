"""Commands of the server."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from featurestore.cli.common import app, echo, show, store_of
from featurestore.core.errors import ConfigError

keys = typer.Typer(name="keys", help="Make, list and revoke the server's API keys.", no_args_is_help=True)
app.add_typer(keys)


@app.command()
def serve(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on; the configured one if left out.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on, 0 for a free one.", min=0, max=65_535)] = None,
    workers: Annotated[int | None, typer.Option(help="How many processes serve; the configured number.", min=1)] = None,
) -> None:
    """Serve features over HTTP until stopped."""
    given = {"--host": host, "--port": port, "--workers": workers}
    chosen = [part for name, value in given.items() if value is not None for part in (name, str(value))]
    # The server stands above the library: it is started, not imported, and signals go straight to it.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "featurestore.server", "--config", str(context.obj), *chosen])


@app.command()
def warm() -> None:
    """Compile all kernels ahead, so that no first use waits for it; for building an image."""
    from featurestore.operations.warming import warm as compile_all

    found = compile_all()
    typer.echo(f"compiled {found.compiled} kernels, {found.loaded} were there: {', '.join(found.folders)}")
    if found.problem:
        raise ConfigError(
            f"compiled kernels cannot be written to {found.problem}",
            where="warm",
            hint="Set NUMBA_CACHE_DIR to a folder that can be written.",
            code="no-cache-folder",
        )


@keys.command("create")
def create_key(
    context: typer.Context,
    name: Annotated[str, typer.Option(help="What the key is for.", show_default=False)],
    scope: Annotated[list[str], typer.Option(help="read, write or admin; may be repeated.", show_default=False)],
) -> None:
    """Make a key and print it; it cannot be shown again."""
    from featurestore.registry.api_keys import Scope

    if unknown := [one for one in scope if one not in list(Scope)]:
        raise typer.BadParameter(f"there is no scope '{unknown[0]}'; there are {', '.join(Scope)}")
    with store_of(context) as store:
        _, key = store.api_keys.create(name, map(Scope, scope), now_us=store.clock.now_us())
    echo(key)


@keys.command("list")
def list_keys(context: typer.Context) -> None:
    """List all keys; what is secret of them is not kept."""
    from featurestore.core.temporal import format_instant

    with store_of(context) as store:
        found = store.api_keys.all()
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
            for key in found
        ],
    )


@keys.command("revoke")
def revoke_key(
    context: typer.Context, key_id: Annotated[str, typer.Argument(help="Id of the key.", show_default=False)]
) -> None:
    """Let a key hold no longer; servers notice within a second."""
    with store_of(context) as store:
        store.api_keys.revoke(key_id, now_us=store.clock.now_us())
