"""The pages' routes, as an HTTP client meets them."""

import json
import re
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flask import Flask, Response, g
from flask.testing import FlaskClient

from imserver.gateway.auth.authority import AllowLists, Authority, Keys
from imserver.gateway.auth.login_tokens import PageTokens
from imserver.gateway.auth.questions import AccountLookup
from imserver.gateway.auth.tokens import Claims
from imserver.gateway.config.settings import (
    ApiSettings,
    AppSettings,
    Config,
    JwtSettings,
    KeySettings,
    ServerSettings,
    TenantSettings,
)
from imserver.gateway.config.values import ConfigError, Locations
from imserver.gateway.errors import Problems
from imserver.gateway.process import Secret
from imserver.gateway.transport.proxies import TrustedProxies
from imserver.pages.address import check
from imserver.pages.blueprint import create_pages, explain

SDK_MODULES = (
    "errors",
    "imserver",
    "messenger",
    "notifications",
    "notifications-worker",
)
SECRET = Secret(b"s" * 32)
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class FakeNode:
    """What the pages need of a node. An app with keys for session tokens is
    open to nobody without one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.proxies = TrustedProxies(config.server.trusted_proxies)
        self.page_tokens = PageTokens(config, SECRET)
        self.tokens: dict[str, Claims] = {}
        """Session token → what it is good for."""
        apps = config.apps
        self.tenants = SimpleNamespace(
            resolve=lambda app: app, get=apps.get, names=lambda: sorted(apps)
        )
        self.logins: Any = SimpleNamespace(
            resolve=self.tenants.resolve,
            is_open=lambda app: app not in apps or not apps[app].jwt,
            is_closed=lambda app: False,
            session_of=self.tokens.get,
        )
        self.keys = Keys(config, self.tenants.resolve)
        self.authority = Authority(
            self.keys, self.page_tokens, self.logins, AccountLookup(), AllowLists()
        )
        self.hub = SimpleNamespace(is_online=lambda app, user: False)
        self.features: dict[str, Any] = {}
        self.http_port = 8080
        self.ws_port = 8089
        self.network = self.identity = self.node = self
        self.overview = SimpleNamespace(known={}, leases=lambda: self.overview.known)


def client_for(node: Any, document: Callable[[], bytes] = bytes) -> FlaskClient:
    app = Flask("test", static_folder=None)
    app.register_blueprint(create_pages(node, document))
    return app.test_client()


def client_of(config: Config) -> FlaskClient:
    return client_for(FakeNode(config))


@pytest.fixture
def client() -> Iterator[FlaskClient]:
    with client_of(Config()) as client:
        yield client


@pytest.mark.parametrize(
    ("origins", "around"),
    [
        (("https://shop.example.org",), "https://shop.example.org:*"),
        (
            ("shop.example.org:8443",),
            "https://shop.example.org:* http://shop.example.org:*",
        ),
        (("a.example; script-src *", "http://[::1]"), "http://[::1]:*"),
    ],
)
def test_the_origins_of_an_app_may_have_its_chat_in_a_frame(
    origins: tuple[str, ...], around: str
) -> None:
    with client_of(Config(apps={"shop": TenantSettings(origins=origins)})) as client:
        answer = client.get("/home/embed?appID=shop")
        assert (
            answer.headers["Content-Security-Policy"].count(
                f"frame-ancestors {around};"
            )
            == 1
        )
        assert page_data(answer.text)["isEmbedded"] is True


def test_an_app_without_origins_is_in_no_frame() -> None:
    apps = {"shop": TenantSettings(), "odd": TenantSettings(origins=("a b",))}
    with client_of(Config(apps=apps)) as client:
        for app in ("shop", "odd", "nobody"):
            assert client.get(f"/home/embed?appID={app}").status_code == 404


def page_data(text: str) -> dict[str, Any]:
    found = re.search(
        r'<script type="application/json" id="page-data">(.*?)</script>', text, re.S
    )
    assert found
    data: dict[str, Any] = json.loads(found[1])
    return data


def open_home(
    client: FlaskClient, query: str = "", host: str = "127.0.0.1:8080", **headers: str
) -> Any:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"/home/index{query}", headers={"Host": host, **names})


@pytest.mark.parametrize(
    ("query", "app"),
    [
        ("?appID=103", 103),
        ("?APPID=102", 102),
        ("", 101),
        ("?appID=7", 101),
        ("?appID=x", 101),
    ],
)
def test_the_room_is_the_one_asked_for_or_101(
    client: FlaskClient, query: str, app: int
) -> None:
    answer = open_home(client, query)
    assert (answer.status_code, answer.content_type) == (
        200,
        "text/html; charset=utf-8",
    )
    assert page_data(answer.text)["app"] == app
    assert f'<a href="/home/index?appID={app}" aria-current="page">' in " ".join(
        answer.text.split()
    )


def test_name_and_token_belong_together(client: FlaskClient) -> None:
    data = page_data(open_home(client, "?appID=102").text)
    tokens = PageTokens(Config(), SECRET)
    assert tokens.fits("102", data["user"], data["token"])
    assert not tokens.fits("101", data["user"], data["token"])
    assert not tokens.fits("102", "somebody", data["token"])


def test_an_app_with_session_tokens_gets_no_page_tokens() -> None:
    config = Config(
        apps={"101": TenantSettings(jwt=(JwtSettings(),)), "102": TenantSettings()}
    )
    node = FakeNode(config)
    node.tokens.update(
        good=Claims("ann", "101", 2**40), other=Claims("ann", "102", 2**40)
    )
    with client_for(node) as client:
        data = page_data(open_home(client, "?appID=101&token=good").text)
        assert (data["user"], data["token"], data["tokenUrl"]) == ("ann", "good", "")
        assert data["tokenSeconds"] > 0
        for query in ("?appID=101", "?appID=101&token=bad", "?appID=101&token=other"):
            assert open_home(client, query).status_code == 401
        assert page_data(open_home(client, "?appID=102").text)["tokenUrl"]
        assert (
            renew(client, node.page_tokens.make("101", "ann"), "101", "ann").status_code
            == 401
        )


def test_an_expired_token_leads_to_a_form_for_another_one() -> None:
    config = Config(apps={"101": TenantSettings(jwt=(JwtSettings(),))})
    app = Flask("test", static_folder=None)
    app.register_blueprint(create_pages(FakeNode(config), bytes))  # type: ignore[arg-type]
    with app.test_request_context(
        "/home/index?appID=101&token=old&lang=en", headers={"Accept": "text/html"}
    ):
        g.refusal = Problems.UNAUTHORIZED
        g.request_id = "r1"
        answer = explain(Response())
    fields = re.findall(
        r'<input[^>]* name="(\w+)"(?: value="(\w+)")?', answer.get_data(as_text=True)
    )
    assert fields == [("appID", "101"), ("lang", "en"), ("token", "")]
    assert "form-action 'self'" in answer.headers["Content-Security-Policy"]


def test_the_rooms_are_the_numbered_apps_and_a_server_with_named_ones_invents_none() -> (
    None
):
    apps = {name: TenantSettings() for name in ("7", "8", "system:x")}
    text = open_home(client_of(Config(apps=apps)), "?appID=8").text
    assert re.findall(r"/home/index\?appID=(\d+)\"", text) == ["7", "8"]
    client = client_of(
        Config(apps={name: TenantSettings() for name in ("shop", "gochat", "system:x")})
    )
    text = open_home(client, "?appID=shop").text
    assert page_data(text)["app"] == "shop"
    assert re.findall(r"/home/index\?appID=(\w+)\"", text) == ["shop"]
    for query in ("", "?appID=101", "?appID=gochat", "?appID=system:x"):
        assert open_home(client, query).status_code == 404, query
    assert "/home/index" not in client.get("/").text
    assert client.get("/home/channels").status_code == 404


def test_rooms_of_the_original_are_chinese_unless_the_address_says_otherwise(
    client: FlaskClient,
) -> None:
    english = {"Host": "127.0.0.1:8080", "Accept-Language": "en"}
    for path, language in (
        ("/home/index?appID=101", "zh-Hans"),
        ("/home/index?appID=101&lang=en", "en"),
        ("/home/index?appID=default", "en"),
        ("/home/room?uid=1", "zh-Hans"),
        ("/home/room?uid=1&lang=en", "en"),
        ("/home/room?uid=1&lang=xx", "zh-Hans"),
    ):
        text = client.get(path, headers=english).text
        assert f'<html lang="{language}">' in text, path
        if "index" in path:
            assert page_data(text)["user"].isascii() is (language == "en"), (
                "it can be typed on any keyboard"
            )
    assert re.search(
        r'href="/home/index\?appID=\w+&amp;lang=en"',
        client.get("/", headers=english).text,
    )


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/home/index", ""),
        ("/home/index?uid=1", "media-src 'self'; "),
        ("/home/room", "media-src 'self'; "),
    ],
)
def test_headers_of_the_pages(client: FlaskClient, path: str, media: str) -> None:
    headers = client.get(path, headers={"Host": "127.0.0.1:8080"}).headers
    policy = POLICY.format("'self' ws://127.0.0.1:8089 wss://127.0.0.1:8089")
    assert headers["Content-Security-Policy"] == policy.replace(
        "connect-src", f"{media}connect-src"
    )
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in headers


def test_the_page_holds_no_inline_script_style_or_foreign_address(
    client: FlaskClient,
) -> None:
    rooms = ("/home/room?uid=1", "/home/index?uid=1&to_uid=2")
    for path in ("/home/index", "/status", "/cluster", *rooms):
        text = client.get(path, headers={"Host": "127.0.0.1:8080"}).text
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", text)
        assert not re.search(r"<script(?! type=\"(application/json|module)\")", text)
        assert not re.search(r"(?:src|href)=\"(?!/|#)", text)


def test_the_host_a_trusted_proxy_or_a_setting_says_where_the_websocket_is(
    client: FlaskClient,
) -> None:
    assert page_data(open_home(client).text)["websocketUrl"] == "//127.0.0.1:8089/acc"
    behind = page_data(open_home(client, host="im.91vh.com").text)
    assert (behind["websocketUrl"], behind["seenHost"]) == (
        "//im.91vh.com/acc",
        "im.91vh.com",
    )
    room = page_data(client.get("/home/room?uid=1", headers={"Host": "ws.test"}).text)
    assert (room["websocketUrl"], room["seenHost"]) == ("//ws.test/ws", "ws.test")
    forwarded = {"X_Forwarded_Host": "im.example.com"}
    assert (
        page_data(open_home(client, **forwarded).text)["websocketUrl"]
        == "//im.example.com/acc"
    )
    stranger = client_of(Config(server=ServerSettings(trusted_proxies=("10.0.0.0/8",))))
    assert (
        page_data(open_home(stranger, **forwarded).text)["websocketUrl"]
        == "//127.0.0.1:8089/acc"
    )
    app = AppSettings(http_url="127.0.0.1:8080", websocket_url="127.0.0.1:8089")
    answer = open_home(client_of(Config(app=app)), host="localhost:8080")
    data = page_data(answer.text)
    assert (data["httpUrl"], data["websocketUrl"]) == (
        "//127.0.0.1:8080",
        "//127.0.0.1:8089/acc",
    )
    assert "http://127.0.0.1:8080" in answer.headers["Content-Security-Policy"]


@pytest.mark.parametrize("host", ["a;b", "a b", "x'y"])
def test_a_host_that_is_none_is_refused(client: FlaskClient, host: str) -> None:
    for path in ("/home/index", "/home/room?uid=1"):
        assert client.get(path, headers={"Host": host}).status_code == 400


@pytest.mark.parametrize(
    ("config", "setting"),
    [
        (Config(app=AppSettings(websocket_url="no address")), "app.websocket_url"),
        (
            Config(server=ServerSettings(public_ws_url="no address")),
            "server.public_ws_url",
        ),
    ],
)
def test_a_configured_address_that_is_none_stops_the_start(
    config: Config, setting: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(setting)):
        check(config, Locations("a test"))


def test_words_that_come_from_the_request_are_escaped(client: FlaskClient) -> None:
    text = open_home(client, "?appID=101&lang=</script><b>").text
    assert "<b>" not in text.partition("<body>")[0]
    assert "</script><b>" not in text


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("/status", "/system/state?detail=true"),
        ("/cluster", "/system/state?cluster=true&detail=true"),
    ],
)
def test_a_page_for_operators_names_only_itself(
    client: FlaskClient, path: str, state: str
) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == POLICY.format("'self'")
    assert page_data(answer.text)["stateUrl"] == state
    assert f'<a href="{path}" aria-current="page">' in answer.text


@pytest.mark.parametrize(
    ("path", "content_type"),
    [
        ("/static/theme.css", "text/css; charset=utf-8"),
        ("/favicon.ico", "image/svg+xml; charset=utf-8"),
        ("/static/embed.js", "text/javascript; charset=utf-8"),
        *(
            (f"/sdk/{name}.js", "text/javascript; charset=utf-8")
            for name in SDK_MODULES
        ),
    ],
)
def test_files_are_served_and_revalidated(
    client: FlaskClient, path: str, content_type: str
) -> None:
    with client.get(path) as answer:
        assert answer.status_code == 200
        assert answer.content_type == content_type
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        etag = answer.headers["ETag"]
    with client.get(path, headers={"If-None-Match": etag}) as again:
        assert (again.status_code, again.data) == (304, b"")


def test_other_sites_may_import_the_sdk_but_not_the_pages_scripts(
    client: FlaskClient,
) -> None:
    with client.get("/sdk/imserver.js") as sdk, client.get("/static/chat.js") as script:
        assert sdk.headers["Access-Control-Allow-Origin"] == "*"
        assert "Access-Control-Allow-Origin" not in script.headers


@pytest.mark.parametrize(
    "path",
    ["/static/../setup.py", "/static/%2e%2e/setup.py", "/static/none.js", "/static/"],
)
def test_nothing_else_is_served(client: FlaskClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_start_in_demo_mode_shows_a_push_to_this_port_the_apps_and_the_pages(
    client: FlaskClient,
) -> None:
    page = client.get(
        "/", headers={"Host": "127.0.0.1:8123", "Accept-Language": "en"}
    ).text
    assert "http://127.0.0.1:8123/api/v1/push" in page
    assert '{"app":"default","user":"ann"' in page
    assert "<code>102</code>" in page
    assert "imserver init" in page
    room = "/home/index?appID=default&amp;lang=en"
    for link in (room, "/home/channels", "/home/messages", "/api/v1/docs", "/status"):
        assert f'href="{link}"' in page
    assert (
        page.index('href="/home/messages"')
        < page.index("For programmers")
        < page.index(f'href="{room}"')
    )
    assert (
        "正在运行" in client.get("/?lang=zh", headers={"Host": "127.0.0.1:8123"}).text
    )


@pytest.mark.parametrize("insecure", [False, True])
def test_the_start_in_demo_mode_says_who_may_do_everything(insecure: bool) -> None:
    page = (
        client_of(Config(server=ServerSettings(insecure=insecure)))
        .get("/?lang=en")
        .text
    )
    assert ("Anybody who reaches this server may do everything" in page) is insecure
    assert ("from this machine only" in page) is not insecure


def test_the_page_of_channels_gives_no_token_and_needs_one_in_an_app_that_is_not_open() -> (
    None
):
    node = FakeNode(
        Config(
            apps={"shop": TenantSettings(), "101": TenantSettings(jwt=(JwtSettings(),))}
        )
    )
    node.tokens.update(
        good=Claims("ann", "101", 2**40), other=Claims("ann", "shop", 2**40)
    )
    with client_for(node) as client:
        data = page_data(client.get("/home/channels?appID=shop&channel=a:b").text)
        assert (data["app"], data["token"], data["channel"]) == ("shop", "", "a:b")
        assert data["user"]
        data = page_data(client.get("/home/channels?appID=101&token=good").text)
        assert (data["app"], data["user"], data["token"]) == ("101", "ann", "good")
        for query, status in (
            ("101", 401),
            ("101&token=other", 401),
            ("none", 404),
            ("system:x", 404),
        ):
            assert client.get(f"/home/channels?appID={query}").status_code == status
        answer = client.get(
            "/home/channels?appID=shop", headers={"Host": "127.0.0.1:8080"}
        )
        connect = "'self' ws://127.0.0.1:8089 wss://127.0.0.1:8089"
        assert answer.headers["Content-Security-Policy"] == POLICY.format(connect)


def test_the_start_of_a_server_with_keys_names_no_app_and_says_what_lists_what_is_open() -> (
    None
):
    keyed = Config(
        api=ApiSettings(keys=(KeySettings("k" * 20, ("push",)),)),
        apps={
            "shop": TenantSettings(jwt=(JwtSettings(),)),
            "default": TenantSettings(jwt=(JwtSettings(),)),
        },
    )
    page = (
        client_of(keyed)
        .get("/", headers={"Host": "127.0.0.1:8123", "Accept-Language": "en"})
        .text
    )
    for absent in ("shop", "default", "/home/index", "/home/messages"):
        assert absent not in page, "nobody may open it without a token"
    for there in ("Bearer $KEY", "imserver chat", "check-config --production"):
        assert there in page


def renew(client: FlaskClient, token: str, app: str, user: str) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return client.post(
        "/home/token", data={"appID": app, "userID": user}, headers=headers
    )


def test_a_page_token_is_renewed_for_its_own_app_and_user_only(
    client: FlaskClient,
) -> None:
    data = page_data(open_home(client).text)
    answer = renew(client, data["token"], "101", data["user"])
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["seconds"] == Config().api.page_token_seconds
    assert PageTokens(Config(), SECRET).fits("101", data["user"], answer.json["token"])
    assert renew(client, data["token"], "102", data["user"]).status_code == 401
    assert renew(client, data["token"], "101", "somebody").status_code == 401


@pytest.mark.parametrize("token", ["", "page.x.y.z", "k" * 30])
def test_without_a_page_token_nothing_is_renewed(
    client: FlaskClient, token: str
) -> None:
    assert renew(client, token, "101", "somebody").status_code == 401
