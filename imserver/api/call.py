"""What a route function gets: the call, and the node's services; and the row that declares a route."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Literal

import gevent
from msgspec import UNSET, Struct

from imserver.api.form import parse_pairs
from imserver.api.rates import Rates, TalkRates
from imserver.api.reply import BAD_PARAMETER, CMD, ApiProblem, RequestRefused, Style
from imserver.auth.principal import Need, Principal, may
from imserver.config.settings import Config
from imserver.errors import (
    HTTP_FORBIDDEN,
    HTTP_INVALID_REQUEST,
    HTTP_NOT_ALLOWED,
    HTTP_TOKEN_INVALID,
    HTTP_UNKNOWN_APP,
)
from imserver.transport.exchange import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from imserver.parts import Parts

_number = re.compile(r"[+-]?[0-9]{1,12}", re.ASCII)

_BROADCAST_SECONDS = 60.0
_LOOK_SECONDS = 0.005


class Api:
    """The parts of the node that routes reach, and the limits they keep.

    Owner: the node. One instance serves both HTTP servers.
    """

    def __init__(self, services: Parts) -> None:
        self.services = services
        self.presence = services.presence
        self.pushes = services.pushes
        self.sessions = services.sessions
        self.dedupe = services.dedupe
        self.keys = services.keys
        self.authority = services.authority
        self.metrics = services.metrics
        self.rates = Rates(services.config.api.requests_per_second)
        self.talk_rates = TalkRates(self._messages_per_second)
        self.reload(services.config)

    def reload(self, config: Config) -> None:
        """Take over what of the configuration the API keeps to."""
        self.dedupe.shared = self.keys.demo
        if self.rates.per_second != config.api.requests_per_second:
            self.rates.set(config.api.requests_per_second)
        pending, limits = self.services.pending, config.limits
        pending.limit_pushes, pending.limit_bytes = limits.pending_pushes, limits.pending_bytes
        self.batch_targets = config.limits.batch_targets
        self.body_bytes = config.limits.body_bytes
        self.push_characters = max(1, config.limits.outbox_bytes // 8)
        """Longest push. JSON takes up to six bytes a character, so a frame always fits an empty outbox."""
        self.message_bytes = config.limits.message_bytes
        """Longest message of an account: as over a connection."""
        self._limit_messages = config.limits.messages_per_second

    def _messages_per_second(self, app: str) -> float:
        """How many messages one connection to an app may send; 0: any number."""
        tenant = self.services.tenants.get(app)
        limits = (self._limit_messages, tenant.messages_per_second if tenant is not None else 0.0)
        return min((each for each in limits if each), default=0.0)


def wait_for_broadcast(api: Api, since: int) -> None:
    """Return when what broadcasts have put into outboxes since then is mostly written.

    So whoever sends to very many learns of it when they have it, and cannot send faster than that.
    """
    deadline = monotonic() + _BROADCAST_SECONDS
    while not api.services.flusher.drained(since) and monotonic() < deadline:
        gevent.sleep(_LOOK_SECONDS)


class Call(Struct):
    """One request with what it names.

    ``params`` are the parameters by folded name, ``fields`` is the object of a JSON body, ``pairs`` are the
    fields of a multipart form. Rows with a ``read`` of their own have ``asked`` instead: what it has read.
    ``app`` is the resolved app, ``""`` where the request names none. ``user`` is the user on whose behalf the
    request is made (of rows with a ``user`` rule).
    """

    params: dict[str, str]
    app: str
    principal: Principal
    request: HttpRequest
    body: bytes = b""
    fields: dict[str, Any] | None = None
    pairs: list[tuple[str, str]] | None = None
    asked: Any = None
    user: str = ""

    @property
    def is_back_end(self) -> bool:
        """Whether a back end asks, and no user by their own token. It may do what no user may."""
        return not self.principal.user

    def texts(self, name: str) -> Sequence[str]:
        """All values of a parameter that may be repeated: a JSON list, or a form field given repeatedly."""
        if self.fields is None:
            pairs = parse_pairs(self.body) if self.pairs is None else self.pairs
            return [value for key, value in pairs if key.lower() == name]
        values = self.fields.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise RequestRefused(BAD_PARAMETER)
        return values


def app_number(text: str) -> str:
    """The number that an ``appID`` is, in decimal; ``""`` if it is none."""
    return str(int(text)) if _number.fullmatch(text) else ""


def app_named(api: Api, app_id: str) -> str:
    """The app that an ``appID`` names: its number in decimal; ``""`` for 0 and for what is no number."""
    tenants = api.services.tenants
    tenant = tenants.get(app_id)
    if tenant is not None and app_id.isdecimal():
        return tenant.same_as or app_id
    name = app_number(app_id)
    return "" if name == "0" else tenants.resolve(name)


def app_from_json(api: Api, app_id: object) -> str:
    """The app that an ``appID`` in JSON names: a number of 32 bits, or its digits as text."""
    if isinstance(app_id, str):
        return app_named(api, app_id)
    if type(app_id) is not int or not 0 <= app_id < 2**32:
        raise RequestRefused(BAD_PARAMETER)
    return app_named(api, str(app_id))


# --- routes -------------------------------------------------------------------------------------------------

AppRule = Literal["", "any", "optional", "known", "named", "settings", "all"]
"""Which app a principal must reach.

