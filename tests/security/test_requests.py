"""Attacks by requests: on files, on browsers that open what was stored, on ids
of pushes, on addresses."""

import json
import os
import re
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from imserver.media.uploads.uploads import MAX_NAME_CHARACTERS
from tests.conftest import StartServer
from tests.gateway.auth.test_issuers import NOW, signed
from tests.integration.cmd import get, logged_in
from tests.integration.raw import Raw, Response, ask, bearer, open_socket, request, text
from tests.security.attack_setting import (
    ADMIN,
    OF_205,
    PUSH_OF_TOKENS,
    TOKENS,
    session_token,
)
from tests.support import HTTP_SERVERS, ROOT, Server

HTML = b"<!doctype html><script>alert(document.domain)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'


def upload(server: Server, content: bytes, name: str) -> Response:
    path = f"/api/v1/uploads?{urlencode({'name': name})}"
    return ask(
        server.http,
        bearer(request(path, method="POST", body=content), session_token(TOKENS, "7")),
    )


@pytest.mark.parametrize(
    "content", [HTML, SVG, b"\xff\xfe" + HTML, b"%PDF-1.4\n" + HTML]
)
def test_no_upload_runs_in_a_browser(guarded: Server, content: bytes) -> None:
    for name in ("a.html", "a.png", "a.svg", "a"):
        answer = get(guarded.http, upload(guarded, content, name).json["url"])
        assert (answer.header("Content-Disposition") or "").startswith("attachment")
        assert answer.header("X-Content-Type-Options") == "nosniff"
        assert (answer.header("Content-Type") or "").partition(";")[0] not in (
            "text/html",
            "image/svg+xml",
        )
        policy = answer.header("Content-Security-Policy") or ""
        assert "sandbox" in policy or "'none'" in policy


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("{parents}{folder}/x", "x"),
        ("{folder}/passwd", "passwd"),
        ("..\\..\\x", "x"),
        ("a\r\nX-Evil: 1", "aX-Evil: 1"),
        ('a"; filename="b', 'a"; filename="b'),
        ("x" * 3000, "x" * MAX_NAME_CHARACTERS),
    ],
)
def test_no_name_leaves_folder_or_header(
    guarded: Server, tmp_path: Path, name: str, shown: str
) -> None:
    answer = upload(
        guarded, b"content", name.format(folder=tmp_path, parents="../" * 20)
    )
    assert (answer.status, answer.json["name"]) == (201, shown)
    received = get(guarded.http, answer.json["url"])
    assert (received.body, received.header("X-Evil")) == (b"content", None)
    header = f"attachment; filename*=UTF-8''{quote(shown, safe='')}"
    assert received.header("Content-Disposition") == header
    assert not list(tmp_path.iterdir())
    root = guarded.folder / "data" / "uploads"
    for folder, _, files in os.walk(guarded.folder):
        inside = folder.startswith(str(root))
        assert inside or not any("passwd" in file or file == "x" for file in files)


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "..%2fsecret",
        "%2e%2e/%2e%2e/secret",
        "....//secret",
        "/etc/passwd",
        "%00",
        "a/../../x",
    ],
)
def test_no_address_reads_other_files(guarded: Server, path: str) -> None:
    for prefix in ("/api/v1/uploads/", "/static/", "/sdk/"):
        answer = ask(guarded.http, request(prefix + path))
        assert answer.status in (400, 404, 405), answer
        assert (guarded.folder / "data" / "secret").read_bytes() not in answer.body


def send(server: Server, path: str, credential: str, **fields: str) -> Response:
    headers = [("Content-Type", "application/x-www-form-urlencoded")]
    body = urlencode({"appID": TOKENS, **fields}).encode()
    question = request(f"/user/{path}", method="POST", headers=headers, body=body)
    return ask(server.http, bearer(question, credential))


def test_a_user_cannot_use_up_the_message_ids_of_the_back_end_or_of_others(
    guarded: Server,
) -> None:
    token = {user: session_token(TOKENS, user) for user in ("eve", "bob", "joe")}
    with (
        logged_in(guarded.ws, "eve", int(TOKENS), serviceToken=token["eve"]),
        logged_in(guarded.ws, "bob", int(TOKENS), serviceToken=token["bob"]),
    ):
        for path in ("sendMessage", "sendMessageAll"):
            for number in ("one", "two"):
                sent = send(
                    guarded,
                    path,
                    token["eve"],
                    userID="eve",
                    msgID=f"{path}-{number}",
                    message="m",
                )
                assert sent.json["data"] == {"sendResults": True}
        order = {"userID": "bob", "message": "your order"}
        for path in ("sendMessage", "sendMessageAll"):
            for number, credential in (("one", PUSH_OF_TOKENS), ("two", token["joe"])):
                sent = send(
                    guarded,
                    "sendMessage",
                    credential,
                    **order,
                    msgID=f"{path}-{number}",
                )
                assert sent.json["data"] == {"sendResults": True}, (path, number)
        again = send(
            guarded, "sendMessage", token["joe"], **order, msgID="sendMessage-two"
        )
        assert again.json["data"] == {}


