"""A node with the distribution: devices get notifications, no key is ever
shown; phones, and their guide."""

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import urlencode
from zipfile import ZipFile

import jwt
import msgspec
import pytest
import yaml
from conftest import (
    APP,
    EMAIL,
    HMS_APP,
    HMS_SECRET,
    KEY_ID,
    PROJECT,
    TEAM_ID,
    TOPIC,
    Keys,
    addresses_of,
    pem,
    tenant,
)
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from fakes import FORMS, Apns, Do, Fcm, Hms
from imserver_mobile_push.settings import MobilePush, objection

from imserver.plugin.testing import COMMAND, NodeProcess
from tests.docs.markdown import blocks
from tests.docs.play import play_session
from tests.sdk.node import run_node
from tests.support import ROOT, Server, clean_environment, eventually

SERVICES = ("fcm", "apns", "hms")
ADMIN_KEY = "key-of-the-admin-0123456789"
SECRET = "the-secret-of-the-shop-that-nobody-guesses"
FEATURES = ["all", "mobile_push"]


def keys_of_app(keys: Keys) -> dict[str, Any]:
    return {
        "fcm": {"service_account": keys.account},
        "apns": {
            "key": keys.apple,
            "key_id": KEY_ID,
            "team_id": TEAM_ID,
            "topic": TOPIC,
        },
        "hms": {"app_id": HMS_APP, "app_secret": HMS_SECRET},
    }


# --- keys that are none -------------------------------------------------------


def account(keys: Keys, **changes: str | None) -> dict[str, Any]:
    row = {**json.loads(keys.account), **changes}
    return {
        "fcm": {
            "service_account": json.dumps(
                {name: value for name, value in row.items() if value}
            )
        }
    }


def wrong_keys(keys: Keys) -> Iterator[tuple[dict[str, Any], str]]:
    apple = keys_of_app(keys)["apns"]
    other = pem(ec.generate_private_key(ec.SECP384R1()))
    short = keys.apple[:60]
    google = "mobile_push.fcm.service_account"
    yield {"fcm": {"service_account": "{"}}, f"{google}: expected the JSON"
    yield {"fcm": {"service_account": "[1]"}}, f"{google}: expected the JSON"
    yield (
        account(keys, type="authorized_user"),
        f"{google}: expected the key of a service account",
    )
    yield account(keys, private_key=None), f"{google}: private_key is missing"
    yield (
        account(keys, private_key=keys.apple),
        f"{google}: private_key: expected an RSA key",
    )
    yield account(keys, project_id="../x"), f"{google}: project_id: expected"
    both = {"service_account": keys.account, "service_account_file": "/etc/x"}
    yield (
        {"fcm": both},
        "mobile_push.fcm: service_account and service_account_file are both given",
    )
    yield {"fcm": {"service_account_file": "/nowhere/x"}}, "/nowhere/x: No such file"
    for key in (short, other, pem(rsa.generate_private_key(65537, 2048)), "x"):
        yield (
            {"apns": {**apple, "key": key}},
            "mobile_push.apns.key: expected a key of P-256",
        )
    yield {"apns": {**apple, "key_id": "abc"}}, "mobile_push.apns.key_id: expected ten"
    yield {"apns": {**apple, "team_id": ""}}, "mobile_push.apns.team_id: expected ten"
    yield (
        {"apns": {**apple, "topic": "a b"}},
        "mobile_push.apns.topic: expected a bundle id",
    )
    yield {"apns": {**apple, "key": ""}}, "mobile_push.apns: expected key or key_file"
    yield (
        {"hms": {"app_id": HMS_APP}},
        "mobile_push.hms: expected app_id, and app_secret",
    )
    yield (
        {"hms": {"app_secret": HMS_SECRET}},
        "mobile_push.hms: expected app_id, and app_secret",
    )
    yield (
        {"hms": {"app_id": "x", "app_secret": HMS_SECRET}},
        "mobile_push.hms.app_id: expected digits",
    )


