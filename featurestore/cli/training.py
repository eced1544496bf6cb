"""Commands of the offline road."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.common import PRINT, Service, app, echo, store_of


@app.command("training-set")
def training_set(
    context: typer.Context,
    service: Service,
    spine: Annotated[Path, typer.Argument(help="Parquet file of the rows to fill.", show_default=False)],
    path: Annotated[Path, typer.Argument(help="Folder that the training set will be.", show_default=False)],
    hindsight: Annotated[bool, typer.Option(help="Ignore when events became known.")] = False,
    statuses: Annotated[bool, typer.Option(help="Add a status column for each feature.")] = False,
    as_of: Annotated[str, typer.Option(help="Column of the spine that holds the instants.")] = "as_of",
    as_of_unit: Annotated[
        str | None, typer.Option(help="What numbers in as_of count since 1970: s, ms, us or ns.", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a training set that is there.")] = False,
) -> None:
    """Build a training set: the features of a service at each row's own instant."""
    with store_of(context) as store:
        built = store.training_set(
            service,
            spine,
            path=path,
            hindsight=hindsight,
            statuses=statuses,
            as_of=as_of,
            as_of_unit=as_of_unit,
            overwrite=overwrite,
        )
    echo(f"{built.row_count} rows in {built.path}, content {built.manifest.content_digest[:PRINT]}")
