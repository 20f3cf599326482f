"""Files by both doors: what goes in comes out, nobody gets what is not theirs, and memory does not grow."""

import hashlib
import io
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from PIL import Image

from tests.storage.bucket import ACCESS_KEY, NAME, REGION, SECRET_KEY, Standin, standing_in
from tests.support import Server, eventually

from .cmd import form_request, fresh, logged_in
from .gochat import fresh_phone, register
from .raw import Raw, Response, ask, request, select_readable
from .setting import Launch, rss_bytes
from .v1 import good

PATH = "/api/v1/uploads"
SECRET = "a secret that is long enough to be one"
ADMIN = "the key of an operator"
KEY, READER, ELSEWHERE = "the key of a back end", "a key that only reads", "a key of another app"
QUOTA = 3_000_000
SMALL, LARGE = 200_000, 48_000_000
SETTINGS: dict[str, Any] = {
    "api": {
        "keys": [
            {"key": KEY, "scopes": ["push", "read"]},
            {"key": ADMIN, "scopes": ["admin"]},
            {"key": READER, "scopes": ["read"]},
            {"key": ELSEWHERE, "scopes": ["push", "read"], "apps": ["102"]},
        ]
    },
    "apps": {
        "101": {"open": True},
        "104": {"account_tokens": "required"},
        "102": {},
        "103": {"jwt": [{"algorithm": "HS256", "key": SECRET}]},
    },
    "limits": {"body_bytes": 100_000},
    "uploads": {"min_free_bytes": 0, "quota_bytes": QUOTA, "max_bytes": 2_000_000, "picture_bytes": SMALL},
}


