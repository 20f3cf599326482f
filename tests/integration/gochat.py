"""GoChat's routes as its clients call them."""

import itertools
from typing import Any
from urllib.parse import urlencode

from .raw import Address, Response, ask, request

_phones = itertools.count(13_900_000_000)


def fresh_phone() -> str:
    """A phone number that nobody else in this run has."""
    return str(next(_phones))


def form(
    address: Address,
    path: str,
    fields: dict[str, Any],
    token: str | None = None,
    method: str = "POST",
) -> Response:
    """Ask a route; a list is a field that is given repeatedly."""
    headers = [] if token is None else [("token", token)]
    encoded = urlencode(fields, doseq=True)
    if method == "GET":
        return ask(address, request(f"{path}?{encoded}", headers=headers))
    headers.append(("Content-Type", "application/x-www-form-urlencoded"))
    return ask(
        address, request(path, method=method, headers=headers, body=encoded.encode())
    )


def code_and_message(response: Response) -> tuple[int, str]:
    """Code and text of an answer without data, whose status is 200."""
    assert response.status == 200, response
    assert list(response.json) == ["code", "msg"], response.json
    return response.json["code"], response.json["msg"]


def register(
    address: Address, phone: str = "", password: str = "secret", **more: str
) -> tuple[str, str]:
    """A new account: its id and its token."""
    fields = {"phone_number": phone or fresh_phone(), "password": password, **more}
    answer = form(address, "/register", fields).json
    assert (answer["code"], answer["msg"]) == (200, "登录成功"), answer
    assert list(answer["data"]) == ["token", "id"]
    return answer["data"]["id"], answer["data"]["token"]
