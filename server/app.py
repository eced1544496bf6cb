"""The server's ASGI application: the hot route in front, FastAPI behind it."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from copy import deepcopy
from http import HTTPStatus
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Receive, Scope, Send

from featurestore.config import CONFIG_VARIABLE, FILE_NAME, ServerConfig
from featurestore.core.errors import FeatureStoreError
from featurestore.plan.model import Column, Plan
from featurestore.server import docs, events, feast, metrics, problems
from featurestore.server.auth import Doorkeeper, needed_scope
from featurestore.server.bodies import giving, read_body
from featurestore.server.calls import REQUEST_ID, Call, Header, call_of
from featurestore.server.deadlines import HEADER as DEADLINE_HEADER
from featurestore.server.desk import Desk
from featurestore.server.features import PATH, FeaturesRoute
from featurestore.server.forms import ARROW_STREAM
from featurestore.server.messages import schemas
from featurestore.server.probing import PROBE_SECONDS
from featurestore.server.watching import Watch
from featurestore.store import FeatureStore

_LOGGER = logging.getLogger("featurestore.server")
_RETRY_SECONDS = 1.0
_ALWAYS = frozenset({"/healthz", "/readyz", "/health", metrics.PATH})
_DESCRIPTION = "Feature values for models, computed by the same plan and the same kernels as their training sets."


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
    """A feature service: what to ask with, what comes back."""

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
    """How the server is."""

    status: str


class Readiness(BaseModel):
    """Whether the server can answer what it answered before."""

    status: str
    unready: dict[str, str] | None = Field(None, description="Services that were never answered yet, and why.")
    registry: str | None = Field(
        None, description="Code of why the registry cannot be asked: plans that are known answer on."
    )
    problems: list[str] | None = Field(None, description="What is wrong, though every service can be answered.")


class DirectReply(Protocol):
    """Takes the answer to one request that ASGI was not asked about."""

    def send(self, headers: Sequence[Header], content: bytes) -> bool:
        """Send an answer with status 200; ``False`` if the caller has gone away."""
        ...

    def give_up(self) -> None:
        """Have ASGI answer."""
        ...


class Application:
    """The server: an ASGI application."""

    def __init__(self, store: FeatureStore | None = None, on_ready: Callable[[], None] = lambda: None) -> None:
        """Take the parts.

        Args:
            store: What answers. It stays the caller's to close. If there is none, it is opened from the configuration
                when the server starts, and closed when it stops.
            on_ready: Called when all is loaded that answering needs.
        """
        self._on_ready = on_ready
        self._given = store
        self._opened = store
        self._watch = Watch(store) if store is not None else None
        self._features = FeaturesRoute(lambda: self.store, lambda: self.limits)
        self._door = Doorkeeper(lambda: self.store.api_keys, lambda: self.store.clock, self._is_route)
        self._desk = Desk(lambda: self.store)
        self._under_way = 0
        self._behind = _behind(self)

    @property
    def store(self) -> FeatureStore:
        """What answers; there is none before the server has started."""
        if self._opened is None:
            raise problems.not_started()
        return self._opened

    @property
    def watch(self) -> Watch | None:
        """What looks on; nothing does before the server has started."""
        return self._watch

    @property
    def desk(self) -> Desk:
        """Where everything but the hot route is answered."""
        return self._desk

    @property
    def limits(self) -> ServerConfig:
        """What the server takes."""
        return self.store.config.server

    def drain(self) -> None:
        """Be not ready from now on: the server is about to end."""
        self._desk.is_draining = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's life."""
        if scope["type"] != "http":
            await self._behind(scope, receive, send)
            return
        call = call_of(scope)
        REQUEST_ID.set(call.request_id)
        sending = call.sending(send)
        try:
            limits = self.limits
            if limits.auth == "keys":
                await self._door.check(call)
            is_push = call.path != PATH and events.takes(call.path)
            most = limits.max_push if is_push else limits.max_body
            body = await read_body(call, receive, most=most, seconds=limits.deadline_seconds)
            if body is not None:
                await self._answer(call, body, scope, receive, sending, limits)
        except (FeatureStoreError, problems.RefusedError) as error:
            if call.status:
                raise
            call.code = await problems.refuse(sending, error)
        finally:
            call.end(scope)
            if self._watch is not None:
                self._watch.note(call)

    def _is_route(self, path: str) -> bool:
        """Tell whether there is something at a path."""
        asked = {"type": "http", "method": "GET", "path": path, "root_path": "", "headers": []}
        return path == PATH or any(route.matches(asked)[0] is not Match.NONE for route in self._behind.routes)

    def answer_directly(self, scope: Scope, body: bytes | bytearray, reply: DirectReply) -> bool:
        """Answer a request that has come as a whole, without being called as ASGI, if it is as most are.

        That is a question for features that can be answered in the event loop. All others, those that are to be
        refused, and those that come to nothing are left to ASGI.

        Args:
            scope: The request, as ASGI describes it.
            body: Its body.
            reply: Takes the answer.

        Returns:
            Whether the reply will be told. If not, nothing has been done, and ASGI is to be asked.
        """
        if self._opened is None:
            return False
        limits, call = self.limits, call_of(scope)
        if call.path != PATH or len(body) > limits.max_body or b"content-encoding" in call.headers:
            return False
        if self._under_way >= limits.max_requests or (limits.auth == "keys" and not self._door.knows(call)):
            return False

        def tell(headers: Sequence[Header], content: bytes) -> None:
            self._under_way -= 1
            if reply.send(call.named(headers), content):
                call.status, call.sent = HTTPStatus.OK.value, len(content)
            call.end(scope)
            if self._watch is not None:
                self._watch.note(call)

        def give_up() -> None:
            self._under_way -= 1
            reply.give_up()

        self._under_way += 1
        is_taken = self._features.answer_directly(call, bytes(body), tell, give_up)
        if not is_taken:
            self._under_way -= 1
        return is_taken

    async def _answer(
        self, call: Call, body: bytes, scope: Scope, receive: Receive, send: Send, limits: ServerConfig
    ) -> None:
        """Answer a request that has come as a whole: one that is still on its way keeps nobody out.

        Raises:
            RefusedError: Too many are under way (503).
        """
        if self._under_way >= limits.max_requests and call.path not in _ALWAYS:
            detail = f"There are {limits.max_requests} requests under way. Ask again in a moment."
            raise problems.RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, detail, "too-many-requests")
        self._under_way += 1
        try:
            if call.path == PATH:
                await self._features(call, body, send)
            else:
                await self._behind(scope, giving(body, receive), send)
        finally:
            self._under_way -= 1

    @asynccontextmanager
    async def life(self, _: FastAPI) -> AsyncIterator[None]:
        """Open the store and make it ready; in the end write what waits to be written, and close it."""
        if self._given is None:
            self._opened = await asyncio.to_thread(FeatureStore.open, os.environ.get(CONFIG_VARIABLE, FILE_NAME))
        try:
            await asyncio.to_thread(self._warm)
            following = asyncio.create_task(self._follow())
            watch = self._watch = self._watch or Watch(self.store)
            noting = asyncio.create_task(watch.run())
            self._on_ready()
            try:
                yield
            finally:
                noting.cancel()
                following.cancel()
                watch.close()
        finally:
            if self._given is None and self._opened is not None:
                await asyncio.to_thread(self._opened.close)
                self._opened = None

    def _warm(self) -> None:
        """Load what answering needs, so that the first caller does not wait for it."""
        found = self.store.readiness()
        for service in found.unready:
            _LOGGER.warning("service '%s' cannot be answered yet: %s", service.service, service.problem)
        if found.registry_problem is not None:
            _LOGGER.warning("the registry cannot be asked: %s", found.registry_problem)

    async def _follow(self) -> None:
        """Begin to follow pushed events as soon as the registry and the event log can be opened."""
        while True:
            try:
                return await asyncio.to_thread(self.store.start_following)
            except FeatureStoreError:
                await asyncio.sleep(_RETRY_SECONDS)


