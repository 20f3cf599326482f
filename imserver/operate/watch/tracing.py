"""Traces of OpenTelemetry: a span for each request or command, and for its
waits.

A *span* is the record of one call with its beginning and end; the spans of one
request form a trace. The SDK makes the spans, and sends them in a greenlet of
its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from random import random
from time import time_ns
from typing import Any, Final
from urllib.parse import urlsplit

import gevent

from imserver.plugin.errors import ReplyCode, ServiceRefused
from imserver.plugin.http import ApiProblem, Call, Route
from imserver.plugin.services import Core
from imserver.plugin.settings import ConfigError
from imserver.plugin.wire import Connection

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    from opentelemetry.trace import (
        Span,
        SpanKind,
        StatusCode,
        get_current_span,
        use_span,
    )
    from opentelemetry.trace import Tracer as SpanTracer
    from opentelemetry.trace.propagation.tracecontext import (
        TraceContextTextMapPropagator,
    )
except ImportError:
    raise ConfigError(
        "tracing.endpoint needs OpenTelemetry: pip install 'imserver[tracing]'"
    ) from None

AT_ONCE: Final = 100
"""The most spans in one request to the collector. More would block the loop
while they are encoded."""
STOP_SECONDS: Final = 2.0
_SEND_MS: Final = 1000
_SECOND_NS: Final = 1e9
_SERVER_ERROR: Final = 500
_BACK_ENDS: Final = frozenset({"key", "address", "signature", "demo"})
"""Kinds of principals whose requests may continue a trace of the caller."""
_W3C: Final = TraceContextTextMapPropagator()
_Send = Callable[..., tuple[int, bytes, Mapping[str, str]]]


class Tracer:
    """Makes spans, and sends them to a collector.

    ``endpoint`` is the URL at which the collector takes OTLP.
    """

    def __init__(self, core: Core, endpoint: str) -> None:
        """Hook into the database and into requests to other servers."""
        self._core = core
        self._endpoint = endpoint
        self.share = 0.0
        """The share of outgoing requests that get a trace of their own, because
        no call waits for them. May change."""
        storage = core.config.storage
        self._system = storage.url.partition(":")[0] or "sqlite"
        # Otherwise each failed attempt to send would write a line.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)
        timings = core.store.timings
        timings.heard = self._note_transaction
        outgoing = core.outgoing
        outgoing.request = self._with_span(outgoing.request)

    @cached_property
    def _provider(self) -> TracerProvider:
        """The sender of spans.

        It is made at the first span, because a node gets its name only when it
        begins to serve.
        """
        core = self._core
        attributes = {
            "service.name": "imserver",
            "service.version": core.node.version,
            "service.instance.id": core.node_name,
        }
        resource = Resource.create(attributes)
        provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        processor = BatchSpanProcessor(
            OTLPSpanExporter(self._endpoint),
            schedule_delay_millis=_SEND_MS,
            max_export_batch_size=AT_ONCE,
        )
        provider.add_span_processor(processor)
        return provider

    @cached_property
    def _tracer(self) -> SpanTracer:
        """The maker of spans of the SDK."""
        return self._provider.get_tracer("imserver")

    def begin(self, name: str, context: Context | None = None) -> Span:
        """Make the span of a call that begins.

        ``context`` has the span of its caller, under which the new span is.
        None means that the new span is under the span of this greenlet, if
        there is one. Never switches greenlets.
        """
        return self._tracer.start_span(name, context, SpanKind.SERVER)

    def within(self, span: Span) -> AbstractContextManager[Span]:
        """A context in which the waits of this greenlet belong to the span."""
        return use_span(span, record_exception=False, set_status_on_exception=False)

    def answer(
        self, route: Route, share: float, call: Call, run: Callable[[], Any]
    ) -> Any:
        """Answer a request by ``run``, and make a span for it.

        The header ``traceparent`` of a back end decides whether the request has
        a span. Without it, ``share`` of all requests have one. Switches
        greenlets, and raises the errors of ``run``.
        """
        has_span = random() < share
        context = _context_of(call)
        if context is not None:
            caller = get_current_span(context).get_span_context()
            if caller.is_valid:
                has_span = caller.trace_flags.sampled
        if not has_span:
            return run()

        span = self.begin(f"{route.method} {route.path}", context)
        status = _SERVER_ERROR
        try:
            with self.within(span):
                answer = run()
            status = route.status or answer.status
            return answer
        except Exception as error:
            status = _status_of(error, route)
            raise
        finally:
            _describe(span, route, call)
            self._end(span, status, is_wrong=status >= _SERVER_ERROR)

    def replied(self, span: Span, connection: Connection, code: int) -> None:
        """End the span of a command with the code of its reply.

        Never switches greenlets.
        """
        span.set_attribute("dialect", connection.encoding.dialect.name)
        span.set_attribute("reply.code", code)
        if code in (ReplyCode.SYSTEM, ReplyCode.NOT_STORED):
            span.set_status(StatusCode.ERROR)
        span.end()

    def _end(self, span: Span, status: int, is_wrong: bool) -> None:
        """End the span of an HTTP request.

        ``status`` is the status of the answer; 0 if there was no answer.
        """
        if status:
            span.set_attribute("http.response.status_code", status)
        if is_wrong:
            span.set_status(StatusCode.ERROR)
        span.end()

    def _note_transaction(self, name: str, seconds: float) -> None:
        """Make the span of a transaction that has just ended, if this greenlet
        has a span.

        ``seconds`` is how long the greenlet waited for it. ``name`` is the
        method that has made it.
        """
        if not get_current_span().is_recording():
            return
        end = time_ns()
        span = self._tracer.start_span(
            name,
            None,
            SpanKind.CLIENT,
            {"db.system.name": self._system, "db.operation.name": name},
            start_time=end - int(seconds * _SECOND_NS),
        )
        span.end(end)

    def _with_span(self, request: _Send) -> _Send:
        """Wrap the function that sends HTTP requests to other servers.

        The result does what ``request`` does, and makes a span if this greenlet
        has one, or by chance.
        """

        def send(
            method: str,
            url: str,
            body: bytes | None,
            headers: dict[str, str],
            answer_bytes: int,
        ) -> tuple[int, bytes, Mapping[str, str]]:
            """Send a request, and return status, body and headers."""
            if not get_current_span().is_recording() and random() >= self.share:
                return request(method, url, body, headers, answer_bytes)
            about = _attributes_of(method, url)
            span = self._tracer.start_span(method, None, SpanKind.CLIENT, about)
            status = 0
            try:
                with self.within(span):
                    _W3C.inject(headers)
                    answer = request(method, url, body, headers, answer_bytes)
                status, _, _ = answer
                return answer
            finally:
                self._end(span, status, is_wrong=not 200 <= status < 400)

        return send

    def stop(self) -> None:
        """Send the last spans, for at most two seconds. Switches greenlets."""
        with suppress(gevent.Timeout), gevent.Timeout(STOP_SECONDS):
            self._provider.shutdown()


def _describe(span: Span, route: Route, call: Call) -> None:
    """Set the attributes of the span of a request."""
    span.set_attribute("http.request.method", route.method)
    span.set_attribute("http.route", route.path)
    span.set_attribute("request.id", call.request.id)


def _attributes_of(method: str, url: str) -> dict[str, str]:
    """The attributes of the span of a request to another server.

    The path is left out, because it may have a token.
    """
    return {
        "http.request.method": method,
        "server.address": urlsplit(url).hostname or "",
    }


def _context_of(call: Call) -> Context | None:
    """The trace that a back end names in the header ``traceparent``.

    None if there is no such header. The header of a user does not count,
    because users must not choose which requests are traced.
    """
    headers = call.request.headers
    if "traceparent" in headers and call.principal.kind in _BACK_ENDS:
        return _W3C.extract(headers, Context())
    return None


def _status_of(error: Exception, route: Route) -> int:
    """The HTTP status with which a route answers after an error."""
    refusal = route.refusals.get(type(error))
    if refusal is None:
        problem = error
    else:
        problem = refusal(error)
    if isinstance(problem, ApiProblem | ServiceRefused):
        return problem.problem.status
    return _SERVER_ERROR
