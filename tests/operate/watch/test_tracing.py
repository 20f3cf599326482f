"""Traces of requests and commands: a collector is sent them, and back ends are
named them."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.integration.cmd import logged_in
from tests.integration.raw import ask, bearer, request
from tests.integration.receiver import Receiver
from tests.integration.v1 import good, refused
from tests.support import Server, eventually, run_python

pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
trace_service = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2"
)
sdk = pytest.importorskip("opentelemetry.sdk.trace")
trace = pytest.importorskip("opentelemetry.trace")
propagation = pytest.importorskip("opentelemetry.trace.propagation.tracecontext")
W3C = propagation.TraceContextTextMapPropagator()

KEY = "an-admin-key-of-the-tests-of-traces"
MESSAGE = (
    b'{"app":"shop","user":"ann","sender":"bob","text":"a secret text","store":true}'
)


def spans_of(collector: Receiver) -> list[Any]:
    """What the collector was sent, as the official classes of OTLP read it."""
    found = []
    for post in tuple(collector.posts):
        body = (
            gzip.decompress(post.body)
            if post.headers.get("content-encoding") == "gzip"
            else post.body
        )
        for resource in trace_service.ExportTraceServiceRequest.FromString(
            body
        ).resource_spans:
            facts = {
                each.key: each.value.string_value
                for each in resource.resource.attributes
            }
            assert facts["service.name"] == "imserver"
            assert facts["service.instance.id"]
            found += [span for scope in resource.scope_spans for span in scope.spans]
    return found


def facts_of(span: Any) -> dict[str, Any]:
    """The attributes of a span."""
    return {
        each.key: each.value.string_value or each.value.int_value
        for each in span.attributes
    }


def settings_of(collector: Receiver, **more: Any) -> dict[str, Any]:
    api = {"keys": [{"key": KEY, "scopes": ["admin"]}]}
    return {"api": api, "tracing": {"endpoint": f"{collector.url}/v1/traces", **more}}


@pytest.fixture(scope="module")
def collector() -> Iterator[Receiver]:
    with Receiver() as collector:
        yield collector


@pytest.fixture(scope="module")
def back_end() -> Iterator[Receiver]:
    with Receiver() as back_end:
        yield back_end


@pytest.fixture(scope="module")
def server(
    start_shared_server: StartServer, collector: Receiver, back_end: Receiver
) -> Server:
    apps = {
        "shop": {"webhook": back_end.settings, "open": True},
        "other": {"open": True},
    }
    apps["asks"] = {"webhook": back_end.authorising}
    return start_shared_server(config={**settings_of(collector), "apps": apps})


CALLER = sdk.TracerProvider(shutdown_on_exit=False).get_tracer("a back end")
OF_CALLER = {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "vendor=1",
}


def post(
    server: Server, route: str, body: bytes, key: str = KEY, flags: str = "01"
) -> tuple[Any, Any]:
    """Ask as a span of the SDK does: the answer, and the context of that
    span."""
    headers: dict[str, str] = {}
    of_caller = {**OF_CALLER, "traceparent": OF_CALLER["traceparent"][:-2] + flags}
    with trace.use_span(CALLER.start_span("caller", W3C.extract(of_caller))) as span:
        W3C.inject(headers)
    message = request(
        f"/api/v1/{route}", method="POST", body=body, headers=tuple(headers.items())
    )
    return ask(server.http, bearer(message, key)), span.get_span_context()


def test_a_trace_has_the_request_and_what_it_waits_for(
    server: Server, collector: Receiver, back_end: Receiver
) -> None:
    answered, of_push = post(server, "push", MESSAGE)
    assert answered.status == 200, answered
    tried, of_trial = post(server, "webhooks/test", b'{"app":"shop"}')
    assert tried.status == 200, tried
    eventually(
        lambda: len(spans_of(collector)) >= 4, what="requests, transaction and webhook"
    )
    spans = {span.name: span for span in spans_of(collector)}
    push = spans["POST /api/v1/push"]
    trial = spans["POST /api/v1/webhooks/test"]
    for served, caller in ((push, of_push), (trial, of_trial)):
        parent = int.from_bytes(served.trace_id), int.from_bytes(served.parent_span_id)
        assert (*parent, served.kind) == (caller.trace_id, caller.span_id, 2)
        assert served.trace_state == "vendor=1"
    facts = facts_of(push)
    assert (facts["http.route"], facts["http.response.status_code"]) == (
        "/api/v1/push",
        200,
    )
    assert facts["request.id"] == answered.header("X-Request-Id")
    for name, served in (("MessageLog.append", push), ("POST", trial)):
        span = spans[name]
        assert (span.trace_id, span.parent_span_id, span.kind) == (
            served.trace_id,
            served.span_id,
            3,
        ), name
        assert served.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= served.end_time_unix_nano
    assert facts_of(spans["POST"])["server.address"] == "127.0.0.1"
    (received,) = [each for each in back_end.posts if "traceparent" in each.headers]
    goes_on = CALLER.start_span("back end", W3C.extract({**received.headers}))
    assert goes_on.parent.span_id == int.from_bytes(spans["POST"].span_id)
    assert (goes_on.context.trace_id, goes_on.context.trace_flags) == (
        of_trial.trace_id,
        1,
    )
    assert goes_on.context.trace_state.get("vendor") == "1"
    sent = b"".join(each.body for each in collector.posts)
    assert b"secret" not in sent
    assert KEY.encode() not in sent


def test_whose_caller_keeps_no_trace_and_who_has_no_key_has_none(
    server: Server, collector: Receiver
) -> None:
    collector.forget()
    assert post(server, "push", MESSAGE, key="no-key")[0].status == 401
    assert post(server, "push", MESSAGE, flags="00")[0].status == 200
    assert good(server.http, "apps", key=KEY)
    assert post(server, "webhooks/test", b'{"app":"other"}')[0].status == 400
    eventually(lambda: spans_of(collector), what="the last one, which was refused")
    (span,) = spans_of(collector)
    assert facts_of(span)["http.response.status_code"] == 400


def test_a_route_and_a_command_are_traced_for_a_while(
    server: Server, collector: Receiver
) -> None:
    for name, own in (("/api/v1/presence", "GET /api/v1/presence"), ("Login", "Login")):
        collector.forget()
        good(server.http, "nodes/log", {"name": name, "trace": 1}, key=KEY)
        good(server.http, "presence", key=KEY, app="shop", user="ann")
        good(server.http, "apps", key=KEY)
        with logged_in(server.ws, "ann", "shop"):
            eventually(lambda: spans_of(collector), what=own)
        assert {
            span.name for span in spans_of(collector) if not span.parent_span_id
        } == {own}
    assert facts_of(spans_of(collector)[-1])["reply.code"] == 200


def test_a_webhook_that_is_delivered_later_has_a_trace_of_its_own(
    server: Server, collector: Receiver, back_end: Receiver
) -> None:
    collector.forget()
    back_end.forget()
    good(server.http, "nodes/log", {"trace": 1}, key=KEY)
    assert post(server, "push", MESSAGE)[0].status == 200
    deliveries = eventually(
        lambda: [span for span in spans_of(collector) if span.name == "POST"],
        what="the delivery",
    )
    assert not deliveries[0].parent_span_id
    sent = [
        each.headers.get("traceparent", "").rpartition("-")[0]
        for each in back_end.posts
    ]
    assert f"00-{deliveries[0].trace_id.hex()}-{deliveries[0].span_id.hex()}" in sent
    good(server.http, "nodes/log", {"seconds": 0}, key=KEY)


def test_a_back_end_that_decides_about_a_login_is_named_its_trace(
    server: Server, collector: Receiver, back_end: Receiver
) -> None:
    collector.forget()
    back_end.forget()
    back_end.reply = lambda _: (200, b'{"allow":true}')
    good(server.http, "nodes/log", {"name": "Login", "trace": 1}, key=KEY)
    with logged_in(server.ws, "ann", "asks"):
        eventually(
            lambda: {"Login", "POST"} <= {span.name for span in spans_of(collector)},
            what="both spans",
        )
    login = next(span for span in spans_of(collector) if span.name == "Login")
    (question,) = [
        span for span in spans_of(collector) if span.parent_span_id == login.span_id
    ]
    (post,) = [post for post in back_end.posts if post.path == "/authorise"]
    parent = CALLER.start_span("back end", W3C.extract({**post.headers})).parent
    assert parent.span_id == int.from_bytes(question.span_id)
    good(server.http, "nodes/log", {"seconds": 0}, key=KEY)


def test_a_collector_that_is_away_costs_nothing_but_its_spans(
    start_server: StartServer,
) -> None:
    with Receiver() as collector:
        collector.reply = lambda _: (400, b"")
        one = start_server(config=settings_of(collector, share=1))
        for _ in range(3):
            good(one.http, "apps", key=KEY)
        eventually(lambda: "opentelemetry" in one.log_text, what="the log says so")


def test_there_are_no_traces_without_a_collector(start_server: StartServer) -> None:
    assert refused(start_server().http, "nodes/log", {"trace": 1})[0] == 400


def test_a_node_without_the_extra_says_what_to_install() -> None:
    code = """
import sys
sys.modules["opentelemetry.sdk.trace"] = None
try:
    import imserver.operate.watch.tracing
except Exception as error:
    print(error)
"""
    assert "pip install 'imserver[tracing]'" in run_python(code)
