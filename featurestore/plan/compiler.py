"""The compiler: from definitions and the schemas of their sources to plans.

Its passes are plain functions, run in order. Each reports mistakes and goes on, so that one apply reports all of them.
The compiler reads no data: the caller passes the schemas.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from featurestore.core.errors import DefinitionError, Mistake
from featurestore.definitions.collection import Definitions
from featurestore.definitions.sources import Source
from featurestore.plan import mistakes
from featurestore.plan.checks import (
    Schema,
    check_columns,
    check_names,
    check_options,
    check_shapes,
    compile_entity,
    where_is,
)
from featurestore.plan.mistakes import Report
from featurestore.plan.model import EntityPlan, Plan, ViewPlan
from featurestore.plan.on_demand import compile_on_demand
from featurestore.plan.references import Compiled
from featurestore.plan.services import compile_service
from featurestore.plan.views import compile_view

Schemas = Mapping[str, Schema]
"""For each source by name, its columns with their dtypes; ``None`` for types that have no dtype."""


_NOTHING: Mapping[str, Mistake] = MappingProxyType({})


@dataclass(frozen=True)
class Plans:
    """The plans of definitions.

    Attributes:
        views: Every feature view by name.
        services: Every feature service by name.
    """

    views: Mapping[str, ViewPlan]
    services: Mapping[str, Plan]


def compile_definitions(
    definitions: Definitions, schemas: Schemas, *, unreadable: Mapping[str, Mistake] = _NOTHING
) -> Plans:
    """Compile definitions.

    The order of definitions, of features and of dicts changes nothing in the plans, except that a service's columns
    have the order in which it lists them.

    Args:
        definitions: The definitions that ``collect`` reported.
        schemas: The columns of every source, by the source's name. Sources that ``readable_sources`` leaves out
            may be missing: they have mistakes of their own.
        unreadable: Mistakes that explain why the columns of other sources are unknown, by the source's name.

    Returns:
        The plans of all views and services.

    Raises:
        DefinitionError: There are mistakes; it holds all of them, sorted by place.
    """
    reported: set[Mistake] = set()
    plans = _compile(definitions, schemas, unreadable, reported.add)
    if reported:
        raise DefinitionError(sorted(reported))
    return plans


def _compile(definitions: Definitions, schemas: Schemas, unreadable: Mapping[str, Mistake], report: Report) -> Plans:
    check_names(definitions, report)
    sound = check_shapes(definitions, report)
    entities = {id(entity): compile_entity(entity, report) for entity in sound.entities}
    valid = _check_sources(sound.sources, schemas, unreadable, report)
    compiled = Compiled(sound, _compile_views(sound, entities, valid, schemas, report))
    compile_on_demand(compiled, report)
    services = {service.name: compile_service(service, compiled, report) for service in sound.services}
    return Plans(
        views={view.name: compiled.views[id(view)] for view in sound.views if id(view) in compiled.views},
        services={name: plan for name, plan in services.items() if plan is not None},
    )


def _check_sources(
    sources: tuple[Source, ...], schemas: Schemas, unreadable: Mapping[str, Mistake], report: Report
) -> dict[int, bool]:
    """Return, by ``id``, whether each source with known columns is valid."""
    valid = {}
    for source in sources:
        problems: list[Mistake] = []
        check_options(source, problems.append)
        if source.name in schemas:
            check_columns(source, schemas[source.name], problems.append)
            valid[id(source)] = not problems
        elif not problems:
            problems.append(unreadable.get(source.name) or mistakes.unread_source(where_is(source)))
        for mistake in problems:
            report(mistake)
    return valid


def _compile_views(
    definitions: Definitions,
    entities: Mapping[int, EntityPlan | None],
    sources: Mapping[int, bool],
    schemas: Schemas,
    report: Report,
) -> dict[int, ViewPlan]:
    """Compile the views whose columns are known; keep the plans of those whose source is valid."""
    plans = {}
    for view in definitions.views:
        if id(view.source) in sources:
            plan = compile_view(view, entities.get(id(view.entity)), schemas[view.source.name], report)
            if plan is not None and sources[id(view.source)]:
                plans[id(view)] = plan
    return plans
