"""The compiler: from definitions and the schemas of their sources to plans.

Its passes are plain functions, run in order; each takes mistakes down and goes on, so that one apply hears of all of
them. Nothing is read here: schemas are given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featurestore.definitions.collection import Definitions
from featurestore.definitions.entities import Entity
from featurestore.definitions.sources import Source
from featurestore.errors import DefinitionError, Mistake
from featurestore.plan import mistakes
from featurestore.plan.checks import Schema, check_names, check_shapes, check_source, compile_entity, where_is
from featurestore.plan.mistakes import Report
from featurestore.plan.model import EntityPlan, Plan, ViewPlan
from featurestore.plan.on_demand import compile_on_demand
from featurestore.plan.references import Compiled
from featurestore.plan.services import compile_service
from featurestore.plan.views import compile_view

Schemas = Mapping[str, Schema]
"""For each source by name, its columns with their dtypes; ``None`` for types that have no dtype."""


@dataclass(frozen=True)
class Plans:
    """What definitions compile to.

    Attributes:
        views: Every feature view by name.
        services: Every feature service by name.
    """

    views: Mapping[str, ViewPlan]
    services: Mapping[str, Plan]


def compile_definitions(definitions: Definitions, schemas: Schemas) -> Plans:
    """Compile definitions.

    The order of definitions, of features and of dicts changes nothing in the plans; only a service's columns come in
    the order in which it lists them.

    Args:
        definitions: What ``collect`` found.
        schemas: The columns of every source, by the source's name.

    Returns:
        The plans of all views and services.

    Raises:
        DefinitionError: There are mistakes; it holds all of them, sorted by place.
    """
    found: set[Mistake] = set()
    plans = _compile(definitions, schemas, found.add)
    if found:
        raise DefinitionError(sorted(found))
    return plans


def _compile(definitions: Definitions, schemas: Schemas, report: Report) -> Plans:
    check_names(definitions, report)
    sound = check_shapes(definitions, report)
    entities = _compile_entities(sound.entities, report)
    _check_sources(sound.sources, schemas, report)
    compiled = Compiled(sound, _compile_views(sound, entities, schemas, report))
    compile_on_demand(compiled, report)
    services = {service.name: compile_service(service, compiled, report) for service in sound.services}
    return Plans(
        views={view.name: compiled.views[id(view)] for view in sound.views if id(view) in compiled.views},
        services={name: plan for name, plan in services.items() if plan is not None},
    )


def _compile_entities(entities: tuple[Entity, ...], report: Report) -> dict[int, EntityPlan | None]:
    return {id(entity): compile_entity(entity, report) for entity in entities}


def _check_sources(sources: tuple[Source, ...], schemas: Schemas, report: Report) -> None:
    for source in sources:
        if source.name in schemas:
            check_source(source, schemas[source.name], report)
        else:
            report(mistakes.unread_source(where_is(source)))


def _compile_views(
    definitions: Definitions, entities: Mapping[int, EntityPlan | None], schemas: Schemas, report: Report
) -> dict[int, ViewPlan]:
    """Compile the views of which the sources could be read; the others are reported with their source."""
    found = {}
    for view in definitions.views:
        if (schema := schemas.get(view.source.name)) is None:
            continue
        plan = compile_view(view, entities[id(view.entity)], schema, report)
        if plan is not None:
            found[id(view)] = plan
    return found
