"""All routes but the hot one, as a FastAPI application: services, health, metrics, the API's page, events, Feast."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from featurestore.plan.model import Column, Plan
from featurestore.server import docs, events, feast, openapi, problems
from featurestore.server.calls import METRICS_PATH, Call, call_of
from featurestore.server.telemetry import Telemetry
from featurestore.server.threaded_routes import ThreadedRoutes


class ColumnInfo(BaseModel):
    """A column and its dtype."""

    name: str
    dtype: str


class ViewInfo(BaseModel):
    """A view that a service reads."""

    name: str
    fingerprint: str
    refresh: str = Field(description="How fresh the view promises to be.")


class ServiceInfo(BaseModel):
    """A feature service: the inputs of a question, and the columns of an answer."""

    name: str
    fingerprint: str
    keys: list[ColumnInfo] = Field(description="Fields of each entity.")
    request: list[ColumnInfo] = Field(description="Request inputs.")
    columns: list[ColumnInfo] = Field(description="Columns of the answer.")
    views: dict[str, ViewInfo] = Field(description="Views by their name or alias.")


class Services(BaseModel):
    """All feature services."""

    services: list[ServiceInfo]


class Health(BaseModel):
    """State of the server process."""

    status: str


class Readiness(BaseModel):
    """Whether the server can still answer all that it answered before."""

    status: str
    unready: dict[str, str] | None = Field(
        None, description="Services that could never be answered yet, with the reason."
    )
    registry: str | None = Field(
        None, description="Code of the reason why the registry cannot be read. Known plans continue to answer."
    )
    problems: list[str] | None = Field(None, description="Problems that keep no service from being answered.")


def fastapi_app(
    threads: ThreadedRoutes,
    telemetry: Callable[[], Telemetry | None],
    *,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
) -> FastAPI:
    """Return an application with all routes but the hot one.

    Args:
        threads: Answers the routes.
        telemetry: Returns what keeps the metrics; ``None`` before the server has started.
        lifespan: Opens and closes what the server needs.
    """
    app = FastAPI(
        title="featurestore",
        version="1",
        description=openapi.DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
    )
    for kind in (Exception, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _problem_response)

    @app.get(
        "/v1/services", summary="List feature services", response_model=Services, responses=openapi.COMMON_REFUSALS
    )
    async def services(request: Request) -> Response:
        def list_services(_: Call) -> Response:
            return _json_response(Services(services=[_service_info(plan) for plan in threads.store.live_services()]))

        return await threads.answer(request, list_services)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Check that the server runs")
    async def healthz() -> Health:
        return Health(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get(
        "/readyz",
        summary="Check that the server can answer",
        response_model=Readiness,
        responses=openapi.COMMON_REFUSALS,
    )
    async def readyz(request: Request) -> Response:
        def check(_: Call) -> Response:
            readiness, other_problems = threads.readiness_and_problems()
            unready = {state.service: str(state.problem) for state in readiness.unready}
            registry = None if readiness.registry_problem is None else readiness.registry_problem.code
            return _json_response(
                Readiness(status="ready", unready=unready or None, registry=registry, problems=other_problems or None)
            )

        return await threads.probe(request, check)

    @app.get(
        METRICS_PATH,
        summary="Get metrics in Prometheus' text format",
        response_class=Response,
        responses=openapi.METRICS_RESPONSES,
    )
    async def prometheus(request: Request) -> Response:
        def collect(_: Call) -> Response:
            current = telemetry()
            page = current.metrics_page() if current is not None else None
            if page is None:
                detail = "The server keeps no metrics. Install featurestore[metrics], and do not set server.metrics "
                raise problems.RefusedError(HTTPStatus.NOT_FOUND, f"{detail}to false.", "no-metrics")
            content, media_type = page
            return Response(content, headers={"content-type": media_type})

        return await threads.probe(request, collect)

    app.include_router(events.events_router(threads))
    app.include_router(feast.feast_router(threads))

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = openapi.document_of(app, {**events.schemas(), **feast.schemas()})
        return app.openapi_schema

    @app.get(docs.PATH, include_in_schema=False)
    async def docs_page(request: Request) -> Response:
        page = docs.docs_page(document(), str(request.base_url).rstrip("/"))
        return Response(page, media_type="text/html")

    app.openapi = document  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
    return app


def _problem_response(request: Request, error: Exception) -> Response:
    response, call_of(request.scope).code = problems.response_of(error)
    return response


def _json_response(model: BaseModel) -> Response:
    return Response(model.model_dump_json(exclude_none=True), media_type="application/json")


def _service_info(plan: Plan) -> ServiceInfo:
    return ServiceInfo(
        name=plan.name,
        fingerprint=plan.fingerprint,
        keys=_column_infos(plan.join_keys),
        request=_column_infos(plan.request),
        columns=[ColumnInfo(name=output.name, dtype=str(output.dtype)) for output in plan.outputs],
        views={
            use.alias: ViewInfo(name=use.view.name, fingerprint=use.view.fingerprint, refresh=str(use.view.refresh))
            for use in plan.uses
        },
    )


def _column_infos(columns: tuple[Column, ...]) -> list[ColumnInfo]:
    return [ColumnInfo(name=column.name, dtype=str(column.dtype)) for column in columns]