def test_keys_that_are_none_are_refused_with_clear_words(keys: Keys) -> None:
    assert objection(APP, tenant(MobilePush())) == ""
    assert objection(APP, tenant(msgspec.convert(keys_of_app(keys), MobilePush))) == ""
    for settings, expected in wrong_keys(keys):
        text = objection(APP, tenant(msgspec.convert(settings, MobilePush)))
        assert expected in text, settings
        assert "PRIVATE KEY-----\nM" not in text
        assert HMS_SECRET not in text


# --- a node -------------------------------------------------------------------


class Site:
    def __init__(self, folder: Path, keys: Keys, environment: dict[str, str]) -> None:
        self.fcm = Fcm(keys.google, EMAIL, PROJECT)
        self.apns = Apns(keys.apple_public, KEY_ID, TEAM_ID, TOPIC)
        self.hms = Hms(HMS_APP, HMS_SECRET)
        self.settings = {
            "mobile_push": {
                **addresses_of(self.fcm, self.apns, self.hms),
                "seconds": 30,
            },
            "log": {"level": "debug"},
            "api": {"keys": [{"key": ADMIN_KEY, "scopes": ["admin"]}]},
            "apps": {
                APP: {
                    "jwt": [{"algorithm": "HS256", "key": SECRET}],
                    "mobile_push": keys_of_app(keys),
                }
            },
        }
        self.node = NodeProcess(
            features=FEATURES,
            settings=self.settings,
            folder=folder,
            environment=environment,
        )

    def close(self) -> None:
        for fake in (self.fcm, self.apns, self.hms):
            fake.close()

    def api(
        self, path: str, *, key: str = ADMIN_KEY, status: int = 200, **document: Any
    ) -> Any:
        answer = self.node.post(f"/api/v1/{path}", document, key=key)
        assert answer.status == status, answer.body
        return answer.json

    def token(self, user: str) -> str:
        claims = {"sub": user, "app": APP, "exp": int(time.time()) + 600}
        return jwt.encode(claims, SECRET, "HS256")

    def add(self, user: str, endpoint: str, status: int = 201) -> Any:
        token = self.token(user)
        return self.api(
            "notifications/endpoints",
            key=token,
            app=APP,
            endpoint=endpoint,
            status=status,
        )

    def test(self, user: str) -> Any:
        return self.api("notifications/test", key=self.token(user), app=APP)


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory, keys: Keys, installed: dict[str, str]
) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("node"), keys, installed)
    try:
        with site.node:
            yield site
    finally:
        site.close()


def test_devices_of_all_services_get_a_test(site: Site) -> None:
    for number, name in enumerate(SERVICES):
        site.add("ann", f"{name}:{FORMS[name].format(number)}")
    assert site.test("ann") == {"endpoints": 3}
    for name in SERVICES:
        fake = getattr(site, name)
        eventually(lambda fake=fake: len(fake.taken) == 1, what=f"the test by {name}")
        assert fake.problems == []
    assert "no token of fcm" in site.add("ann", "fcm:x y", status=400)["message"]


def test_a_device_that_is_gone_goes(site: Site) -> None:
    errors = {"fcm": "UNREGISTERED", "apns": "Unregistered", "hms": "80300007"}
    for name in SERVICES:
        device = FORMS[name].format(50)
        getattr(site, name).behave(device, Do(errors[name]))
        site.add("bob", f"{name}:{device}")
    assert site.test("bob") == {"endpoints": 3}

    def left() -> Any:
        answer = site.node.get(
            f"/api/v1/notifications/endpoints?app={APP}", key=site.token("bob")
        )
        return answer.json["endpoints"]

    eventually(lambda: left() == [], what="the end of the endpoints")
    for name in SERVICES:
        assert getattr(site, name).requests[FORMS[name].format(50)] == 1


def test_a_device_that_apple_knew_to_be_gone_before_it_came_again_stays(
    site: Site,
) -> None:
    device = FORMS["apns"].format(60)
    an_hour_ago = int(time.time() - 3600) * 1000
    site.apns.behave(device, Do("Unregistered", more={"timestamp": an_hour_ago}))
    site.add("dan", f"apns:{device}")
    site.test("dan")
    eventually(lambda: site.apns.requests[device] == 1, what="the test")
    site.test("dan")
    eventually(
        lambda: device in {each.token for each in site.apns.taken}, what="the next test"
    )


