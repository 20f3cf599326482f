"""Uploads: attacks on who may store, on names, and on browsers that open what was stored."""

import os
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from imserver.media.uploads.uploads import MAX_NAME_CHARACTERS
from tests.integration.cmd import get
from tests.integration.raw import Response, ask, bearer, request
from tests.security.attack_setting import TOKENS, session_token
from tests.support import Server

HTML = b"<!doctype html><script>alert(document.domain)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'


def upload(server: Server, content: bytes, key: str = "", **query: str) -> Response:
    path = f"/api/v1/uploads?{urlencode(query)}"
    return ask(server.http, bearer(request(path, method="POST", body=content), key))


@pytest.mark.parametrize("content", [HTML, SVG, b"\xff\xfe" + HTML, b"%PDF-1.4\n" + HTML])
@pytest.mark.parametrize("name", ["a.html", "a.png", "a.svg", "a"])
def test_no_upload_runs_in_a_browser(guarded: Server, content: bytes, name: str) -> None:
    uploaded = upload(guarded, content, session_token(TOKENS, "7"), name=name).json
    answer = get(guarded.http, uploaded["url"])
    assert (answer.header("Content-Disposition") or "").startswith("attachment")
    assert answer.header("X-Content-Type-Options") == "nosniff"
    assert (answer.header("Content-Type") or "").partition(";")[0] not in ("text/html", "image/svg+xml")
    assert "sandbox" in (answer.header("Content-Security-Policy") or "") or "'none'" in (
        answer.header("Content-Security-Policy") or ""
    )


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
def test_no_name_leaves_the_folder_or_its_header(
    guarded: Server, tmp_path: Path, name: str, shown: str
) -> None:
    name = name.format(folder=tmp_path, parents="../" * 20)
    answer = upload(guarded, b"content", session_token(TOKENS, "7"), name=name)
    assert (answer.status, answer.json["name"]) == (201, shown)
    received = get(guarded.http, answer.json["url"])
    assert received.body == b"content"
    assert received.header("X-Evil") is None
    header = f"attachment; filename*=UTF-8''{quote(shown, safe='')}"
    assert received.header("Content-Disposition") == header
    assert not list(tmp_path.iterdir())
    root = guarded.folder / "data" / "uploads"
    for folder, _, files in os.walk(guarded.folder):
        inside = folder.startswith(str(root))
        assert inside or not any("passwd" in file or file == "x" for file in files)


@pytest.mark.parametrize(
    "path",
    ["../secret", "..%2fsecret", "%2e%2e/%2e%2e/secret", "....//secret", "/etc/passwd", "%00", "a/../../x"],
)
def test_no_address_reads_other_files(guarded: Server, path: str) -> None:
    for prefix in ("/api/v1/uploads/", "/static/", "/sdk/"):
        answer = ask(guarded.http, request(prefix + path))
        assert answer.status in (400, 404, 405), answer
        assert (guarded.folder / "data" / "secret").read_bytes() not in answer.body
