"""The Flask application: pages and HTTP API, JSON errors, request ids, the
request log.

Errors outside the API routes get a fitting status and the body
``{"code","message","temporary","request_id"}``; browsers get a page. Tracebacks
are never sent: the log has them under the request id.
"""

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from imserver.gateway.errors import HttpProblem, Problems
from imserver.gateway.http.call import Api
from imserver.gateway.http.reply import CMD, PROBLEM, Style
from imserver.gateway.http.views import (
    as_request,
    create_api,
    create_stream_view,
    to_response,
)
from imserver.gateway.logging import request_id
from imserver.gateway.metrics import OTHER
from imserver.gateway.model import Service
from imserver.gateway.node.http_servers import LISTENER_KEY, Servers
from imserver.gateway.transport.http1 import pattern_of, route_of

log = logging.getLogger(__name__)

_UPGRADE_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
"""The methods of requests that a WebSocket path refuses."""
_PROBLEMS = {
    problem.status: problem
    for problem in (
        Problems.BAD_REQUEST,
        Problems.UNAUTHORIZED,
        Problems.NOT_FOUND,
        Problems.METHOD_NOT_ALLOWED,
        Problems.TIMEOUT,
        Problems.BODY_TOO_LARGE,
        Problems.URI_TOO_LONG,
        Problems.TOO_MANY_REQUESTS,
        Problems.HEADERS_TOO_LARGE,
        Problems.INTERNAL_ERROR,
        Problems.NOT_IMPLEMENTED,
        Problems.NOT_READY,
    )
}
"""HTTP status of an error that Flask or werkzeug found → the problem with which
the server answers."""


def create_app(servers: Servers) -> Flask:
    """Make the WSGI application of a node.

    On the WSGI server it serves all requests. On the front server it serves the
    requests that the front server does not answer by itself.
    """
    app = Flask("imserver", static_folder=None, template_folder=None)
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.url_map.merge_slashes = False  # a path with another spelling is another path
    app.wsgi_app = _Target(app.wsgi_app, servers.core.config.root)  # type: ignore[method-assign]

    api = servers.api
    requests = _Requests(api, servers)
    requests.add_to(app)

    app.register_blueprint(create_api(api))
    body_bytes = api.limits.public_body_bytes
    app.register_blueprint(create_stream_view(servers.streams, body_bytes))
    _register_views(app, servers)
    _refuse_at_websocket_paths(app, servers.websocket_paths)
    return app


def _register_views(app: Flask, servers: Servers) -> None:
    """Add the views of all features: pages, and routes that only Flask answers."""
    for feature in servers.features:
        if feature.views is None:
            continue
        # False means that no process is forked afterwards. So the first
        # requests load the modules that they need.
        make_views = feature.views(False)
        for blueprint in make_views(servers.core, servers.api):
            app.register_blueprint(blueprint)


def _refuse_at_websocket_paths(app: Flask, paths: Iterable[str]) -> None:
    """Answer requests to WebSocket paths that are not WebSocket handshakes.

    Without these rules, Flask would answer 404. ``*`` in a path stands for any
    segment.
    """
    for path in sorted(paths):
        app.add_url_rule(
            path.replace("*", "<segment>"),
            endpoint=f"upgrade_only_{path.strip('/')}",
            view_func=_refuse_request,
            methods=_UPGRADE_METHODS,
            provide_automatic_options=False,
        )


def _refuse_request(segment: str = "") -> Response:
    """Answer a request to a WebSocket path that is not a WebSocket handshake.

    Flask passes the ``segment`` of the path, if it has one.
    """
    return _to_problem(Problems.NOT_AN_UPGRADE)