def test_the_doctor_tries_each_device(site: Site, installed: dict[str, str]) -> None:
    devices = {name: FORMS[name].format(80) for name in SERVICES}
    for name, device in devices.items():
        site.add("kim", f"{name}:{device}")
    site.hms.behave(devices["hms"], Do("80300002"))
    site.apns.update_seconds = 0.0  # the command signs a token of its own
    said = command(site, installed, "doctor", "--notify", f"{APP}/kim")
    lines = [line for line in said.splitlines() if "notification to" in line]
    assert [line.split()[0] for line in lines] == ["ok", "ok", "fail"], said
    assert "80300002" in lines[2]


def secrets_of(keys: Keys, site: Site) -> list[str]:
    """What may be shown nowhere: a line of each key, the client secret, tokens
    of ours."""
    lines = [
        *json.loads(keys.account)["private_key"].splitlines(),
        *keys.apple.splitlines(),
    ]
    tokens = [*site.fcm.issued, *site.hms.issued, *site.apns.tokens]
    return [line for line in lines if len(line) > 40] + [HMS_SECRET, *tokens]


def test_no_key_is_ever_shown(
    site: Site, keys: Keys, installed: dict[str, str]
) -> None:
    """After what succeeds and what fails: not in answers, logs, dumps and the
    audit log."""
    texts: list[str] = []
    given = {"mobile_push": keys_of_app(keys)}
    texts.append(
        json.dumps(site.api("apps/create", app="tea", settings=given, status=201))
    )
    bad = keys_of_app(keys)
    bad["apns"]["key_id"] = "short"
    for settings in (
        bad,
        account(keys, project_id="../x"),
        {"hms": {"app_secret": HMS_SECRET}},
    ):
        change = {"app": "tea", "settings": {"mobile_push": settings}}
        answer = site.node.post("/api/v1/apps/set", change, key=ADMIN_KEY)
        assert answer.status == 400, answer.body
        assert b"mobile_push" in answer.body
        texts.append(answer.body.decode())
    for name, error in (
        ("fcm", "UNAUTHENTICATED"),
        ("apns", "InvalidProviderToken"),
        ("hms", "80200001"),
    ):
        device = FORMS[name].format(70)
        getattr(site, name).behave(device, *[Do(error)] * 4)
        site.add("eve", f"{name}:{device}")
    before = site.fcm.token_requests
    site.fcm.token_answer = 400, {"error": "invalid_grant", "access_token": HMS_SECRET}
    assert site.test("eve") == {"endpoints": 3}
    eventually(lambda: site.fcm.token_requests > before, what="another token of Google")
    for name in ("apns", "hms"):
        asked = getattr(site, name).requests
        eventually(
            lambda name=name, asked=asked: asked[FORMS[name].format(70)] > 0, what=name
        )
    for path in (
        "apps",
        "apps/show?app=tea",
        f"apps/show?app={APP}",
        "audit?limit=100",
    ):
        answer = site.node.get(f"/api/v1/{path}", key=ADMIN_KEY)
        assert answer.status == 200, answer.body
        texts.append(answer.body.decode())
    texts.append(site.node.get("/metrics", key=ADMIN_KEY).body.decode())
    texts += [
        archive(site, app="tea"),
        archive(site, app=APP),
        archive(site, app=APP, user="eve"),
    ]
    assert "eve" in texts[-1]
    commands = (
        "check-config",
        "check-config --production",
        "app list",
        "doctor",
        "app show tea",
    )
    arguments = [each.split() for each in commands]
    said = [command(site, installed, *each) for each in arguments]
    assert "mobile_push" in said[0]
    assert "(hidden)" in said[0]
    assert KEY_ID in said[-1]
    site.node.process.send_signal(signal.SIGUSR2)
    eventually(
        lambda: "greenlets and loop state" in site.node.log_text,
        what="the state in the log",
    )
    texts += [*said, site.node.log_text, site.node.output]
    addresses = [FORMS[name].format(70) for name in SERVICES]
    for secret in [*secrets_of(keys, site), *addresses]:
        assert not [
            text for text in texts if secret in text or json.dumps(secret)[1:-1] in text
        ]