@pytest.fixture(scope="module")
def house(door: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Keys, tokens, a quota of 3 MB."""
    one = Server(tmp_path_factory.mktemp(f"uploads-{door}"), config=SETTINGS, door=door)
    yield one
    one.stop()
    one.check()


@pytest.fixture(scope="module")
def roomy(door: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Demo mode, room for large files, and little patience."""
    uploads = {"min_free_bytes": 0, "quota_bytes": 0, "max_bytes": LARGE, "at_once": 3, "seconds": 3}
    config = {"uploads": uploads, "limits": {"body_bytes": 100_000}}
    one = Server(tmp_path_factory.mktemp(f"roomy-{door}"), config=config, door=door)
    yield one
    one.stop()
    one.check()


@pytest.fixture
def user() -> str:
    """Who has uploaded nothing so far."""
    return fresh("u")


def head(length: int | None, *more: str, key: str = KEY, **query: str) -> bytes:
    """The head of an upload."""
    lines = [f"POST {PATH}?{urlencode(query)} HTTP/1.1", "Host: localhost", *more]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if length is not None:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def upload(server: Server, content: bytes, *, key: str = KEY, app: str = "101", **query: str) -> Response:
    """One upload, on a connection of its own."""
    if app:
        query["app"] = app
    return ask(server.http, head(len(content), key=key, **query) + content)


def uploaded(server: Server, content: bytes, **options: str) -> Any:
    """What is told of a file that must be taken."""
    answer = upload(server, content, **options)
    assert answer.status == 201, answer
    assert answer.header("Location") == answer.json["url"]
    return answer.json


def fetch(server: Server, path: str, *headers: tuple[str, str], method: str = "GET") -> Response:
    return ask(server.http, request(path, method=method, headers=headers))


def code(answer: Response) -> tuple[int, str]:
    """Status and code of a refusal, whose shape is checked."""
    assert list(answer.json) == ["code", "message", "temporary", "request_id"], answer
    return answer.status, answer.json["code"]


def picture(width: int = 400, height: int = 300, form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(out, form)
    return out.getvalue()


def kept(server: Server) -> int:
    """How many files lie in the folder, half ones too."""
    return sum(len(names) for _, _, names in os.walk(server.folder / "data" / "uploads"))


# --- in and out ---------------------------------------------------------------------------------------------


@pytest.mark.both_servers
def test_a_file_comes_out_as_it_went_in(house: Server, user: str) -> None:
    content = os.urandom(1_234_567)
    told = uploaded(house, content, user=user, name="../../etc/päss wörd.bin")
    assert told["kind"] == "file"
    assert told["bytes"] == len(content)
    assert told["sha256"] == hashlib.sha256(content).hexdigest()
    assert told["name"] == "päss wörd.bin"
    answer = fetch(house, told["url"])
    assert (answer.status, answer.body) == (200, content)
    assert answer.header("Content-Disposition") == "attachment; filename*=UTF-8''p%C3%A4ss%20w%C3%B6rd.bin"
    assert answer.header("X-Content-Type-Options") == "nosniff"
    assert answer.header("Content-Security-Policy") == "default-src 'none'; sandbox"
    alone = fetch(house, told["url"], method="HEAD")
    assert (alone.status, alone.header("Content-Length")) == (200, str(len(content)))


def test_a_picture_has_its_measures_and_a_thumbnail(house: Server, user: str) -> None:
    told = uploaded(house, picture(), user=user, kind="picture")
    assert (told["kind"], told["type"], told["width"], told["height"]) == ("picture", "image/png", 400, 300)
    answer = fetch(house, told["thumbnail"]["url"])
    assert answer.header("Content-Type") == told["thumbnail"]["type"] == "image/jpeg"
    assert len(answer.body) == told["thumbnail"]["bytes"]
    with Image.open(io.BytesIO(answer.body)) as small:
        assert small.size == (320, 240)
    assert fetch(house, told["url"]).header("Content-Disposition") == "inline"


def test_what_only_begins_like_a_picture_is_saved_and_never_shown(house: Server, user: str) -> None:
    page = b"\x89PNG\r\n\x1a\n<html><script>alert(1)</script>"
    assert code(upload(house, page, user=user, kind="picture")) == (415, "kind_refused")
    answer = fetch(house, uploaded(house, page, user=user, name="a.png")["url"])
    assert answer.header("Content-Type") == "application/octet-stream"
    assert (answer.header("Content-Disposition") or "").startswith("attachment")


@pytest.mark.parametrize(
    ("wanted", "status", "first", "last"),
    [
        ("bytes=0-0", 206, 0, 0),
        ("bytes=5-", 206, 5, 999),
        ("bytes=990-2000", 206, 990, 999),
        ("bytes=-10", 206, 990, 999),
        ("bytes=-5000", 206, 0, 999),
        ("bytes=7-3", 200, 0, 999),
        ("bytes=-", 200, 0, 999),
        ("lines=1-2", 200, 0, 999),
        ("bytes=0-1,5-6", 200, 0, 999),
    ],
)
@pytest.mark.both_servers
def test_a_range_is_given(
    house: Server, thousand: Any, wanted: str, status: int, first: int, last: int
) -> None:
    url, content = thousand
    answer = fetch(house, url, ("Range", wanted))
    assert (answer.status, answer.body) == (status, content[first : last + 1])
    assert answer.header("Content-Range") == (f"bytes {first}-{last}/1000" if status == 206 else None)


@pytest.fixture(scope="module")
def thousand(house: Server) -> tuple[str, bytes]:
    """A file of 1,000 bytes: its address and content."""
    content = os.urandom(1000)
    return uploaded(house, content, user="thousand")["url"], content


@pytest.mark.parametrize("wanted", ["bytes=1000-", "bytes=1000-1001", "bytes=-0"])
def test_a_range_that_there_is_not_is_refused(house: Server, thousand: Any, wanted: str) -> None:
    answer = fetch(house, thousand[0], ("Range", wanted))
    assert code(answer) == (416, "range_not_satisfiable")
    assert answer.header("Content-Range") == "bytes */1000"


def test_the_document_tells_of_parts_and_of_nothing_new(house: Server) -> None:
    paths = ask(house.http, request("/api/v1/openapi.json")).json["paths"]
    for path in ("/api/v1/uploads/{id}", "/api/v1/uploads/{id}/thumbnail"):
        responses = paths[path]["get"]["responses"]
        assert next(iter(responses)) == "200"
        assert responses["206"]["content"] == responses["200"]["content"]
        assert "content" not in responses["304"]


def test_who_has_it_already_is_told_so(house: Server, thousand: Any) -> None:
    url, content = thousand
    tag = fetch(house, url).header("ETag") or ""
    with Raw(house.http) as raw:
        assert raw.ask(request(url, headers=[("If-None-Match", f'"x", {tag}')])).status == 304
        assert raw.ask(request(url, headers=[("Range", "bytes=0-9"), ("If-Range", tag)])).status == 206
        other = raw.ask(request(url, headers=[("Range", "bytes=0-9"), ("If-Range", '"other"')]))
        assert (other.status, other.body) == (200, content)


@pytest.mark.parametrize(
    "name", ["x" * 32, "..%2f..%2fimserver.db", "%2e%2e", "incoming", "a" * 31, "%e6%97%a5" * 32, "%00" * 32]
)
def test_what_is_no_id_opens_nothing(house: Server, name: str) -> None:
    answer = ask(house.http, request(f"{PATH}/{name}"))
    assert code(answer)[0] == 404


# --- who ----------------------------------------------------------------------------------------------------


def test_a_key_needs_its_scope_and_its_app(house: Server, user: str) -> None:
    assert code(upload(house, b"x", user=user, key="")) == (401, "unauthorized")
    assert code(upload(house, b"x", user=user, key="wrong")) == (401, "token_invalid")
    assert code(upload(house, b"x", user=user, key=READER)) == (403, "forbidden")
    assert code(upload(house, b"x", user=user, key=ELSEWHERE)) == (403, "forbidden")
    assert code(upload(house, b"x", user=user, app="999")) == (404, "unknown_app")
    assert code(upload(house, b"x")) == (400, "invalid_request")
    assert uploaded(house, b"x", user=user, key=ELSEWHERE, app="102")["app"] == "102"


def token(user: str, app: str = "103") -> str:
    return jwt.encode({"sub": user, "app": app, "exp": int(time.time()) + 60}, SECRET, "HS256")


def test_a_token_is_good_for_its_own_user_only(house: Server, user: str) -> None:
    told = uploaded(house, b"mine", key=token(user), app="")
    assert (told["app"], told["user"]) == ("103", user)
    assert uploaded(house, b"mine", key="", app="", token=token(user))["user"] == user
    assert code(upload(house, b"x", key=token(user), app="103", user="bob")) == (403, "not_allowed")
    assert code(upload(house, b"x", key=token(user), app="101")) == (403, "not_allowed")
    assert code(upload(house, b"x", key=token(user)[:-3] + "abc", app="")) == (401, "token_invalid")


def files(server: Server, key: str, **query: str) -> Response:
    return fetch(server, f"{PATH}?{urlencode(query)}", ("Authorization", f"Bearer {key}"))


def delete(server: Server, key: str, name: str) -> Response:
    headers = [("Authorization", f"Bearer {key}"), ("Content-Type", "application/json")]
    body = b'{"id":"%b"}' % name.encode()
    return ask(server.http, request(f"{PATH}/delete", method="POST", headers=headers, body=body))


def test_a_user_lists_and_removes_what_is_theirs(house: Server, user: str) -> None:
    ids = [uploaded(house, b"%d" % number, key=token(user), app="")["id"] for number in range(3)]
    first = files(house, token(user), limit="2").json
    assert [each["id"] for each in first["files"]] == ids[:0:-1]
    assert (first["total"], first["bytes"], first["quota"]) == (3, 3, QUOTA)
    rest = files(house, token(user), limit="2", cursor=first["next"]).json
    assert ([each["id"] for each in rest["files"]], rest["next"]) == (ids[:1], "")
    assert code(delete(house, token("somebody"), ids[0])) == (403, "not_allowed")
    assert code(delete(house, READER, ids[0])) == (403, "forbidden")
    assert delete(house, token(user), ids[0]).json == {"deleted": True}
    assert delete(house, KEY, ids[0]).json == {"deleted": False}
    assert code(fetch(house, f"{PATH}/{ids[0]}")) == (404, "unknown_upload")
    assert files(house, READER, app="103", user=user).json["total"] == 2
    assert files(house, token("somebody")).json["files"] == []


# --- how much -----------------------------------------------------------------------------------------------


def test_a_quota_holds_and_what_was_refused_leaves_nothing(house: Server, user: str) -> None:
    before = kept(house)
    first = uploaded(house, bytes(1_500_000), user=user)
    assert code(upload(house, bytes(1_500_001), user=user)) == (403, "quota_exceeded")
    second = uploaded(house, bytes(1_500_000), user=user)
    assert code(upload(house, b"x", user=user)) == (403, "quota_exceeded")
    for told in (first, second):
        assert delete(house, KEY, told["id"]).json == {"deleted": True}
    uploaded(house, b"x", user=user)
    assert kept(house) == before + 1


def test_a_file_that_is_too_large_is_refused_before_it_comes(house: Server, user: str) -> None:
    with Raw(house.http) as raw:
        raw.send(head(2_000_001, app="101", user=user))  # and not one byte of it
        assert code(raw.response()) == (413, "file_too_large")
        raw.ended()
    noise = io.BytesIO()
    Image.effect_noise((600, 600), 90).save(noise, "PNG")
    assert len(noise.getvalue()) > SMALL
    assert code(upload(house, noise.getvalue(), user=user)) == (413, "file_too_large")
    assert uploaded(house, bytes(SMALL + 1), user=user)["kind"] == "file"


def test_who_waits_to_be_asked_is_asked_or_refused(house: Server, user: str) -> None:
    with Raw(house.http) as raw:
        raw.send(head(5, "Expect: 100-continue", app="101", user=user))
        assert raw.response().status == 100
        raw.send(b"hello")
        assert raw.response().status == 201
        raw.send(head(5, "Expect: 100-continue", app="101", user=user, key=READER))
        assert code(raw.response()) == (403, "forbidden")
        raw.ended()


def test_a_length_is_needed(house: Server, user: str) -> None:
    assert code(ask(house.http, head(0, app="101", user=user))) == (411, "length_required")
    assert code(ask(house.http, head(None, app="101", user=user))) == (411, "length_required")
    chunks = b"5\r\nhello\r\n0\r\n\r\n"
    answer = ask(house.http, head(None, "Transfer-Encoding: chunked", app="101", user=user) + chunks)
    assert answer.json["bytes"] == 5  # read whole, as every body in chunks
    long = b"%x\r\n" % 150_000 + bytes(150_000)
    answer = ask(house.http, head(None, "Transfer-Encoding: chunked", app="101", user=user) + long)
    assert answer.status == 413
    answer = ask(house.http, head(5, "Content-Encoding: gzip", app="101", user=user) + b"hello")
    assert code(answer) == (415, "unknown_encoding")


# --- nobody reads two stories -------------------------------------------------------------------------------


def test_what_follows_an_unread_body_is_never_a_request(house: Server) -> None:
    """The end of a body that was refused looks like a push: it must not become one."""
    push = form_request(
        "/user/sendMessageAll", {"appID": "101", "userID": "s", "msgID": fresh("m"), "message": "x"}
    )
    push = push.replace(b"\r\n", f"\r\nAuthorization: Bearer {KEY}\r\n".encode(), 1)
    with logged_in(house.ws, fresh("victim"), 101) as victim, Raw(house.http) as raw:
        raw.send(head(1_000_000, app="101", user="x", key=READER) + bytes(70_000) + push)
        assert code(raw.response()) == (403, "forbidden")
        raw.ended()
        victim.no_push()
        # Of a body that is read to its end the next byte is the next request's.
        with Raw(house.http) as other:
            other.send(head(200_000, app="101", user=fresh("u")) + bytes(100_000))
            other.send(bytes(100_000) + push)
            assert other.response().status == 201
            assert other.response().json["code"] == 200
        assert victim.push().json["response"]["data"]["msg"] == "x"


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 70000", "Transfer-Encoding: chunked"],
        ["Content-Length: 70000", "Content-Length: 70001"],
        ["Content-Length: 70000, 70000"],
        ["Content-Length: +70000"],
        ["Content-Length : 70000"],
    ],
)
def test_a_length_that_can_be_read_in_two_ways_gets_400(house: Server, lines: list[str]) -> None:
    with Raw(house.http) as raw:
        raw.send(head(None, *lines, app="101", user="x"))
        assert raw.response().status == 400
        raw.ended()


