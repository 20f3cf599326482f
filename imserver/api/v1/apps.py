"""Routes of apps: which there are, what is set for one, a new one, a change."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import UNSET

from imserver import errors
from imserver.api.call import Api, Call
from imserver.api.reply import Answer
from imserver.api.style import Problem
from imserver.api.v1.app import (
    AppCreate,
    AppQuery,
    AppsAnswer,
    AppSet,
    AppSettingsGiven,
    AppShown,
    AppsQuery,
    TokenKeyShown,
    WebhookShown,
)
from imserver.api.v1.operation import Link, Operation
from imserver.api.v1.query import page_of, read_query
from imserver.api.v1.reach import APP_PROBLEMS
from imserver.api.v1.wire import read, reply
from imserver.auth.principal import ADMIN
from imserver.auth.tenants import BadTenant, TooManyTenants, UnknownTenant

if TYPE_CHECKING:
    from imserver.auth.tenants import Tenant

_read_create: Final = msgspec.json.Decoder(AppCreate)
_read_set: Final = msgspec.json.Decoder(AppSet)


def list_apps(api: Api, call: Call) -> Answer:
    """``GET /api/v1/apps``."""
    asked = read_query(call, AppsQuery)
    tenants = api.services.tenants
    names = [name for name in tenants.names() if call.principal.reaches(tenants.resolve(name))]
    page, following = page_of(names, asked.cursor, asked.limit)
    shown = [_shown(tenant) for tenant in map(tenants.get, page) if tenant is not None]
    return reply(call, AppsAnswer(len(names), shown, following))


def show_app(api: Api, call: Call) -> Answer:
    """``GET /api/v1/apps/show``."""
    name = read_query(call, AppQuery).app
    _require_reach(api, call, name)
    tenant = api.services.tenants.find(name)
    if tenant is None:
        raise Problem(errors.HTTP_UNKNOWN_APP)
    return reply(call, _shown(tenant))


def create_app(api: Api, call: Call) -> Answer:
    """``POST /api/v1/apps/create``."""
    asked = read(api, call, _read_create)
    _require_reach(api, call, asked.app, asked.settings)
    tenants = api.services.tenants
    try:
        created = tenants.register(asked.app, **_fields(asked.settings))
    except BadTenant as bad:
        raise Problem(errors.HTTP_INVALID_REQUEST, str(bad)) from None
    except TooManyTenants:
        raise Problem(errors.HTTP_TOO_MANY_APPS) from None
    tenant = tenants.find(asked.app)
    if not created or tenant is None:
        raise Problem(errors.HTTP_APP_EXISTS)
    return reply(call, _shown(tenant), status=201)


def set_app(api: Api, call: Call) -> Answer:
    """``POST /api/v1/apps/set``."""
    asked = read(api, call, _read_set)
    _require_reach(api, call, asked.app, asked.settings)
    tenants = api.services.tenants
    tenant = tenants.find(asked.app)
    if tenant is not None and tenant.configured:
        raise Problem(errors.HTTP_APP_CONFIGURED)
    try:
        return reply(call, _shown(tenants.change(asked.app, _fields(asked.settings), tuple(asked.unset))))
    except BadTenant as bad:
        raise Problem(errors.HTTP_INVALID_REQUEST, str(bad)) from None
    except UnknownTenant:
        raise Problem(errors.HTTP_UNKNOWN_APP) from None


def _require_reach(api: Api, call: Call, name: str, settings: AppSettingsGiven | None = None) -> None:
    """Refuse a key that does not reach the app that stands for ``name``, or the one that shall."""
    resolve = api.services.tenants.resolve
    names = [name]
    if settings is not None and settings.same_as is not UNSET:
        names.append(settings.same_as)
    if not all(call.principal.reaches(resolve(each)) for each in names):
        raise Problem(errors.HTTP_FORBIDDEN)


def _fields(settings: AppSettingsGiven) -> dict[str, Any]:
    fields: dict[str, Any] = msgspec.to_builtins(settings)
    return fields


def _shown(tenant: Tenant) -> AppShown:
    webhook = tenant.webhook
    return AppShown(
        tenant.name,
        tenant.configured,
        tenant.policy_of(tenant.name),
        tenant.same_as,
        tenant.open,
        list(tenant.dialects),
        list(tenant.origins),
        tenant.origin_policy,
        list(tenant.api_allow_from),
        [TokenKeyShown(key.algorithm, key.kid) for key in tenant.jwt],
        "required" if tenant.wants_accounts(tenant.name) else "ignored",
        WebhookShown(
            webhook.url,
            list(webhook.events),
            webhook.authorise_url,
            bool(webhook.secret or webhook.secret_file),
        ),
        tenant.max_connections,
        tenant.messages_per_second,
        tenant.max_rooms,
        tenant.keep_seconds,
        tenant.keep_messages,
        tenant.keep_talks,
        {room: list(users) for room, users in tenant.room_members.items()},
    )


_SHOWN: Final = {
    "app": "shop",
    "configured": False,
    "login_policy": "single",
    "same_as": "",
    "open": False,
    "dialects": [],
    "origins": ["shop.example.com"],
    "origin_policy": "",
    "api_allow_from": [],
    "jwt": [],
    "account_tokens": "ignored",
    "webhook": {"url": "", "events": [], "authorise_url": "", "signed": False},
    "max_connections": 0,
    "messages_per_second": 0.0,
    "max_rooms": 0,
    "keep_seconds": 0.0,
    "keep_messages": 0,
    "keep_talks": False,
    "room_members": {},
}

OPERATIONS: Final = (
    Operation(
        "GET",
        "/api/v1/apps",
        ADMIN,
        list_apps,
        "apps",
        "The apps that the key reaches, page by page",
        query=AppsQuery,
        answer=AppsAnswer,
        problems=(errors.HTTP_INVALID_REQUEST,),
        example_query={"limit": 100},
        example_answer={"count": 1, "apps": [_SHOWN], "next": ""},
    ),
    Operation(
        "GET",
        "/api/v1/apps/show",
        ADMIN,
        show_app,
        "apps",
        "What is set for an app",
        query=AppQuery,
        answer=AppShown,
        problems=APP_PROBLEMS,
        example_query={"app": "shop"},
        example_answer=_SHOWN,
    ),
    Operation(
        "POST",
        "/api/v1/apps/create",
        ADMIN,
        create_app,
        "apps",
        "A new app, stored in the database",
        "Every node knows it within two seconds, this one at once.",
        body=AppCreate,
        answer=AppShown,
        status=201,
        links=(Link("app", "get_apps_show", {"app": "$response.body#/app"}),),
        problems=(
            errors.HTTP_INVALID_REQUEST,
            errors.HTTP_FORBIDDEN,
            errors.HTTP_APP_EXISTS,
            errors.HTTP_TOO_MANY_APPS,
            errors.HTTP_STORAGE_UNAVAILABLE,
        ),
        example_body={
            "app": "shop",
            "settings": {"login_policy": "single", "origins": ["shop.example.com"]},
        },
        example_answer=_SHOWN,
    ),
    Operation(
        "POST",
        "/api/v1/apps/set",
        ADMIN,
        set_app,
        "apps",
        "Change what is set for an app that was created at run time",
        "Sessions that are there already are not ended by it.",
        body=AppSet,
        answer=AppShown,
        problems=(*APP_PROBLEMS, errors.HTTP_APP_CONFIGURED),
        example_body={"app": "shop", "settings": {"max_rooms": 100}, "unset": ["origins"]},
        example_answer={**_SHOWN, "origins": [], "max_rooms": 100},
    ),
)
