"""How the messages page gets what a feature of another distribution adds to
it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from imserver.pages.additions import Additions
from imserver.plugin.settings import ConfigError
from tests.conftest import StartServer
from tests.integration.raw import ask, request
from tests.lamp_page import COLOUR, PAGE, WORDS, install
from tests.support import Server


def data_of(server: Server, language: str) -> dict[str, Any]:
    page = server.get(f"/home/messages?lang={language}")[1].decode()
    found = re.search(
        r'<script type="application/json" id="page-data">(.*?)</script>',
        page,
        re.DOTALL,
    )
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_the_page_has_addresses_and_words_of_a_feature(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(
        config={"features": ["all", "lamp"]}, environment=install(tmp_path, PAGE)
    )
    english, chinese = (data_of(server, language) for language in ("en", "zh"))
    assert english["text"].items() >= WORDS["en"].items()
    assert (
        chinese["text"].items()
        >= {**WORDS["zh"], "lamp_off": WORDS["en"]["lamp_off"]}.items()
    )
    (added,) = (
        each for each in english["additions"] if "/features/lamp/" in each["module"]
    )
    base = added["module"].removesuffix("/page.js")
    assert re.fullmatch(r"/release/\w{16}/features/lamp", base)
    assert added["style"] == f"{base}/page.css"
    answer = ask(server.http, request(f"{base}/colour.js"))
    assert (answer.status, answer.body.decode()) == (200, COLOUR)
    assert answer.header("Cache-Control") == "public, max-age=31536000, immutable"
    assert "script-src 'self'" in (answer.header("Content-Security-Policy") or "")
    assert (answer.header("Content-Type") or "").startswith("text/javascript")
    worker = server.get("/home/messages-worker.js")[1].decode()
    for file in ("page.js", "page.css", "colour.js"):
        assert f'"{base}/{file}"' in worker
    for wrong in (
        f"{base}/../lamps.py",
        f"{base}/none.js",
        base.replace("lamp", "bell") + "/page.js",
    ):
        assert ask(server.http, request(wrong)).status == 404
    (tmp_path / "lamp_page" / "page.css").write_text("")
    assert added not in data_of(server, "en")["additions"]  # another release


def test_the_page_of_a_node_without_them_has_nothing_added(
    start_server: StartServer,
) -> None:
    server = start_server(config={"features": ["pages"]})
    assert data_of(server, "en")["additions"] == []


WRONG = {
    '{"on": "on"}': "the key on does not begin with lamp_",
    "{": "words.en.json: ",
    "[]": "Expected `object`",
}


@pytest.mark.parametrize(("text", "output"), [*WRONG.items()])
def test_words_that_cannot_be_used_end_the_start(
    tmp_path: Path, text: str, output: str
) -> None:
    (tmp_path / "words.en.json").write_text(text)
    with pytest.raises(ConfigError, match=f"the feature 'lamp': .*{output}"):
        Additions({"lamp": tmp_path})
