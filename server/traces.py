"""OpenTelemetry spans of requests, if configured.

Spans go to the tracer provider of the process: the one of ``opentelemetry-instrument``, or the one that the caller of
``create_app`` has set. The parent of a span is the caller's ``traceparent``.
"""

from __future__ import annotations

from http import HTTPStatus
from importlib.util import find_spec

from featurestore.core.errors import ConfigError
from featurestore.server.calls import Call


class Traces:
    """Creates a span of every request, once it has been answered."""

    def __init__(self) -> None:
        """Get the tracer of the process.

        Raises:
            ConfigError: ``opentelemetry-api`` is not installed.
        """
        if find_spec("opentelemetry") is None:
            raise ConfigError(
                "traces need the package opentelemetry-api",
                where="server.traces",
                hint="Install featurestore[traces], or leave server.traces out.",
                code="missing-extra",
            )
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = trace.get_tracer("featurestore.server")
        self._propagator = TraceContextTextMapPropagator()

    def record(self, call: Call, *, ended_us: int) -> None:
        """Create the span of a request that ended at an instant."""
        from opentelemetry.trace import SpanKind, Status, StatusCode

        carrier = {
            name: call.headers[name.encode()].decode("latin-1")
            for name in ("traceparent", "tracestate")
            if name.encode() in call.headers
        }
        span = self._tracer.start_span(
            f"{call.method} {call.route}",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=(ended_us - round(call.seconds * 1_000_000)) * 1_000,
            attributes={
                "http.request.method": call.method,
                "http.route": call.route,
                "http.response.status_code": call.status,
                "featurestore.request_id": call.request_id,
            },
        )
        if (answer := call.answer) is not None:
            span.set_attributes(
                {
                    "featurestore.service": answer.service,
                    "featurestore.fingerprint": answer.fingerprint,
                    "featurestore.entities": len(answer.rows),
                    "featurestore.store_read_seconds": answer.effort.read_seconds,
                    "featurestore.compute_seconds": answer.effort.compute_seconds,
                }
            )
        if call.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            span.set_status(Status(StatusCode.ERROR, call.code))
        span.end(end_time=ended_us * 1_000)
