"""A node in this process without listeners, and every kind of principal that
may ask it something."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import urlencode

import jwt
import msgspec
from msgspec.structs import replace

from imserver.gateway.auth.principal import Principal
from imserver.gateway.config.settings import (
    ApiSettings,
    Config,
    JwtSettings,
    KeySettings,
    LogSettings,
    ServerSettings,
    StorageSettings,
    TenantSettings,
    WebhookSettings,
)
from imserver.gateway.http.call import Route, answer
from imserver.gateway.logging import RequestLog
from imserver.gateway.node.flask_app import create_app
from imserver.gateway.node.node import Node
from imserver.gateway.transport.http1 import HttpRequest, HttpResponse
from tests.rows import ROUTES

if TYPE_CHECKING:
    from imserver.people.accounts.contract import Account
    from imserver.people.accounts.parts import AccountParts

SECRET: Final = "a secret of the back end, long enough"
RULED: Final = TenantSettings(
    jwt=(JwtSettings("HS256", SECRET),),
    account_tokens="required",
    api_allow_from=("10.0.0.0/8",),
)
OPEN: Final = TenantSettings(open=True)
FAMILIES: Final = ("", "system:", "action:")
"""Prefixes of the apps of the dialects, so that one number stands for one app
in each of them."""
APPS: Final = {
    **{f"{family}201": RULED for family in FAMILIES},
    **{f"{family}202": replace(RULED, api_allow_from=()) for family in FAMILIES},
    **{f"{family}203": TenantSettings(same_as=f"{family}201") for family in FAMILIES},
    **{f"{family}204": OPEN for family in FAMILIES},
    **{f"{family}206": TenantSettings(same_as=f"{family}204") for family in FAMILIES},
    "205": TenantSettings(),
    "207": TenantSettings(
        webhook=WebhookSettings(secret="x" * 20, authorise_url="http://127.0.0.1:1/")
    ),
    "gochat": TenantSettings(),
}
"""201 is the app of most principals, 202 a foreign one, 203 an alias of 201.
204 is open, 206 its alias; 205 has no rule and is not open; 207 asks its back
end."""
OF_201: Final = tuple(f"{family}201" for family in FAMILIES)
OF_202: Final = tuple(f"{family}202" for family in FAMILIES)


def searched(*apps: str) -> dict[str, TenantSettings]:
    """The apps; the people of these are searched by their names."""
    from imserver.people.accounts.declared import AccountsOfApp, AppAccountSettings

    rules = AccountsOfApp(AppAccountSettings(search=True))
    return {
        **APPS,
        **{
            app: replace(APPS[app], of_features=(*APPS[app].of_features, rules))
            for app in apps
        },
    }


def key(*scopes: Any, apps: tuple[str, ...] = OF_201) -> KeySettings:
    return KeySettings(
        f"key-of-a-test-that-may-{'-'.join(scopes)}-{'-'.join(apps)}", scopes, apps
    )


PUSH = key("push")
READ = key("read")
ADMIN = key("admin")
ALL = key("admin", apps=())
METRICS = key("metrics", apps=())
FOREIGN = key("push", "read", "admin", apps=OF_202)
KEYS: Final = (PUSH, READ, METRICS, ADMIN, FOREIGN, ALL)


def config(folder: Path, **more: Any) -> Config:
    """The settings of a node whose data are in ``folder``."""
    answer = Config(
        apps=APPS,
        server=ServerSettings(data_dir=str(folder)),
        api=ApiSettings(keys=KEYS),
        storage=StorageSettings(look_seconds=60.0),
    )
    return replace(answer, **more)


class Harness:
    """A node, and what is asked of it."""

    def __init__(self, settings: Config) -> None:
        silent = RequestLog(cast(Any, SimpleNamespace(write=len)), LogSettings())
        self.node = Node(settings, silent, create_app)
        self.node.start(listeners=False)
        self.web = self.node.servers.application.test_client()  # type: ignore[attr-defined]
        self._accounts = 0

    def close(self) -> None:
        self.node.stop()

    # --- principals -----------------------------------------------------------

    def session(self, app: str, user: str = "u1") -> str:
        """A session token."""
        return jwt.encode(
            {"sub": user, "app": app, "exp": time.time() + 600}, SECRET, "HS256"
        )

    @property
    def people(self) -> AccountParts:
        from imserver.people.accounts.parts import accounts_of

        return accounts_of(self.node.core)

    def account(self, app: str, role: Any = "") -> str:
        """The token of a new account."""
        self._accounts += 1
        account = self._new_account(app, f"1380{self._accounts:07}", "no hash")
        if role:
            self.people.people.set_role(
                Principal("command", apps=None), app, account.user, role
            )
        return self.people.accounts.token(account).token

    def guest(self, app: str, nickname: str = "Gil") -> str:
        """The token of a new guest."""
        return self.people.accounts.token(
            self._new_account(app, "", "", nickname, guest=True)
        ).token

    def _new_account(
        self, app: str, phone: str, password: str, nickname: str = "", **more: bool
    ) -> Account:
        from imserver.people.accounts.contract import Account

        return self.people.rows.add(Account(0, app, phone, nickname, **more), password)

    def bot(self, app: str) -> str:
        """The token of a new bot of the back end."""
        from imserver.people.bots.parts import bots_of

        return bots_of(self.node.core).bots.create(app, "", "")[1]

    def page(self, app: str, user: str = "u1") -> str:
        return self.node.core.page_tokens.make(app, user)

    # --- asking ---------------------------------------------------------------

    def ask(
        self,
        route: Route,
        headers: dict[str, str] | None = None,
        query: dict[str, Any] | None = None,
        body: Any = b"",
        host: str = "192.0.2.1",
        path: str = "",
        sign: Callable[[str, str, dict[str, Any], bytes], dict[str, str]] | None = None,
    ) -> HttpResponse:
        """Ask a row of the table. ``body``: bytes, fields of a form, or (in a
        list of one) JSON.

        ``path``: if the row has a pattern. ``sign``: (method, path, query,
        body) → the query with a signature.
        """
        sent = dict(headers or {})
        if isinstance(body, dict):
            sent["content-type"] = "application/x-www-form-urlencoded"
            body = urlencode(body, doseq=True).encode()
        elif isinstance(body, list):
            sent["content-type"] = "application/json"
            body = msgspec.json.encode(body[0])
        path = path or route.path
        if sign is not None:
            query = sign(route.method, path, query or {}, body)
        text = urlencode(query or {}).encode()
        api = self.node.servers.api
        request = HttpRequest(route.method, path, text, body, sent, host)
        return answer(api, api.endpoints[route.method, route.path], request)

    def call(
        self, method: str, path: str, document: Any = None, token: str = "", **more: Any
    ) -> Any:
        """Ask a path for JSON; (status, decoded body)."""
        route = next(row for row in ROUTES if (row.method, row.path) == (method, path))
        headers = {"authorization": f"Bearer {token}"} if token else {}
        headers |= more.pop("headers", {})
        finished = self.ask(
            route, headers, body=b"" if document is None else [document], **more
        )
        return finished.status, msgspec.json.decode(
            finished.body
        ) if finished.body else None


def written(rows: dict[str, list[str]], columns: Sequence[str], spaces: int) -> str:
    """A table of what was found as text. ``spaces``: of a column."""
    width = max(map(len, rows)) + 2
    head = "".join(each.ljust(spaces) for each in columns)
    lines = [f"{'# row'.ljust(width)}{head}".rstrip()]
    lines += [
        f"{name.ljust(width)}{''.join(each.ljust(spaces) for each in cells)}".rstrip()
        for name, cells in rows.items()
    ]
    return "\n".join(lines) + "\n"