def create_app(store: FeatureStore | None = None, *, on_ready: Callable[[], None] = lambda: None) -> Application:
    """Return the server's application.

    Args:
        store: What answers; if there is none it is opened from the file that ``FEATURESTORE_CONFIG`` names, or
            ``featurestore.toml``, when the server starts.
        on_ready: Called when all is loaded that answering needs.
    """
    return Application(store, on_ready)


def _behind(application: Application) -> FastAPI:
    """Return everything but the hot route."""
    app = FastAPI(
        title="featurestore",
        version="1",
        description=_DESCRIPTION,
        lifespan=application.life,
        docs_url=None,  # FastAPI's own pages load scripts from elsewhere
        redoc_url=None,
    )
    desk = application.desk
    for kind in (Exception, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _problem)

    @app.get("/v1/services", summary="List feature services", response_model=Services, responses=_PROBLEMS)
    async def services(request: Request) -> Response:
        def listed(_: Call) -> Response:
            return _document(Services(services=[_info(plan) for plan in desk.store.live_services()]))

        return await desk.answer(request, listed)

    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Tell whether the server runs")
    async def healthz() -> Health:
        return Health(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Tell whether the server can answer", response_model=Readiness, responses=_PROBLEMS)
    async def readyz(request: Request) -> Response:
        def checked(_: Call) -> Response:
            # Both looks begin at once: together they may take no longer than a probe waits.
            deadline = time.perf_counter() + PROBE_SECONDS
            looking = desk.begin_problems()
            found = desk.readiness()
            unready = {one.service: str(one.problem) for one in found.unready}
            registry = None if found.registry_problem is None else found.registry_problem.code
            problems = desk.problems(looking, deadline)
            return _document(
                Readiness(status="ready", unready=unready or None, registry=registry, problems=problems or None)
            )

        return await desk.probe(request, checked)

    @app.get(
        metrics.PATH,
        summary="Tell Prometheus how the server is",
        response_class=Response,
        responses={**_NO_METRICS, 200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    async def prometheus(request: Request) -> Response:
        def told(_: Call) -> Response:
            page = application.watch.page() if application.watch is not None else None
            if page is None:
                detail = "No metrics are kept. Install featurestore[metrics], and do not turn server.metrics off."
                raise problems.RefusedError(HTTPStatus.NOT_FOUND, detail, "no-metrics")
            return Response(page[0], headers={"content-type": page[1]})

        return await desk.probe(request, told)

    for part in (events, feast):
        app.include_router(part.routes(desk))

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _documented(app)
        return app.openapi_schema

    @app.get(docs.PATH, include_in_schema=False)
    async def described(request: Request) -> Response:
        page = docs.docs_page(openapi(), str(request.base_url).rstrip("/"))
        return Response(page, media_type="text/html")

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema
    return app


def _problem(request: Request, error: Exception) -> Response:
    response, call_of(request.scope).code = problems.response_of(error)
    return response


def _document(model: BaseModel) -> Response:
    return Response(model.model_dump_json(exclude_none=True), media_type="application/json")


def _info(plan: Plan) -> ServiceInfo:
    return ServiceInfo(
        name=plan.name,
        fingerprint=plan.fingerprint,
        keys=_columns(plan.join_keys),
        request=_columns(plan.request),
        columns=[ColumnInfo(name=output.name, dtype=str(output.dtype)) for output in plan.outputs],
        views={
            use.alias: ViewInfo(name=use.view.name, fingerprint=use.view.fingerprint, refresh=str(use.view.refresh))
            for use in plan.uses
        },
    )


def _columns(columns: tuple[Column, ...]) -> list[ColumnInfo]:
    return [ColumnInfo(name=column.name, dtype=str(column.dtype)) for column in columns]


def _schema(name: str) -> dict[str, Any]:
    return {"schema": {"$ref": f"#/components/schemas/{name}"}}


def _content(name: str, media_type: str = "application/json") -> dict[str, Any]:
    return {"content": {media_type: _schema(name)}}


def _refused(*statuses: tuple[int, str]) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"description": description, **_content("Problem", problems.MEDIA_TYPE)}
        for status, description in statuses
    }


_EXAMPLES: dict[str, Any] = {
    "examples": {
        "now": {
            "summary": "Two entities, at this instant",
            "value": {"service": "delay_model", "entities": [{"carrier": "UA"}, {"carrier": "DL"}]},
        },
        "then": {
            "summary": "At an instant of the past, by the plan the model was trained on, with a request input",
            "value": {
                "service": "delay_model",
                "entities": [{"carrier": "UA"}],
                "request": {"dep_delay": 12.5},
                "as_of": "2013-12-01T12:00:00Z",
                "expected_fingerprint": "5e0c6a3f0b6d4f0c9a7e2d1b8c4f6a1e5e0c6a3f0b6d4f0c9a7e2d1b8c4f6a1e",
            },
        },
    }
}
_PROBLEMS = _refused(
    (422, "A header is wrong."),
    (503, "The registry or the online store cannot answer."),
    (504, "There was no answer in time."),
)
_NO_METRICS = _refused((404, "No metrics are kept."), (504, "There was no answer in time."))
_FEATURES: dict[str, Any] = {
    "summary": "Get the features of some entities",
    "operationId": "get_features",
    "parameters": [
        {
            "name": DEADLINE_HEADER,
            "in": "header",
            "description": "Refuse with 504 if there is no answer so many milliseconds after the request came.",
            "schema": {"type": "integer", "minimum": 0, "maximum": 999_999_999_999},
        },
        {
            "name": "x-request-id",
            "in": "header",
            "description": "Name of the request in the answer and all logs; made up if left out, or no plain word.",
            "schema": {"type": "string"},
        },
    ],
    "requestBody": {"required": True, "content": {"application/json": _EXAMPLES | _schema("Question")}},
    "responses": {
        "200": {
            "description": "One row per entity, in the order asked. As Arrow: the features in their dtypes, status__… "
            "per feature, event_time__… per view, and the rest of a reply as JSON in the schema's metadata.",
            "content": {
                "application/json": _schema("Reply"),
                ARROW_STREAM: {"schema": {"type": "string", "format": "binary"}},
            },
        },
        **{
            str(status): refusal
            for status, refusal in _refused(
                (400, "The body is not JSON."),
                (404, "There is no such service."),
                (408, "The body did not come in time."),
                (406, "The answer cannot be given in a form that is accepted."),
                (409, "The live plan has another fingerprint than the expected one."),
                (413, "The body, the list of entities or the answer is too large."),
                (415, "The body is not application/json."),
                (431, "The request line and the headers are too large."),
                (422, "A field is missing, unknown or of a wrong type."),
                (503, "The registry or the online store cannot answer, or too many requests are under way."),
                (504, "There was no answer in time."),
            ).items()
        },
    },
}


def _documented(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, the hot route included."""
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    document["paths"][PATH] = {"post": deepcopy(_FEATURES)}
    _drop_fastapis_own_refusals(document)
    _secure(document)
    own = schemas() | events.schemas() | feast.schemas()
    document.setdefault("components", {}).setdefault("schemas", {}).update(own)
    return document


def _drop_fastapis_own_refusals(document: dict[str, Any]) -> None:
    """Take out what FastAPI says of its own refusals: ours have another form."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for refusal in operation["responses"].values():
                own = refusal.get("content", {})
                if own.get("application/json", {}).get("schema", {}).get("$ref", "").endswith("/HTTPValidationError"):
                    del own["application/json"]
    for name in ("HTTPValidationError", "ValidationError"):
        document.get("components", {}).get("schemas", {}).pop(name, None)


def _secure(document: dict[str, Any]) -> None:
    """Say which routes need a key, and which scope it must have."""
    document.setdefault("components", {})["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "An API key; 'featurestore keys create' makes one."}
    }
    for path, operations in document["paths"].items():
        scope = needed_scope(path)
        for operation in operations.values() if scope is not None else ():
            operation["security"] = [{"key": []}]
            refusals = ((401, "There is no key, or one that does not hold."), (403, f"The key lacks scope '{scope}'."))
            operation["responses"].update({str(status): refusal for status, refusal in _refused(*refusals).items()})