def archive(site: Site, **whose: str) -> str:
    id = site.api("exports/start", status=202, **whose)["id"]
    query = urlencode({"app": whose["app"], "id": id})

    def is_done() -> bool:
        state = site.node.get(f"/api/v1/exports/show?{query}", key=ADMIN_KEY).json[
            "state"
        ]
        assert state != "failed"
        return bool(state == "done")

    eventually(is_done, what="the export")
    file = site.node.get(f"/api/v1/exports/file?{query}", key=ADMIN_KEY)
    with ZipFile(BytesIO(file.body)) as parts:
        return "\n".join(
            parts.read(name).decode(errors="replace") for name in parts.namelist()
        )


def command(site: Site, environment: dict[str, str], *arguments: str) -> str:
    done = run_installed(
        environment, *arguments, "--config", str(site.node.config_file)
    )
    return done.stdout + done.stderr


def run_installed(
    environment: dict[str, str], *arguments: str
) -> "subprocess.CompletedProcess[str]":
    environment = {**clean_environment(), **environment}
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_wrong_key_ends_the_start(
    tmp_path: Path, keys: Keys, installed: dict[str, str]
) -> None:
    file = tmp_path / "config.yaml"
    app = {"open": True, "mobile_push": {"hms": {"app_id": HMS_APP}}}
    node = {"fcm_url": "ftp://x"}
    for settings, expected in (
        (
            {"apps": {APP: app}},
            rf"apps.{APP}.mobile_push.hms: expected app_id, and app_secret",
        ),
        ({"mobile_push": node}, "mobile_push.fcm_url: expected an https:// address"),
    ):
        file.write_text(
            json.dumps({"features": FEATURES, **settings}), encoding="utf-8"
        )
        done = run_installed(installed, "check-config", str(file))
        assert done.returncode != 0
        assert re.search(expected, done.stdout + done.stderr), done.stderr


HERE = Path(__file__).parent
GUIDE = ROOT / "docs" / "guides" / "phones.md"


@contextmanager
def node_of_the_guide(
    folder: Path, keys: Keys, environment: dict[str, str], **of_app: Any
) -> Iterator[tuple[Server, Fcm]]:
    """A node with the settings of the guide, but for the files of the keys, and
    Google's fake."""
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
    with closing(Fcm(keys.google, EMAIL, PROJECT)) as fcm:
        config["mobile_push"] = {
            "fcm_url": fcm.url,
            "google_oauth_url": f"{fcm.url}/token",
        }
        with Server(folder / "node", config=config, environment=environment) as server:
            yield server, fcm


def test_the_guide_does_what_it_says(
    tmp_path: Path, keys: Keys, installed: dict[str, str]
) -> None:
    with node_of_the_guide(tmp_path, keys, installed, notify={"after_seconds": 0}) as (
        server,
        fcm,
    ):
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
            new.write_text(
                json.dumps([each.content for each in tuple(fcm.taken)]), "utf-8"
            )
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
    claims = {"app": "shop", "exp": int(time.time()) + 600}
    tokens = {
        user: jwt.encode({"sub": user, **claims}, SECRET, "HS256")
        for user in ("ann", "bob")
    }
    of_app = {
        "open": False,
        "jwt": [{"algorithm": "HS256", "key": SECRET}],
        "notify": {"after_seconds": 0, "again_seconds": 0},
    }
    file = tmp_path / "taken.json"
    with (
        node_of_the_guide(tmp_path, keys, installed, **of_app) as (server, fcm),
        written(fcm, file),
    ):
        place = {
            "IM_HTTP": server.http_url,
            "IM_WS": server.ws_url,
            "IM_TAKEN": str(file),
        }
        run_node(str(HERE / "phone.test.mjs"), **place, IM_TOKENS=json.dumps(tokens))
        assert fcm.problems == []
