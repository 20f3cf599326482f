"""``/api/v1`` as a back end calls it, and what its answers must be."""

import json
from typing import Any
from urllib.parse import urlencode

from .raw import Address, Response, ask, bearer, request

PREFIX = "/api/v1/"
KEYS = {
    "keys": [
        {"key": "admin-key-of-the-tests", "scopes": ["admin"]},
        {"key": "push-key-of-the-tests", "scopes": ["push"]},
    ]
}
"""The section ``api`` of a server with keys."""


def call(
    address: Address, route: str, body: Any = None, *, key: str = "", **query: Any
) -> Response:
    """GET a route with a query, or POST ``body`` to it."""
    path = f"{PREFIX}{route}?{urlencode(query)}" if query else PREFIX + route
    if body is None:
        return ask(address, bearer(request(path), key))
    data = (
        body
        if isinstance(body, bytes)
        else json.dumps(body, ensure_ascii=False).encode()
    )
    return ask(address, bearer(request(path, method="POST", body=data), key))


def checked(response: Response) -> Response:
    """An answer that has its id, and the shape of a problem unless it is a
    success."""
    assert response.header("X-Request-Id")
    if response.status not in (200, 201):
        assert response.status >= 400, response
        problem = response.json
        assert list(problem) == ["code", "message", "temporary", "request_id"]
        assert response.header("X-Request-Id") == problem["request_id"]
        assert response.header("WWW-Authenticate") == (
            "Bearer" if response.status == 401 else None
        )
    return response


def good(
    address: Address, route: str, body: Any = None, *, key: str = "", **query: Any
) -> Any:
    """The body of an answer that must be a success."""
    response = checked(call(address, route, body, key=key, **query))
    assert response.status in (200, 201), response
    return response.json


def refused(
    address: Address, route: str, body: Any = None, *, key: str = "", **query: Any
) -> Any:
    """(status, code, message) of an answer that must be a problem, whose shape
    is checked."""
    response = checked(call(address, route, body, key=key, **query))
    assert response.status >= 400, response
    return response.status, response.json["code"], response.json["message"]


def sessions_of(address: Address, app: int, user: str) -> list[Any]:
    """The sessions of a user, as presence tells them."""
    found: list[Any] = good(address, "presence", app=app, user=user)["users"][0][
        "sessions"
    ]
    return found
