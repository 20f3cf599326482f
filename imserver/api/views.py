"""Flask's views of the API: one thin adapter for each row of the table of routes."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from flask import Blueprint, Response, g, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from imserver.api.call import Api
from imserver.api.reply import HEADER_LIST, Answer
from imserver.api.route import Route
from imserver.api.routes import ROUTES, admit, answer, body_limit, carry_out
from imserver.api.style import Style
from imserver.errors import HTTP_BAD_REQUEST
from imserver.transport.fast import FastRequest

STYLES: dict[str, Style] = {row.path: row.style for row in ROUTES}
"""How each path of the API refuses."""
ROUTED_PATHS = frozenset(path for path, style in STYLES.items() if style.everywhere)
"""Paths of the dialects: they answer on WebSocket listeners, too."""


def create_api(api: Api) -> Blueprint:
    """The blueprint that answers every route of the API, before Flask's own routing is asked.

    A hundred rules of werkzeug's would take a megabyte for what one look into a table does.
    """
    blueprint = Blueprint("api", __name__)
    views: dict[str, dict[str, _View]] = {}
    for route in ROUTES:
        views.setdefault(route.path, {})[route.method] = _View(api, route)
    blueprint.before_app_request(_Table(views))
    return blueprint


class _Table:
    """Answers a request whose path and method are in the table."""

    def __init__(self, views: Mapping[str, Mapping[str, _View]]) -> None:
        self._views = views

    def __call__(self) -> Response | None:
        rows = self._views.get(request.path)
        if rows is None:
            return None
        method = request.method
        view = rows.get("GET" if method == "HEAD" else method)
        if view is None and method == "OPTIONS":
            view = next(iter(rows.values()))
        if view is not None:
            return view()
        if request.url_rule is not None:  # another view has this method of the path
            return None
        others = getattr(request.routing_exception, "valid_methods", None) or ()
        heads = ("HEAD",) if "GET" in rows else ()
        raise MethodNotAllowed(sorted({*rows, *heads, *others, "OPTIONS"}))


def to_response(finished: Answer) -> Response:
    """A finished answer as Flask sends it, with the headers of the API."""
    # Given a number, werkzeug would write the reason in capitals.
    response = Response(finished.body, f"{finished.status} {HTTPStatus(finished.status).phrase}")
    response.headers.clear()
    response.headers.extend(HEADER_LIST)
    if finished.content_type:
        response.headers["Content-Type"] = finished.content_type
    response.headers.extend(finished.headers)
    response.content_length = len(finished.body)
    return response


def as_request(body: bytes = b"") -> FastRequest:
    """Flask's request as the API knows requests."""
    return FastRequest(
        request.method,
        request.path,
        request.query_string,
        body,
        {name.lower(): value for name, value in request.headers.items()},
        g.get("host", request.remote_addr or ""),
        given_id=g.get("request_id", ""),
    )


class _View:
    """The view of one row."""

    def __init__(self, api: Api, route: Route) -> None:
        self._api = api
        self._route = route

    def __call__(self) -> Response:
        route, asked = self._route, as_request()
        if request.method == "OPTIONS":
            return to_response(answer(self._api, route, asked))
        principal = admit(self._api, route, asked)
        if isinstance(principal, Answer):
            return to_response(principal)
        try:
            # One more, for werkzeug cuts a chunked body off at the limit without a word.
            request.max_content_length = body_limit(self._api, principal) + 1
            reads = route.raw or request.method != "GET"
            body = request.get_data(cache=False, parse_form_data=False) if reads else b""
        except (HTTPException, OSError, ValueError):  # over the limit, broken off, or broken chunks
            return to_response(route.style.refuse(HTTP_BAD_REQUEST, asked))
        return to_response(carry_out(self._api, route, as_request(body), principal))
