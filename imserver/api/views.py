"""Flask's views of the API: one thin adapter for each row of the table of routes."""

from __future__ import annotations

from flask import Blueprint, Response, abort, g, request
from werkzeug.exceptions import HTTPException

from imserver.api.call import Api
from imserver.api.reply import BAD_PARAMETER, HEADER_LIST, SYSTEM_ERROR, UNAUTHORIZED, Answer
from imserver.api.routes import ROUTES, Route, answer

ROUTED_PATHS = frozenset(row.path for row in ROUTES if not row.problems)
"""Paths in the original's style: they answer on both ports, and refuse with status 200 and a code."""
_STATUSES = {UNAUTHORIZED: 401, BAD_PARAMETER: 400, SYSTEM_ERROR: 500}
"""What refusals are where a route is not in that style."""


def create_api(api: Api) -> Blueprint:
    """The blueprint that answers every route of the API."""
    blueprint = Blueprint("api", __name__)
    for route in ROUTES:
        blueprint.add_url_rule(
            route.path,
            endpoint=route.path.strip("/").replace("/", "_"),
            view_func=_view(api, route),
            methods=[route.method, "OPTIONS"],
            provide_automatic_options=False,
        )
    return blueprint


def to_response(finished: Answer) -> Response:
    """A finished answer as Flask sends it, with the headers of the API."""
    response = Response(finished.body, finished.status)
    response.headers.clear()
    response.headers.extend(HEADER_LIST)
    if finished.content_type:
        response.headers["Content-Type"] = finished.content_type
    response.content_length = len(finished.body)
    return response


class _View:
    """The view of one row."""

    def __init__(self, api: Api, route: Route) -> None:
        self._api = api
        self._route = route

    def __call__(self) -> Response:
        try:
            body = request.get_data(cache=False, parse_form_data=False) if request.method == "POST" else b""
        except (HTTPException, OSError, ValueError):  # over the limit, broken off, or broken chunks
            return to_response(BAD_PARAMETER)
        finished = answer(
            self._api,
            self._route,
            request.method,
            request.query_string,
            request.content_type or "",
            body,
            request.headers.get("Authorization", ""),
            request.remote_addr or "",
            g.get("request_id", ""),
        )
        if self._route.problems and finished in _STATUSES:
            abort(_STATUSES[finished])
        return to_response(finished)


def _view(api: Api, route: Route) -> _View:
    return _View(api, route)