class _Target(Service):
    """Prepares the paths of requests for Flask.

    This class accepts an absolute request target, such as ``GET
    http://host/path`` (RFC 9112 section 3.2.2). It also tells Flask the path
    ``root`` that a proxy has removed, so that links begin with this path.
    """

    application: Callable[..., Iterable[bytes]]
    root: str

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Answer a request, as WSGI applications do."""
        target: str = environ["PATH_INFO"]
        if target.startswith(("http://", "https://")):
            _, _, address = target.partition("://")
            _, _, path = address.partition("/")
            environ["PATH_INFO"] = f"/{path}"
        # In WSGI, SCRIPT_NAME is the path that was removed.
        if self.root:
            environ["SCRIPT_NAME"] = self.root
        return self.application(environ, start_response)


class _Requests:
    """Sets the id and the peer of each request, logs the request, and answers
    errors."""

    def __init__(self, api: Api, servers: Servers) -> None:
        self._api = api
        self._websocket_paths = servers.websocket_paths
        self._log = servers.core.node.request_log
        self._proxies = servers.core.proxies

    def add_to(self, app: Flask) -> None:
        """Add these functions to a Flask application. They run for each
        request, whatever its route is."""
        app.before_request(self.begin)
        app.after_request(self.end)
        app.register_error_handler(HTTPException, self.answer_http_error)
        app.register_error_handler(Exception, _answer_unexpected)

    def begin(self) -> Response | None:
        """Set the id and the peer of a request.

        Returns the refusal of a request that this listener does not serve, or
        None if the listener serves the request.
        """
        g.started = time.perf_counter()
        # The limit is one byte more than the API accepts. werkzeug silently
        # cuts a chunked body at its limit, so the API must see one byte too
        # many to refuse the body.
        request.max_content_length = self._api.limits.body_bytes + 1
        forwarded = request.headers.get("X-Forwarded-For", "")
        g.host = self._proxies.client(request.remote_addr or "", forwarded)
        g.request_id = request_id(request.headers.get("X-Request-Id", ""))

        # The listener for WebSockets serves only the routes of dialects.
        if request.environ.get(LISTENER_KEY) != "websocket":
            return None
        return self._refuse_beside_dialects(request.path)

    def _refuse_beside_dialects(self, path: str) -> Response | None:
        """Return the refusal of a path on the listener for WebSockets.

        The result is None if a dialect has this path.
        """
        if self._api.style_of(path).everywhere:
            return None
        if self._websocket_paths.isdisjoint((path, pattern_of(path))):
            return _to_problem(Problems.NOT_FOUND)
        return None

    def end(self, response: Response) -> Response:
        """Log a request with its answer."""
        seconds = time.perf_counter() - g.started
        by = getattr(g.get("http_request"), "by", "")
        status = response.status_code
        size = response.content_length or 0
        # The log has the route, not the path, so that requests can be counted
        # by their route.
        route = route_of(self._api.endpoints, request.method, request.path)
        if not route and request.url_rule is not None:
            route = request.url_rule.rule
        self._log.add(
            request.method,
            request.path,
            status,
            seconds,
            g.host,
            size,
            g.request_id,
            by,
            route or OTHER,
        )
        return response

    def answer_http_error(self, error: Exception) -> Any:
        """Answer an error that Flask or werkzeug found, such as 404.

        The answer has an error body, or the style of the API.
        """
        assert isinstance(error, HTTPException)
        _drop_cycle(error)
        status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
        if status < 400:  # this is a redirect
            return error.get_response()

        problem = _PROBLEMS.get(status) or _refused(error, status)
        style = self._api.style_of(request.path)
        if style.everywhere and not _is_beside_route(style, status):
            return to_response(style.refuse(problem, as_request()))

        g.refusal = problem  # a view may answer with a page
        return _to_problem(problem, _allowed_methods(error, status))


def _drop_cycle(error: Exception) -> None:
    """Drop the traceback of an error, whose frames refer to the error again.

    Without this, errors make cycles for the garbage collector. When it found
    800 of these cycles, it blocked the loop for 70 ms.
    """
    error.__traceback__ = None
    error.__context__ = None


def _is_beside_route(style: Style, status: int) -> bool:
    """Whether a request of the cmd dialect found no route.

    That dialect has no form for an error outside its routes.
    """
    return style is CMD and status in (
        HTTPStatus.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED,
    )


def _refused(error: HTTPException, status: int) -> HttpProblem:
    """Return the problem for an HTTP error of Flask or werkzeug."""
    message = error.description or error.name
    return HttpProblem(status, "refused", message, temporary=False)


def _allowed_methods(error: HTTPException, status: int) -> dict[str, str]:
    """Return the header with the methods of a path, for the status 405."""
    if status != HTTPStatus.METHOD_NOT_ALLOWED:
        return {}
    allow = error.get_response().headers.get("Allow")
    if not allow:
        return {}
    return {"Allow": allow}


def _to_problem(
    problem: HttpProblem, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer with an error body."""
    response = to_response(PROBLEM.refuse(problem, as_request()))
    response.headers.update(headers or {})
    return response


def _answer_unexpected(error: Exception) -> Response:
    """Answer an unexpected exception.

    The log gets the traceback, and the client the request id.
    """
    extra = {"request": g.get("request_id")}
    log.error("%s %s failed", request.method, request.path, exc_info=error, extra=extra)
    return _to_problem(Problems.INTERNAL_ERROR)