# --- memory, time, how many ---------------------------------------------------------------------------------


def test_a_large_file_is_never_in_memory(roomy: Server) -> None:
    uploaded(roomy, picture(), user="warm", key="")
    piece, before = os.urandom(1_000_000), rss_bytes(roomy.pid)
    highest = before
    with Raw(roomy.http) as raw:
        raw.send(head(LARGE, app="101", user="large", key=""))
        for _ in range(LARGE // len(piece)):
            raw.send(piece)
            highest = max(highest, rss_bytes(roomy.pid))
        told = raw.response().json
    assert told["sha256"] == hashlib.sha256(piece * (LARGE // len(piece))).hexdigest()
    with Raw(roomy.http, receive_buffer_bytes=65536) as raw:
        raw.send(request(told["url"]))
        assert raw.response(to_head=True).status == 200
        seen = 0
        while seen < LARGE:
            seen += len(raw._take(min(500_000, LARGE - seen), time.monotonic() + 10))
            highest = max(highest, rss_bytes(roomy.pid))
    assert highest - before < 12_000_000


def test_others_are_served_while_files_come_and_no_more_come_than_may(roomy: Server) -> None:
    with Raw(roomy.http) as first, Raw(roomy.http) as second, Raw(roomy.http) as third:
        for comer in (first, second, third):
            comer.send(head(LARGE, app="101", user="slow", key="") + bytes(100))
        eventually(lambda: kept_arriving(roomy) == 3, 5, "three files under way")
        assert code(upload(roomy, b"x", user="late", key="")) == (503, "busy")
        assert fetch(roomy, "/health").status == 200
        third.leave()  # in the middle of it
        eventually(lambda: kept_arriving(roomy) == 2, 5, "one has gone")
        uploaded(roomy, b"x", user="late", key="")
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline and not select_readable(first.sock, 0.1):
            first.send(b"x")  # never silent for long
        assert code(first.response()) == (408, "timeout")
        assert code(second.response()) == (408, "timeout")
    eventually(lambda: kept_arriving(roomy) == 0, 5, "nothing under way")


def kept_arriving(server: Server) -> int:
    folder = server.folder / "data" / "uploads" / "incoming"
    return len(list(folder.iterdir())) if folder.is_dir() else 0


# --- accounts and pages -------------------------------------------------------------------------------------


def test_an_account_uploads_with_its_token_and_its_files_go_with_it(roomy: Server) -> None:
    user, proof = register(roomy.http)
    told = uploaded(roomy, b"a photograph", app="", key=proof)
    assert (told["app"], told["user"]) == ("gochat", user)
    assert files(roomy, proof).json["total"] == 1
    assert code(upload(roomy, b"x", app="gochat", key=proof, user="1" + user)) == (403, "not_allowed")
    headers = [("Authorization", f"Bearer {proof}"), ("Content-Type", "application/json")]
    gone = ask(roomy.http, request("/api/v1/accounts/delete", method="POST", headers=headers, body=b"{}"))
    assert gone.status == 200, gone
    assert code(fetch(roomy, told["url"])) == (404, "unknown_upload")
    assert roomy.get(f"{PATH}?app=gochat&user={user}")[1].startswith(b'{"bytes":0,')


def test_an_account_of_another_app_names_its_app_and_uploads(house: Server) -> None:
    body = {"app": "104", "phone": fresh_phone(), "password": "correct horse"}
    made = good(house.http, "accounts/register", body, key=ADMIN)
    user, proof = made["account"]["user"], made["token"]
    told = uploaded(house, b"a photograph", key=proof, app="104")
    assert (told["app"], told["user"]) == ("104", user)
    assert files(house, proof, app="104").json["total"] == 1
    assert code(upload(house, b"x", key=proof, app="102")) == (401, "token_invalid")
    assert code(upload(house, b"x", key=proof, app="104", user="1" + user)) == (403, "not_allowed")
    assert delete(house, proof, told["id"]).json == {"deleted": True}


def test_a_file_that_comes_while_its_account_is_deleted_goes_with_it(roomy: Server) -> None:
    user, proof = register(roomy.http)
    before = kept(roomy)
    with Raw(roomy.http) as raw:
        raw.send(head(10, key=proof) + b"12345")
        eventually(lambda: kept_arriving(roomy) == 1, 5, "a file under way")
        headers = [("Authorization", f"Bearer {proof}"), ("Content-Type", "application/json")]
        gone = ask(roomy.http, request("/api/v1/accounts/delete", method="POST", headers=headers, body=b"{}"))
        assert gone.status == 200, gone
        raw.send(b"67890")
        assert code(raw.response()) == (401, "token_invalid")
    assert fetch(roomy, f"{PATH}?app=gochat&user={user}").json["total"] == 0
    assert kept(roomy) == before


def test_the_token_of_a_page_is_not_good_for_uploads(house: Server) -> None:
    page = fetch(house, "/home/index?appID=101").body.decode()
    found = re.search(r"page\.[\w.-]{20,}", page)
    assert found, page
    assert code(upload(house, b"x", key=found[0], app="")) == (401, "token_invalid")
    assert code(upload(house, b"x", key=found[0], user="bob")) == (401, "token_invalid")


# --- a bucket -----------------------------------------------------------------------------------------------


@pytest.fixture
def standin() -> Iterator[Standin]:
    with standing_in() as bucket:
        yield bucket


def test_files_go_to_a_bucket_and_come_from_there(launch: Launch, door: str, standin: Standin) -> None:
    place = {
        "s3_url": standin.url,
        "s3_bucket": NAME,
        "s3_region": REGION,
        "s3_access_key": ACCESS_KEY,
        "s3_secret_key": SECRET_KEY,
        "s3_seconds": 2,
    }
    server = launch(door, uploads={"min_free_bytes": 0, **place})
    content = picture(900, 700)
    told = uploaded(server, content, user="ann", key="")
    assert standin.objects[told["id"]] == (content, "image/png")
    assert len(standin.objects) == 2
    assert kept(server) == 0
    assert fetch(server, told["url"]).body == content
    assert fetch(server, told["url"], ("Range", "bytes=10-19")).body == content[10:20]
    assert len(fetch(server, told["thumbnail"]["url"]).body) == told["thumbnail"]["bytes"]
    standin.failures = ["500"] * 3
    assert code(fetch(server, told["url"])) == (503, "media_unavailable")
    standin.failures = ["500"] * 3
    refused = upload(server, b"x", user="ann", key="")
    assert code(refused) == (503, "media_unavailable")
    assert refused.header("Retry-After")
    assert files(server, "", app="101", user="ann").json["total"] == 1
    assert delete(server, "", told["id"]).json == {"deleted": True}
    assert not standin.objects
    user, proof = register(server.http)
    uploaded(server, content, key=proof, app="")
    asked = [("Authorization", f"Bearer {proof}"), ("Content-Type", "application/json")]
    leave = request("/api/v1/accounts/delete", method="POST", headers=asked, body=b"{}")
    standin.failures = ["500"] * 3
    assert code(ask(server.http, leave)) == (503, "media_unavailable")
    assert files(server, proof).json["total"] == 1, "nothing is deleted by half"
    assert ask(server.http, leave).json == {"user": user}
    assert not standin.objects
    assert SECRET_KEY not in server.log_text


# --- settings, nodes ----------------------------------------------------------------------------------------


def test_a_disk_that_is_full_takes_nothing(launch: Launch, door: str) -> None:
    server = launch(door, uploads={"min_free_bytes": 1 << 60})
    assert code(upload(server, b"x", user="ann", key="")) == (507, "disk_full")
    assert "the disk of the folder of uploads is full" in server.log_text


def test_a_server_that_stops_waits_for_no_file_that_is_still_coming(launch: Launch, door: str) -> None:
    server = launch(door, uploads={"min_free_bytes": 0})
    with Raw(server.http) as raw:
        raw.send(head(1_000_000, app="101", user="ann", key="") + bytes(1000))
        eventually(lambda: kept_arriving(server) == 1, 5, "a file under way")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 8


def test_kinds_that_are_not_wanted_are_refused(launch: Launch, door: str) -> None:
    server = launch(door, uploads={"min_free_bytes": 0, "kinds": ["picture"], "thumbnail_pixels": 0})
    assert code(upload(server, b"hello", user="ann", key="")) == (415, "kind_refused")
    assert code(upload(server, b"hello", user="ann", key="", kind="file")) == (415, "kind_refused")
    assert uploaded(server, picture(), user="ann", key="")["thumbnail"] is None


def test_what_one_node_took_another_one_of_the_same_folder_gives(
    launch: Launch, door: str, tmp_path: Path
) -> None:
    shared = {
        "uploads": {"min_free_bytes": 0, "directory": str(tmp_path / "media")},
        "storage": {"url": f"sqlite:///{tmp_path}/shared.db"},
    }
    first, second = launch(door, **shared), launch(door, **shared)
    told = uploaded(first, picture(), user="ann", key="")
    assert fetch(second, told["url"]).body == picture()
    assert delete(second, "", told["id"]).json == {"deleted": True}
    assert code(fetch(first, told["url"])) == (404, "unknown_upload")