def test_a_publisher_connection_keeps_to_the_apps_of_its_key(guarded: Server) -> None:
    more = [("Authorization", f"Bearer {OF_205}")]
    push = {"seq": 1, "publish": {"app": TOKENS, "user": "7", "text": "hi"}}
    with (
        logged_in(
            guarded.ws, "7", int(TOKENS), serviceToken=session_token(TOKENS, "7")
        ) as victim,
        open_socket(guarded.http, "/api/v1/publisher", more=more) as one,
    ):
        one.send(text(json.dumps(push)))
        assert one.message().json["error"]["code"] == "forbidden"
        victim.no_push()


@pytest.mark.parametrize("http_server", HTTP_SERVERS)
def test_a_refused_stream_is_logged_with_its_client(
    start_server: StartServer, http_server: str
) -> None:
    server = start_server(
        http_server=http_server, config={"limits": {"max_connections_per_address": 1}}
    )
    more = [("X-Forwarded-For", "10.9.0.2")]
    with open_socket(server.ws, more=more):
        for path, query in (
            ("/api/v1/events", "?app=default&user=ann"),
            ("/connection/sse", ""),
        ):
            ask(server.http, request(path + query, headers=more))
            assert f"10.9.0.2 GET {path} " in server.log_with_requests()


def test_the_shipped_proxies_pass_on_no_header_that_a_client_has_made_up() -> None:
    files = sorted((ROOT / "deploy").rglob("nginx*.conf"))
    assert files
    for file in files:
        blocks = re.findall(r"location [^{]*\{([^}]*)\}", file.read_text())
        proxied = [block for block in blocks if "proxy_pass" in block]
        assert proxied
        for block in proxied:
            for name in (
                "X-Forwarded-Host",
                "X-Forwarded-Port",
                "X-Real-IP",
                "Forwarded",
            ):
                assert re.search(rf'proxy_set_header\s+{name}\s+"";', block), (
                    file,
                    name,
                    block,
                )


def test_a_token_of_an_issuer_that_is_away_is_answered_so(
    start_server: StartServer,
) -> None:
    away = "http://127.0.0.1:9"  # nobody listens there
    keys = [{"key": ADMIN, "scopes": ["admin"]}]
    app = {"jwt": [{"issuer": away, "audience": "shop"}]}
    server = start_server(config={"api": {"keys": keys}, "apps": {"301": app}})
    token = signed(iss=away, exp=NOW + 10**9)
    body = b'{"id":"%b","token":"%b"}' % (b"a" * 32, token.encode())
    headers = [("Content-Type", "application/json")]
    found = ask(
        server.http,
        request("/api/v1/uploads/delete", method="POST", body=body, headers=headers),
    )
    assert found.status == 503
    assert b"issuer_unavailable" in found.body
    batch = b'{"commands":[{"uploads/delete":%b}]}' % body
    keyed = [*headers, ("Authorization", f"Bearer {ADMIN}")]
    found = ask(
        server.http, request("/api/v1/batch", method="POST", body=batch, headers=keyed)
    )
    assert found.status == 200
    page = ask(server.http, request(f"/home/index?appID=301&token={quote(token)}"))
    assert page.status == 503


SILENCE_SECONDS = 15.0
SLOW = {
    f"{path} {more!r}": f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{size}\r\n\r\n".encode()
    + more
    for path, size, more in (
        ("/user/sendMessage", "Content-Length: 1000", b""),
        ("/user/sendMessage", "Transfer-Encoding: chunked", b"5\r\nab"),
        ("/login", "Content-Length: 1000", b"a"),
        ("/api/v1/uploads?app=101&user=a&name=f", "Content-Length: 200000", b""),
    )
}


@pytest.mark.full("waits")
@pytest.mark.slow
def test_a_body_that_does_not_come_is_given_up(start_server: StartServer) -> None:
    with ExitStack() as stack:
        waiting = []
        for http_server in HTTP_SERVERS:
            server = start_server(http_server=http_server)
            for name, sent in SLOW.items():
                raw = stack.enter_context(Raw(server.http))
                raw.send(sent)
                waiting.append((f"{http_server} {name}", raw))
        began = time.monotonic()
        for name, raw in waiting:
            left = SILENCE_SECONDS + 60 - (time.monotonic() - began)
            answer = raw.response(max(left, 0.1))
            assert (answer.status, answer.header("Connection")) == (408, "close"), name
            raw.ended()