========= ======================================================================================
``""``    no app
any       the app of the request; a back end that names none may ask about all that it reaches
optional  as any; an app that is named must exist
known     the app of the request, which must exist
named     the app of the request, which need not exist
settings  as named. To change an alias, or to make one, takes more: see :func:`prepare`
all       all apps
========= ======================================================================================
"""
UserRule = Literal["", "required", "optional"]
"""Whether a request is made on behalf of a user. Users act for themselves; a back end names the user."""


class Route(Struct, frozen=True):
    """One row of the table of routes. ``need``: what a principal must have proved. ``app`` and ``user``: in
    which app, and on whose behalf.

    ``hot``: the front answers it. ``read``: reads the request, sets ``call.asked`` and ``call.app`` (None:
    parameters are read from query, form or JSON). ``app_of``: the app that these parameters name, if it is
    not the number in ``appID``. ``style``: how it refuses, and whether it answers on WebSocket listeners.
    ``limited``: requests count against the rate of their key. ``user_in``: the parameter in which a user (of
    a page, or with a session token) must name themselves. ``token_in``: the header with the token of a user
    where it is not ``authorization``; ``?token``: the query may have it. ``need_with``: a parameter which,
    being ``true``, needs more.
    """

    method: str
    path: str
    need: Need
    function: Callable[[Api, Call], HttpResponse]
    app: AppRule = ""
    user: UserRule = ""
    hot: bool = False
    read: Callable[[Api, Call], None] | None = None
    style: Style = CMD
    limited: bool = False
    app_of: Callable[[Api, Mapping[str, str]], str] | None = None
    user_in: str = ""
    token_in: str = ""
    need_with: tuple[str, Need] | None = None


_NOT_REACHED: Final = {"account": HTTP_TOKEN_INVALID, "session": HTTP_NOT_ALLOWED}
"""Kind of a principal → the refusal of a request for an app that it does not reach."""


def prepare(api: Api, route: Route, call: Call) -> None:
    """Read the call of a principal who was admitted, and authorise it: then its function may run.

    Whether the principal may do what the route does, in the app and for the user of the call, is checked
    here and in :func:`imserver.api.routes.admit`, and nowhere else. May switch. Raises :class:`ApiProblem`,
    :class:`RequestRefused` and :class:`imserver.api.form.BadBody`.
    """
    if route.read is not None:
        route.read(api, call)
    principal, rule = call.principal, route.app
    if rule == "settings":
        _require_settings(api, route, call)
    elif rule == "optional" and call.app:
        require_app(api, principal, route.need, call.app)
    elif rule == "known" or (rule and principal.apps is not None):
        require_app(api, principal, route.need, call.app, rule)
    if principal.user:
        if route.user_in and call.params.get(route.user_in) != principal.user:
            raise ApiProblem(HTTP_FORBIDDEN)
        if route.user:
            if call.user not in ("", principal.user):
                raise ApiProblem(HTTP_NOT_ALLOWED, "The token belongs to another user")
            call.user = principal.user
    elif route.user == "required" and not call.user:
        raise ApiProblem(HTTP_INVALID_REQUEST, "`user`: name the user on whose behalf you ask")
    if route.need_with is not None:
        name, need = route.need_with
        if call.params.get(name) == "true" and not may(principal, need):
            raise ApiProblem(HTTP_FORBIDDEN)


def require_app(api: Api, principal: Principal, need: Need, app: str, rule: AppRule = "known") -> None:
    """Refuse a principal who may not do this in ``app``, a resolved name.

    May switch. Raises :class:`ApiProblem`.
    """
    apps = principal.apps
    if apps is not None and (app not in apps or rule == "all"):
        asks_all = rule in ("any", "optional") and not app and not principal.user
        if not asks_all and (rule == "all" or not may(principal, need, app)):
            raise ApiProblem(_NOT_REACHED.get(principal.kind, HTTP_FORBIDDEN))
    if rule == "known" and app not in api.services.hub.apps and api.services.tenants.find(app) is None:
        raise ApiProblem(HTTP_UNKNOWN_APP)


def _require_settings(api: Api, route: Route, call: Call) -> None:
    """Refuse who may not give an app these settings.

    An alias belongs to its target, but nobody who reaches only the target may change it: they could give it
    settings of its own and then cut it loose. That takes a principal for all apps.
    """
    tenants, principal, asked = api.services.tenants, call.principal, call.asked
    require_app(api, principal, route.need, call.app, "named")
    if principal.apps is not None and call.app != asked.app:
        raise ApiProblem(HTTP_FORBIDDEN, "To change an alias takes a key for all apps")
    if asked.settings.same_as is not UNSET:
        require_app(api, principal, route.need, tenants.resolve(asked.settings.same_as), "named")
