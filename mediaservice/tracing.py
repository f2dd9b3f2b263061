"""OpenTelemetry, when OTEL_EXPORTER_OTLP_ENDPOINT is set; without it everything here does nothing.

One trace follows an upload: the request that completes it, the row and the job (`traceparent`), the
worker, the result. The only module that imports opentelemetry, whose packages are optional.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import structlog

from config.settings import BaseSettings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from sqlalchemy import Engine

UNTRACED_URLS = "healthz,readyz,metrics,static"

log = structlog.get_logger(__name__)
_provider: "TracerProvider | None" = None
_NO_SPAN = nullcontext()


def set_up_tracing(settings: BaseSettings, service_name: str) -> None:
    """Export this process's spans, if the settings ask for it and the packages are installed.

    The exporter reads the other standard variables itself (OTEL_EXPORTER_OTLP_HEADERS,
    OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES, OTEL_TRACES_SAMPLER, …).
    """
    if not settings.otel_exporter_otlp_endpoint:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        start_tracing(BatchSpanProcessor(OTLPSpanExporter()), service_name)
    except ImportError as error:
        log.warning("tracing_not_installed", reason=str(error))


def start_tracing(processor: "SpanProcessor", service_name: str) -> None:
    """Give every span of this process to `processor`."""
    global _provider  # noqa: PLW0603 - there is one per process, as of the process itself
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource
    from opentelemetry.sdk.trace import TracerProvider

    # What the environment says about this process goes before our name for it.
    resource = Resource.create({"service.name": service_name}).merge(
        OTELResourceDetector().detect()
    )
    _provider = TracerProvider(resource=resource)
    _provider.add_span_processor(processor)


def trace_web(app: Any, engine: "Engine") -> None:
    """Trace the requests of a Flask application and its statements."""
    if _provider is None:
        return
    from opentelemetry.instrumentation.flask import FlaskInstrumentor
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    FlaskInstrumentor().instrument_app(app, tracer_provider=_provider, excluded_urls=UNTRACED_URLS)
    # It names SQLAlchemy 2.0 as the newest it knows, and works with 2.1: a test holds that.
    SQLAlchemyInstrumentor().instrument(
        engine=engine, tracer_provider=_provider, skip_dep_check=True
    )


def stop_tracing() -> None:
    """Export what is left and trace no more."""
    global _provider  # noqa: PLW0603 - as above
    if _provider is None:
        return
    from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor

    instrumentor = SQLAlchemyInstrumentor()
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()
    _provider.shutdown()
    _provider = None


def current_traceparent() -> str | None:
    """Return the W3C `traceparent` of the span in hand, for whoever goes on from here."""
    if _provider is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier.get("traceparent")


def statement_span(sql: str) -> AbstractContextManager[Any]:
    """Return the context of one SQL statement that does not go through SQLAlchemy."""
    if not _is_part_of_a_trace():
        return _NO_SPAN
    return _call_span(sql.partition(" ")[0], {"db.system": "postgresql", "db.statement": sql})


def store_span(operation: str, bucket: str) -> AbstractContextManager[Any]:
    """Return the context of one call to the store, named as AWS names it: `S3.GetObject`."""
    if not _is_part_of_a_trace():
        return _NO_SPAN
    method = operation.title().replace("_", "")
    return _call_span(
        f"S3.{method}",
        {
            "rpc.system": "aws-api",
            "rpc.service": "S3",
            "rpc.method": method,
            "aws.s3.bucket": bucket,
        },
    )


def _is_part_of_a_trace() -> bool:
    """Return whether a call is to be traced: one by itself, as of polling, would be noise."""
    if _provider is None:
        return False
    from opentelemetry.trace import get_current_span

    return get_current_span().get_span_context().is_valid


def _call_span(name: str, attributes: dict[str, str]) -> AbstractContextManager[Any]:
    from opentelemetry.trace import SpanKind, get_tracer

    return get_tracer(__name__, tracer_provider=_provider).start_as_current_span(
        name, kind=SpanKind.CLIENT, attributes=attributes
    )


class MessageSpan:
    """The handling of one message, from `started_at_ns` (now) until `end`, in any threads.

    It continues the trace that the message came with.
    """

    def __init__(
        self,
        routing_key: str,
        *,
        traceparent: str | None,
        message_id: str | None,
        started_at_ns: int | None = None,
    ) -> None:
        self._span = None
        if _provider is None:
            return
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._span = _provider.get_tracer(__name__).start_span(
            routing_key,
            context=TraceContextTextMapPropagator().extract({"traceparent": traceparent or ""}),
            kind=SpanKind.CONSUMER,
            attributes={
                "messaging.system": "rabbitmq",
                "messaging.operation.type": "process",
                "messaging.rabbitmq.destination.routing_key": routing_key,
                "messaging.message.id": message_id or "",
            },
            start_time=started_at_ns,
        )

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make what happens in a block part of this span."""
        if self._span is None:
            yield
            return
        from opentelemetry.trace import use_span

        with use_span(self._span):
            yield

    def end(self) -> None:
        """Let the span end now."""
        if self._span is not None:
            self._span.end()
