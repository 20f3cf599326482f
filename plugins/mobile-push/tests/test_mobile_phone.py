"""Phones: the guide from a key to the first push, and an app of React Native with Google's fake."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from time import time
from typing import Any

import jwt
import pytest
import yaml
from conftest import EMAIL, KEY_ID, PROJECT, TEAM_ID, TOPIC, Keys
from fakes import Fcm

from tests.docs.markdown import blocks
from tests.docs.play import play_session
from tests.sdk.node import run_node
from tests.support import ROOT, Server, eventually

HERE = Path(__file__).parent
GUIDE = ROOT / "docs" / "guides" / "phones.md"
SECRET = "the-secret-of-the-shop-that-nobody-guesses"


@contextmanager
def node_of_the_guide(
    folder: Path, keys: Keys, environment: dict[str, str], **of_app: Any
) -> Iterator[tuple[Server, Fcm]]:
    """A node with the settings of the guide, but for the files of the keys, and Google's fake."""
    (block,) = blocks(GUIDE, "yaml")
    config = yaml.safe_load(block.text)
    app = config["apps"]["shop"]
    mobile_push = app["mobile_push"]
    named = [mobile_push["apns"][name] for name in ("key_id", "team_id", "topic")]
    assert named == [KEY_ID, TEAM_ID, TOPIC]
    for service, name, content in (
        ("fcm", "service_account_file", keys.account),
        ("apns", "key_file", keys.apple),
    ):
        (folder / service).write_text(content, encoding="utf-8")
        mobile_push[service][name] = str(folder / service)
    app.update(of_app)
    fcm = Fcm(keys.google, EMAIL, PROJECT)
    config["mobile_push"] = {"fcm_url": fcm.url, "google_oauth_url": f"{fcm.url}/token"}
    server = Server(folder / "node", config=config, environment=environment)
    try:
        yield server, fcm
    finally:
        server.stop()
        fcm.close()
    server.check()


def test_the_guide_does_what_it_says(tmp_path: Path, keys: Keys, installed: dict[str, str]) -> None:
    with node_of_the_guide(tmp_path, keys, installed, notify={"after_seconds": 0}) as (server, fcm):
        for session in blocks(GUIDE, "console"):
            assert session.words == ("phones",)
            if "endpoints/remove" in session.text:  # before the phone goes
                for shown in ("Order 17", "tea?"):
                    eventually(lambda shown=shown: shown in str(fcm.taken), what=shown)
            play_session(session, tmp_path, server)
        assert fcm.problems == []


@contextmanager
def written(fcm: Fcm, file: Path) -> Iterator[None]:
    """A time in which a file has the messages that Google's fake has taken."""
    ended = Event()

    def write() -> None:
        while not ended.wait(0.02):
            new = file.with_suffix(".new")
            new.write_text(json.dumps([each.content for each in tuple(fcm.taken)]), "utf-8")
            new.replace(file)

    file.write_text("[]", encoding="utf-8")
    writer = Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()


@pytest.mark.needs("node", "react-test-renderer")
def test_an_app_of_react_native_from_the_first_token_to_the_logout(
    tmp_path: Path, keys: Keys, installed: dict[str, str]
) -> None:
    claims = {"app": "shop", "exp": int(time()) + 600}
    tokens = {user: jwt.encode({"sub": user, **claims}, SECRET, "HS256") for user in ("ann", "bob")}
    of_app = {
        "open": False,
        "jwt": [{"algorithm": "HS256", "key": SECRET}],
        "notify": {"after_seconds": 0, "again_seconds": 0},
    }
    file = tmp_path / "taken.json"
    with node_of_the_guide(tmp_path, keys, installed, **of_app) as (server, fcm), written(fcm, file):
        run_node(
            str(HERE / "phone.test.mjs"),
            IM_HTTP=server.http_url,
            IM_WS=server.ws_url,
            IM_TAKEN=str(file),
            IM_TOKENS=json.dumps(tokens),
        )
        assert fcm.problems == []
