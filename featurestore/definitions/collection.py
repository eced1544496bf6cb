"""Collects the definitions of one apply from modules, packages or objects.

References are followed, so that a service brings its views, sources and entities along. Nothing is checked here.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sysconfig
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from featurestore.core.errors import DefinitionError, FeatureStoreError, Mistake
from featurestore.definitions.entities import Entity
from featurestore.definitions.expr import Expr
from featurestore.definitions.services import FeatureService
from featurestore.definitions.sources import Source
from featurestore.definitions.views import FeatureReference, FeatureView, OnDemandFeatureView, Selectable, Selection

_FOREIGN = (
    f"{Path(__file__).resolve().parent.parent}{os.sep}",
    *(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib")),
    "<frozen",
)
"""Folders of this library, of other libraries and of Python: users' mistakes lie elsewhere."""

Definition = Entity | Source | FeatureView | OnDemandFeatureView | FeatureService
"""A definition with a name of its own, which can be applied."""


@dataclass(frozen=True)
class Definitions:
    """All definitions of one apply, each object once, sorted by kind and name.

    Two different objects of one kind may still have the same name here: the compiler reports that.
    """

    entities: tuple[Entity, ...] = ()
    sources: tuple[Source, ...] = ()
    views: tuple[FeatureView, ...] = ()
    on_demand: tuple[OnDemandFeatureView, ...] = ()
    services: tuple[FeatureService, ...] = ()

    def source(self, name: str) -> Source:
        """Return a source by name; ``KeyError`` if it does not exist."""
        return {source.name: source for source in self.sources}[name]


def collect(*items: Any) -> Definitions:
    """Collect definitions and all they refer to.

    Args:
        items: Modules, packages (with all modules inside), definitions, selections, and iterables of these. Everything
            at the top level of a module counts, also in lists, tuples and the values of dicts.

    Raises:
        TypeError: An argument is none of these.
        DefinitionError: A module inside a package cannot be imported.
    """
    collected: dict[int, Definition] = {}
    for item in items:
        for definition in _definitions_in(item, is_strict=True):
            _follow(definition, collected)

    def of_kind(kind: type) -> Any:
        return tuple(sorted((item for item in collected.values() if isinstance(item, kind)), key=lambda i: str(i.name)))

    return Definitions(
        entities=of_kind(Entity),
        sources=of_kind(Source),
        views=of_kind(FeatureView),
        on_demand=of_kind(OnDemandFeatureView),
        services=of_kind(FeatureService),
    )


def _definitions_in(item: Any, *, is_strict: bool) -> Iterator[Definition]:
    """Yield the definitions that an item is or holds; other objects are errors only if ``is_strict``."""
    if isinstance(item, Definition):
        yield item
    elif isinstance(item, Selectable | FeatureReference):
        yield item.select().view
    elif isinstance(item, ModuleType):
        for module in _modules(item):
            for value in vars(module).values():
                if not isinstance(value, ModuleType):
                    yield from _definitions_in(value, is_strict=False)
    elif isinstance(item, list | tuple | set | frozenset):
        for part in item:
            yield from _definitions_in(part, is_strict=is_strict)
    elif isinstance(item, Mapping):
        yield from _definitions_in(list(item.values()), is_strict=is_strict)
    elif is_strict and isinstance(item, Iterable) and not isinstance(item, str | bytes):
        yield from _definitions_in(list(item), is_strict=True)
    elif is_strict:
        raise TypeError(f"got {type(item).__name__}, expected a module or definitions")


def _modules(module: ModuleType) -> Iterator[ModuleType]:
    """Yield a module and, if it is a package, all modules inside, imported."""
    yield module
    for module_info in pkgutil.walk_packages(getattr(module, "__path__", ()), f"{module.__name__}."):
        if not module_info.name.rpartition(".")[2].startswith("__"):
            yield import_definitions(module_info.name)


def import_definitions(name: str) -> ModuleType:
    """Import a module of definitions.

    Args:
        name: Full name of the module.

    Raises:
        ModuleNotFoundError: No module has this name.
        DefinitionError: The module cannot be imported; the mistake names file and line.
    """
    try:
        return importlib.import_module(name)
    except DefinitionError:
        raise
    except Exception as error:  # a module of definitions may fail with anything
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            raise
        raise DefinitionError([_import_mistake(error, name)]) from error


def _import_mistake(error: Exception, module: str) -> Mistake:
    """Return the mistake for an error while a module was imported, with its place in the user's files."""
    where = _place_in_files(error, module)
    if isinstance(error, FeatureStoreError):
        inner = f"{where}, {error.where}" if error.where else where
        return Mistake(inner, error.problem, error.hint, error.code)
    if isinstance(error, SyntaxError):
        line = f" '{error.text.strip()}'" if error.text else ""
        return Mistake(where, f"Python cannot read the line{line}: {error.msg}", "", "python-mistake")
    first_line = (str(error).splitlines() or [""])[0]
    return Mistake(where, f"{type(error).__name__}: {first_line}".rstrip(": "), "", "python-mistake")


def _place_in_files(error: Exception, module: str) -> str:
    """Return file and line of the innermost frame that is not in Python or in an installed library."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"file '{error.filename}', line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not frame.filename.startswith(_FOREIGN)]
    return f"file '{users[-1].filename}', line {users[-1].lineno}" if users else f"module '{module}'"


def _follow(item: Any, collected: dict[int, Definition]) -> None:
    """Add a definition and everything it refers to; references of wrong types are left to the compiler."""
    pending = [item]
    while pending:
        current = pending.pop()
        if id(current) in collected or not isinstance(current, Definition):
            continue
        collected[id(current)] = current
        pending += list(_referred(current))


def _referred(definition: Definition) -> Iterator[Any]:
    if isinstance(definition, FeatureView):
        yield definition.entity
        yield definition.source
    elif isinstance(definition, OnDemandFeatureView):
        for expression in definition.features.values() if isinstance(definition.features, Mapping) else ():
            yield from (selection.view for selection in selections_in(expression))
    elif isinstance(definition, FeatureService):
        for listed in definition.features if isinstance(definition.features, list | tuple) else ():
            if isinstance(listed, Selectable | FeatureReference):
                yield listed.select().view


def selections_in(expression: Any) -> Iterator[Selection]:
    """Yield the feature of each reference inside an expression."""
    for node in nodes_of(expression):
        if isinstance(node, FeatureReference):
            yield node.selection


def nodes_of(expression: Any) -> Iterator[Expr]:
    """Yield every node of an expression, each object once; nothing for other objects."""
    pending, seen = [expression], set()
    while pending:
        node = pending.pop()
        if not isinstance(node, Expr) or id(node) in seen:
            continue
        seen.add(id(node))
        yield node
        pending += list(node.args)
