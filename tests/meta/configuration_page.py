"""The page of the configuration, from the models. ``python -m tests.meta.configuration_page`` writes it anew."""

import inspect
import re
import typing
from pathlib import Path

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from featurestore.config import Config
from featurestore.config.tables import Table

PATH = Path(__file__).parents[2] / "docs" / "configuration.md"

HEAD = """\
# Configuration

Generated from the models in `featurestore/config/` by `python -m tests.meta.configuration_page`; a test keeps it true.

A store reads `featurestore.toml`; an empty file is valid, since every key below has a default or belongs to an optional
table. `FEATURESTORE_CONFIG` or `featurestore --config PATH` names another file.

```toml
registry = "postgresql+psycopg://user:password@db/features"
online = "redis://cache:6379/0"
data = "/srv/features"

[server]
port = 8080

[[audits]]
service = "delay_model"
every = "1h"
```

- An environment variable overrides the key that it names. Lists and tables of tables are written as JSON in it:
  `FEATURESTORE_AUDITS='[{"service": "delay_model", "every": "1h"}]'`.
- Unknown keys, unknown variables that begin with `FEATURESTORE_`, and wrong values are errors that name the file or
  variable and the key. Variables that Kubernetes sets for its Services are ignored.
- Relative paths, also those inside SQLite URLs, count from the folder of the file.
- *Duration* is written `"90m"` or `"1h30m"`, *size* `"512MiB"`, `"1GB"` or a number of bytes, *instant*
  `"2026-01-31T12:00:00Z"`.
- *Unset* is a key that is left out; TOML has no null.
"""

KINDS = {
    "bool": "boolean",
    "int": "integer",
    "float": "number",
    "str": "text",
    "Bytes": "size",
    "Duration": "duration",
    "Length": "duration > 0",
    "Schedule": "duration > 0, or `never`",
    "Reminder": "duration, or `never`",
    "Moment": "duration or instant",
    "LocalPath": "path",
    "DatabaseUrl": "URL",
    "Threads": "integer",
}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def page() -> str:
    """Return the page."""
    return "\n".join([HEAD, *sections(Config, "", "")])


def sections(model: type[BaseModel], table: str, variable: str) -> list[str]:
    """Return the sections of a table and of those inside it.

    Args:
        model: The table's model.
        table: Its name in TOML with its brackets, empty for the file itself.
        variable: What the environment variables of its keys begin with; empty if there are none.
    """
    prefix = variable or ("" if table else "FEATURESTORE_")
    meanings = attributes(model)
    lines = [f"## {f'`{table}`' if table else 'Top of the file'}", "", sentence(model), ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    for name, field in model.model_fields.items():
        if name == "folder":
            continue
        kind, is_table, is_listed = inner_table(field.annotation)
        override = f"<br>`{prefix}{name.upper()}`" if prefix else ""
        if kind is not None:
            place = ".".join(filter(None, [table.strip("[]"), name]))
            brackets = f"[[{place}]]" if is_listed else f"[{place}]" if is_table else f"[{place}.NAME]"
            below = f"{prefix}{name.upper()}__" if prefix and is_table else ""
            inner += sections(kind, brackets, below)
            lines.append(f"| `{name}`{override} | table `{brackets}` | | {cell(meanings[name])} |")
        else:
            lines.append(f"| `{name}`{override} | {type_of(model, name)} | {default(field)} | {cell(meanings[name])} |")
    return [*lines, "", *inner]


def inner_table(annotation: object) -> tuple[type[Table] | None, bool, bool]:
    """Return the model of a table inside another, whether it is one table, and whether it is a list of tables."""
    if inspect.isclass(annotation) and issubclass(annotation, Table):
        return annotation, True, False
    found = [part for part in typing.get_args(annotation) if inspect.isclass(part) and issubclass(part, Table)]
    origin = typing.get_origin(annotation)
    return (found[0], origin not in (dict, list), origin is list) if found else (None, False, False)


def type_of(model: type[BaseModel], name: str) -> str:
    """Return the type of a key in words, with its bounds."""
    annotations: dict[str, str] = {}
    for base in reversed(model.__mro__):
        annotations |= getattr(base, "__annotations__", {})
    text = annotations[name].replace(" | None", "")
    if literal := re.fullmatch(r"Literal\[(.*)\]", text):
        return " or ".join(f"`{choice.strip()}`" for choice in literal[1].replace("'", '"').split(","))
    if listed := re.fullmatch(r"(?:list|tuple)\[(\w+)(?:, \.\.\.)?\]", text):
        return f"list of {KINDS[listed[1]]}"
    if text.startswith("dict["):
        return "table of numbers"
    bounds = [
        f"{sign} {getattr(bound, key):,}".replace(",", " ")
        for bound in model.model_fields[name].metadata
        for key, sign in BOUNDS.items()
        if hasattr(bound, key)
    ]
    return " ".join([KINDS[text], ", ".join(bounds)]).strip()


def default(field: typing.Any) -> str:
    """Return the default of a key as TOML, and that it is unset or must be set if there is none."""
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "unset"
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{text}`" if isinstance(value, (bool, int, float, dict, list)) else f'`"{text}"`'


def attributes(model: type[BaseModel]) -> dict[str, str]:
    """Return the meaning of each key, as the docstring of the model has it."""
    text = inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[2]
    entries = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: re.sub(r"\s+", " ", meaning) for name, meaning in entries}


def sentence(model: type[BaseModel]) -> str:
    """Return what the docstring of the model says before it comes to the keys."""
    return cell(re.sub(r"[ \n]+", " ", inspect.cleandoc(model.__doc__ or "").partition("Attributes:\n")[0]).strip())


def cell(text: str) -> str:
    """Return text of a docstring as a cell of a table."""
    return text.replace("``", "`").replace("|", "\\|").replace("`None`", "unset")


if __name__ == "__main__":
    PATH.write_text(page(), encoding="utf-8")
