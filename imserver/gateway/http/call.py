"""Answers requests: the row that declares a route, and the call that its
function gets.

Both servers call :func:`answer`, which admits, reads, authorises, runs and
answers each request once.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from typing import Any, Final, Literal

import gevent
import msgspec
from msgspec import UNSET, Struct

from imserver.gateway.auth.authority import TOKEN_HOLDERS, bearer, refusal
from imserver.gateway.auth.observer import Act
from imserver.gateway.auth.principal import (
    DEMO,
    NOBODY,
    BadSignature,
    Need,
    Needs,
    Principal,
)
from imserver.gateway.auth.rates import TooManyRequests
from imserver.gateway.config.settings import Config
from imserver.gateway.core.core import Core
from imserver.gateway.errors import Problems, QuotaSpent, ServiceRefused, Unavailable
from imserver.gateway.http.form import (
    FORM,
    MAX_VALUES,
    BadBody,
    app_from_json,
    app_named,
    parse_body,
    parse_form,
    parse_json,
    parse_pairs,
)
from imserver.gateway.http.limits import Limits, Rates, spent, too_many
from imserver.gateway.http.reply import CMD, PROBLEM, ApiProblem, RequestRefused, Style
from imserver.gateway.http.wire import (
    GZIP_BYTES,
    T,
    compressed,
    decode_whole,
    inflate,
    read_query,
    require_few_commands,
)
from imserver.gateway.model import encode_json
from imserver.gateway.protocol.forgiving import (
    BACKSLASH,
    check_json,
    has_nul,
    values_in,
)
from imserver.gateway.transport.http1 import (
    Headers,
    HttpRequest,
    HttpResponse,
    patterns_of,
)

log = logging.getLogger(__name__)


class Api:
    """The parts that answer requests: permissions, limits, and all routes with
    their services.

    The functions of routes take services from ``core``, or have a service of
    their own, which is made from ``core`` once. ``commands`` are the commands
    that a batch may contain, by name. ``document`` makes the OpenAPI document
    as JSON. Its arguments are ``limits.batch_targets``, whether demo mode is
    on, and the path of ``app.http_url``. The node owns the only instance, which
    serves both HTTP servers.
    """

    def __init__(
        self,
        core: Core,
        routes: Sequence[Route],
        commands: Mapping[str, Route],
        document: Callable[[int, bool, str], bytes],
    ) -> None:
        """Take the services of the node, and bind each route to its own
        service.

        ``commands`` and ``document`` are described at the class.
        """
        config = core.config
        # Attributes of the core are looked up once: each request uses some of
        # them.
        self.authority = core.authority
        self.keys = core.keys
        self.uses = core.keys.uses
        self.tenants = core.tenants
        self.channels = core.channels
        self.sessions = core.sessions
        self.mutes = core.mutes
        self._denials = core.denials
        self.apps = core.hub.apps
        """Apps of the hub, by name. Most requests name one of them."""
        self.flusher = core.network.flusher
        self.limits = Limits(config.limits, core.tenants)
        self.rates = Rates(
            config.api.requests_per_second,
            self.limits.messages_per_second,
            core.metrics,
            core.buckets,
        )
        self.document = document
        self.core = core
        self._observer = core.observer
        self._services: dict[MakeService, Any] = {}
        self.endpoints = {(row.method, row.path): self.bind(row) for row in routes}
        """Method and path → route, in the order of the routes."""
        self.commands = {name: self.bind(row) for name, row in commands.items()}
        """Name → command of a batch."""
        self._styles = {row.path: row.style for row in routes}
        """Path → the form in which its requests are refused."""

    def bind(self, route: Route) -> Endpoint:
        """Return the route together with the service that answers it.

        Routes with the same ``service`` function share one service, which is
        made for the first of them.
        """
        make = route.service
        service = None
        if make is not None:
            if make not in self._services:
                self._services[make] = make(self.core, self)
            service = self._services[make]
        return Endpoint(route, service, f"{route.method} {route.path}")

    def described(self) -> bytes:
        """Make the OpenAPI document of this server as JSON.

        It has the limits of this server, and requires keys where this server
        does.
        """
        return self.document(
            self.limits.batch_targets, self.keys.demo, self.core.config.root
        )

    def call_of(self, endpoint: Endpoint, request: HttpRequest) -> Call:
        """Admit, read and authorise a request, and count it against the rate.

        The caller reads the body of the request. ``endpoint`` is the route, as
        :meth:`bind` returns it. May switch greenlets. Raises
        :class:`ApiProblem`, :class:`RequestRefused` and Unavailable.
        """
        principal = admit(self, endpoint, request)
        if isinstance(principal, HttpResponse):
            raise RequestRefused(principal)

        call = None
        # Every error below means a refusal, even an unexpected error.
        is_refused = True
        try:
            call = read(self, endpoint, request, principal)
            authorise(self, endpoint.route, call)
            self.rates.require(principal, request.host)
            is_refused = False
        except ApiProblem as problem:
            self.report(request, problem, principal, call)
            raise
        finally:
            self.count(endpoint, principal, call, request, is_refused)
        return call

    def run(
        self, endpoint: Endpoint, principal: Principal, request: HttpRequest
    ) -> HttpResponse:
        """Answer a second request of a principal that was admitted for a first
        request.

        The second request is a command of a batch, for example. The rules of
        its route apply, but it does not count against the rate. May switch
        greenlets.
        """
        route = endpoint.route
        if principal.may(route.need):
            return _carry_out(self, endpoint, request, principal, is_limited=False)
        problem = ApiProblem(*refusal(principal, route.need))
        self.count(endpoint, principal, None, request, refused=True)
        return refused(self, route, request, problem, principal)

    def count(
        self,
        endpoint: Endpoint,
        by: Principal,
        call: Call | None,
        request: HttpRequest,
        refused: bool,
    ) -> None:
        """Count a request for the report about the use of keys and deprecated
        forms.

        Requests with a key are counted; deprecated forms are counted for every
        principal. ``call`` is None if the request was not read. The counts have
        no ids and no addresses of people.
        """
        is_key = by.kind == "key"
        if is_key:
            key = by.key
        else:
            key = by.kind
        # The address of a back end helps to find the old client. The address of
        # a person must not be kept.
        if by.user or by.staff:
            host = ""
        else:
            host = request.host
        if call is None:
            app = ""
        else:
            app = call.app

        # If the whole route is deprecated, its form is "".
        if is_key or "" in endpoint.route.deprecated:
            self.uses.add((key, endpoint.name, app, host), refused)
        # Most requests use no deprecated form.
        if call is not None and call.old:
            for form in call.old:
                self.uses.add((key, f"{endpoint.name} {form}", app, host), refused)

    def report(
        self,
        request: HttpRequest,
        refusal: ApiProblem,
        principal: Principal,
        call: Call | None = None,
    ) -> None:
        """Report a refused request to the observers, which log and count
        refusals.

        ``call`` is None if the request was not read. Never switches greenlets.
        """
        app = ""
        user = ""
        if call is not None:
            app = call.app
            user = call.user
        self._denials.request(
            request,
            refusal.problem,
            principal,
            app=app,
            user=user,
            detail=refusal.detail,
            rate=refusal.rate,
        )

    def read_json(self, call: Call, decoder: msgspec.json.Decoder[T]) -> T:
        """Decode the JSON body of a request, and decompress it first if needed.

        Only known principals may compress a body. Raises :class:`ApiProblem`.
        """
        body = unpacked_body(call, self.limits.one_body_bytes)
        return Call.decode_json(decoder, body, self.limits.one_body_values)

    def identify(self, call: Call, need: Need, token: str) -> Principal:
        """Return the principal of a request whose body may have a token.

        ``token`` is the token of a user, or ``""`` if the body has no token.
        The user becomes the principal of the call, and the request counts
        against the rate of the user. May switch greenlets. Raises
        :class:`ApiProblem` if the request has no principal that is accepted,
        and Unavailable.
        """
        principal = call.principal
        host = call.request.host
        # If the headers have a key or a user, the token in the body is not
        # used.
        if token and not (principal.key or principal.user):
            principal = self.authority.identify(need, {}, host, token)
            call.act_as(principal)
            self.rates.require(principal, host)
        if principal.kind == "nobody":
            raise ApiProblem(*refusal(principal, need))
        return principal

    def acted(
        self, name: str, call: Call, answer: Any = None, given: Any = None
    ) -> None:
        """Report to the observer what a call has changed, for routes whose
        function does not make the whole change.

        ``name``: the name of the act. ``answer``: the struct that the function
        returned. ``given``: the input of the act; None means the input of the
        call. May switch greenlets.
        """
        if given is None:
            given = call.input
        if given is None:
            given = call.params
        act = Act(
            name,
            by=call.principal,
            app=call.app,
            user=call.user or getattr(given, "user", ""),
            address=call.request.host,
            request=call.request.id,
            facts=call.facts,
            gone=call.gone,
            given=given,
            answer=answer,
        )
        self._observer.acted(act)

    def style_of(self, path: str) -> Style:
        """Return the form in which requests for a path are refused.

        If the path has no route, the form is the form of ``/api/v1``.
        """
        for path_or_pattern in (path, *patterns_of(path)):
            if path_or_pattern in self._styles:
                return self._styles[path_or_pattern]
        return PROBLEM

    def reload(self, config: Config) -> None:
        """Apply the limits of a configuration that was read again."""
        if self.rates.per_second != config.api.requests_per_second:
            self.rates.set(config.api.requests_per_second)
        self.limits.set(config.limits)


class Call(Struct):
    """One request with its parameters.

    Functions of routes with an ``act`` may set what observers get: ``act``,
    ``user``, ``facts`` and ``gone``.
    """

    params: dict[str, str]
    """The parameters by name in lower case. Empty if the route has a ``shape``
    or its own ``read``."""
    app: str
    """The app of the request, an alias resolved to its target; ``""`` if the
    request names no app."""
    principal: Principal
    request: HttpRequest
    body: bytes = b""
    fields: dict[str, Any] | None = None
    """The object of a JSON body by name in lower case. It is None if the body
    is not JSON."""
    pairs: list[tuple[str, str]] | None = None
    """The fields of a multipart form. It is None for another body."""
    input: Any = None
    """The query or body as a Struct, if the route has a ``shape``, or the
    object that its own ``read`` has set; else None."""
    user: str = ""
    """The user for whom the request is made, in routes with a ``user`` rule.
    For observers: the user whom the act concerns."""
    cost: int = 1
    """The number of requests as which this request counts against the rate."""
    act: str | None = None
    """The name of the act for observers. None means the name in the route, and
    ``""`` means that the request has changed nothing."""
    facts: Mapping[str, Any] | None = None
    """The facts for observers. None means the facts of the input."""
    gone: bool = False
    """Whether the act has removed its user, as in :class:`Act`."""
    old: Sequence[str] = ()
    """The deprecated forms that the request uses (``Route.deprecated``)."""

    def act_as(self, principal: Principal) -> None:
        """Set another principal, if the headers have not proved who makes the
        request.

        For example, a token in the body has proved who makes the request.
        """
        self.principal = principal
        self.request.by = principal.label

    @property
    def is_back_end(self) -> bool:
        """Whether a back end makes the request, and not a user.

        A back end may do everything in its apps.
        """
        return not self.principal.user

    @property
    def credential(self) -> str:
        """The key or token in the header ``authorization``, or ``""``."""
        return bearer(self.request.headers.get("authorization", ""))

    def texts(self, name: str) -> Sequence[str]:
        """Return all values of a parameter that may be given several times.

        The values are the items of a JSON list, or the fields of a form with
        this name. Raises BadBody.
        """
        # The body is a form: urlencoded, or already read as multipart.
        if self.fields is None:
            if self.pairs is None:
                pairs = parse_pairs(self.body)
            else:
                pairs = self.pairs
            return [value for key, value in pairs if key.lower() == name]

        values = self.fields.get(name, [])
        if isinstance(values, list) and all(isinstance(each, str) for each in values):
            return values
        raise BadBody(f"{name}: expected a list of texts")

    def form(self) -> dict[str, str]:
        """Return the fields of an urlencoded body by folded name. Raises
        BadBody."""
        return parse_form(self.body)

    @staticmethod
    def require_few_values(body: bytes, most: int = MAX_VALUES) -> None:
        """Refuse JSON with more than ``most`` values.

        Making objects of so many values would block all other clients of the
        process. Raises :class:`ApiProblem`.
        """
        # A value takes at least one byte, so short bodies need not be counted.
        if len(body) > most and values_in(body) > most:
            raise ApiProblem(
                Problems.BODY_TOO_LARGE, f"The body has more than {most} values"
            )

    @staticmethod
    def check_json(document: bytes) -> None:
        """Check JSON that the server passes on unread.

        Raises ValueError and RecursionError.
        """
        check_json(document)

    @staticmethod
    def require_few_commands(body: bytes, most: int) -> None:
        """Refuse a batch with more than ``most`` objects in ``commands``.

        The objects are counted in the text of the batch, before Python objects
        are made. A short batch is not checked. Raises :class:`ApiProblem`.
        """
        require_few_commands(body, most)

    @staticmethod
    def decode_json(
        decoder: msgspec.json.Decoder[T], body: bytes, most_values: int = MAX_VALUES
    ) -> T:
        """Decode JSON. A refusal names the field that is wrong.

        Raises :class:`ApiProblem` if the body is invalid, or if it has more
        than ``most_values`` values.
        """
        Call.require_few_values(body, most_values)
        # Databases cannot store U+0000. JSON can only write U+0000 with a
        # backslash.
        if BACKSLASH in body and has_nul(body):
            raise ApiProblem.invalid("A text contains U+0000")
        try:
            return decoder.decode(body)
        # The body is not UTF-8, is not JSON, or has another shape. The slower
        # function below finds out where the error is, or accepts more
        # spellings.
        except (ValueError, RecursionError) as error:
            return decode_whole(decoder, body, error)

    def json_object(self) -> dict[str, Any]:
        """Return the object of a JSON body by folded name, without nulls.

        Raises BadBody.
        """
        return parse_json(self.body)

    def reply(
        self, value: Any, headers: Headers = (), status: int = 200
    ) -> HttpResponse:
        """Make a response whose body is ``value`` as JSON.

        ``value`` may also be bytes of JSON. A large body is compressed if the
        client accepts gzip.
        """
        if isinstance(value, bytes):
            body = value
        else:
            body = encode_json(value)

        request = self.request
        headers = (("X-Request-Id", request.id), *headers)
        if len(body) > GZIP_BYTES:
            body, more = compressed(body, request.headers.get("accept-encoding", ""))
            headers += more
        return HttpResponse(status, body, "", headers)


# --- routes -------------------------------------------------------------------

AppRule = Literal["", "any", "optional", "known", "named", "settings", "all"]
"""Which app a principal must reach.

========= ===============================================================
``""``    no app
any       the app of the request, which need not exist. A back end that
          names no app may ask about all apps that it reaches.
optional  as any, but an app that is named must exist
known     the app of the request, which must exist
named     the app of the request, which need not exist
settings  as named; for aliases see :func:`_require_settings`
all       all apps
========= ===============================================================
"""
UserRule = Literal["", "required", "optional"]
"""Whether a request is made on behalf of a user. Users act for themselves; a
back end names the user."""


class Shape(Struct, frozen=True):
    """How a request of ``/api/v1`` is read: as a query, or as a JSON body.

    ``query`` is the Struct of the query, and ``body`` decodes the body. ``app``
    says whether the Struct has a field ``app``: ``required``, ``optional`` (it
    may be empty) or ``""`` (no such field). ``user`` says whether it has a
    field ``user``.
    """

    query: type[Struct] | None = None
    body: msgspec.json.Decoder[Any] | None = None
    app: Literal["", "required", "optional"] = ""
    user: bool = False


class Route(Struct, frozen=True):
    """A row of the table of routes: what a request needs, and who answers
    it."""

    method: str
    path: str
    need: Need
    """What a principal must have proved."""
    function: Callable[..., Any] | None
    """Answers a request: it gets the service and the call. It is None if the
    route has its own view; then the row has only its rules."""
    app: AppRule = ""
    """Which app a principal must reach (:data:`AppRule`)."""
    user: UserRule = ""
    """Whether a request is made on behalf of a user."""
    hot: bool = False
    """Whether the front server answers it."""
    shape: Shape | None = None
    """The query or JSON body is read into this shape, as ``call.input``."""
    read: Callable[[Any, Call], None] | None = None
    """Reads the request, in place of a shape. It sets ``call.input`` and
    ``call.app``. Without a shape and without this function, the parameters are
    read from query, form or JSON."""
    style: Style = CMD
    """How the route refuses, and whether WebSocket listeners serve the
    route."""
    limited: bool = False
    """Whether requests count against the rate of their key, user or address."""
    app_of: Callable[[Any, Mapping[str, str]], str] | None = None
    """Returns the app that the parameters name. If it is None, the app is the
    number or the name in ``appID``."""
    user_in: str = ""
    """The parameter in which a user (of a page, or with a session token) must
    name themselves. It is ``""`` if users need not do so."""
    token_in: str = ""
    """The header with the token of a user, if it is not ``authorization``.
    ``?token``: the query may have the token."""
    key_in: str = ""
    """Another header that may have the API key. ``authorization`` may then have
    the key with the scheme ``apikey``."""
    need_with: tuple[str, Need] | None = None
    """A parameter, and the need of requests in which it is ``true``."""
    service: MakeService | None = None
    """Makes the first argument of ``function``, ``read``, ``app_of`` and
    ``signer``. If ``service`` is None, their first argument is None."""
    signer: Callable[[Any, HttpRequest], Principal] | None = None
    """Finds the principal that has signed a request, if the row needs
    ``SIGNED``, or that has its credentials in an unusual place."""
    status: int = 0
    """The status of the answer. If it is set, ``function`` gets ``call.input``,
    too, and returns the body of the answer. If it is 0, ``function`` returns
    the whole answer."""
    refusals: Mapping[type[Exception], Callable[[Any], ApiProblem]] = {}
    """Class of an exception of ``function`` → the function that makes the
    refusal."""
    on_publisher: bool = False
    """Whether publisher connections have the route as a command, too."""
    act: str = ""
    """The name under which observers get each request that has succeeded.
    ``""`` means that observers get no request, because requests change nothing,
    or are very frequent. An answer with ``refuses`` is no act."""
    success: bytes = b""
    """Deprecated: the first bytes of the body of an answer that does not
    refuse."""
    voice: Voice = False
    """Whether other users receive the content of a request. If so, a muted user
    may not make the request. The value may be a function that decides by
    ``call.input``."""
    deprecated: Mapping[str, str] = {}
    """Form of a request (``""``: every request) → what to use instead."""
    takes_many: bool = False
    """Whether a body has many targets or messages, and may have
    ``limits.body_bytes``. Other bodies may be as long as one message needs
    (``Limits.one_body_bytes``)."""

    def __post_init__(self) -> None:
        """Replace the deprecated field ``success`` by a wrapped function."""
        if not self.success or self.function is None:
            return
        warnings.warn(
            f"{self.path}: Route.success is deprecated: set HttpResponse.refuses",
            DeprecationWarning,
            stacklevel=2,
        )
        function = _saying_refusals(self.function, self.success)
        # The row is frozen, but nobody else has it yet.
        msgspec.structs.force_setattr(self, "function", function)
        msgspec.structs.force_setattr(self, "success", b"")


def _saying_refusals(
    function: Callable[..., HttpResponse], success: bytes
) -> Callable[..., HttpResponse]:
    """Wrap a function of a route, so that some of its answers count as
    refusals.

    Its answers refuse unless they begin with the bytes ``success``.
    """

    def run(service: Any, call: Call) -> HttpResponse:
        """Answer a call, and mark an answer that refuses."""
        response = function(service, call)
        if response.body.startswith(success):
            return response
        return msgspec.structs.replace(response, refuses=True)

    return run


Voice = bool | Callable[[Any], bool]
MakeService = Callable[[Core, Api], Any]
"""Makes a service of routes, once on each node."""


class Endpoint(Struct):
    """A route on one node, with its service.

    ``route`` may be replaced while the node runs. ``service`` is the first
    argument of its functions. ``name`` is method and path, as in ``POST
    /api/v1/push``.
    """

    route: Route
    service: Any
    name: str


_NOT_REACHED: Final = {
    **dict.fromkeys(TOKEN_HOLDERS, Problems.TOKEN_INVALID),
    "session": Problems.NOT_ALLOWED,
}
"""Kind of a principal → the refusal of a request for an app that it does not
reach."""


def require_app(
    api: Api, principal: Principal, need: Need, app: str, rule: AppRule = "known"
) -> None:
    """Refuse a request for an app that its principal does not reach.

    ``need`` is what the route requires of principals. ``app`` is the name of
    the app; an alias is already resolved to its target. The app must exist if
    ``rule`` is ``known``, or if it is ``optional`` and ``app`` is not empty. If
    ``rule`` is ``all``, the principal must reach all apps. Raises
    :class:`ApiProblem`. May switch greenlets.
    """
    # None means that the principal reaches all apps.
    apps = principal.apps
    if apps is not None and (app not in apps or rule == "all"):
        _require_more_than_apps(principal, need, app, rule)
    must_exist = rule == "known" or (rule == "optional" and app)
    if must_exist and app not in api.apps:
        _require_existing(api, app)


def _require_more_than_apps(
    principal: Principal, need: Need, app: str, rule: AppRule
) -> None:
    """Refuse a request for all apps, or for an app that is not in the list of
    the principal.

    ``rule`` is the rule of the route (:data:`AppRule`). With the rules ``any``
    and ``optional``, a back end may ask about all apps that it reaches: ``app``
    is then empty. Unless ``rule`` is ``all``, a principal is permitted, too,
    that has the right in this app without being in its list. Raises
    :class:`ApiProblem`.
    """
    asks_about_its_apps = rule in ("any", "optional") and not app and not principal.user
    if asks_about_its_apps or (rule != "all" and principal.may(need, app)):
        return
    message = ""
    if principal.kind == "key" and rule == "all":
        message = "The key does not reach all apps"
    elif principal.kind == "key":
        # The message does not name the app, because the name would show the
        # target of an alias.
        message = "The key does not reach this app"
    raise ApiProblem(_NOT_REACHED.get(principal.kind, Problems.FORBIDDEN), message)


def _require_existing(api: Api, app: str) -> None:
    """Refuse a request for an app that does not exist, or is about to be
    deleted.

    Raises :class:`ApiProblem`. May switch greenlets.
    """
    tenant = api.tenants.find(app)
    if tenant is not None and not tenant.locked:
        return
    # A request without the name of an app gets the general text of the problem.
    if not app:
        message = ""
    elif tenant is None:
        message = f"There is no app `{app}`"
    else:
        message = f"The app `{app}` is to be deleted"
    raise ApiProblem(Problems.UNKNOWN_APP, message)


def _require_settings(api: Api, route: Route, call: Call) -> None:
    """Refuse a principal that may not give an app these settings.

    An alias belongs to its target. A principal that reaches only the target may
    not change the alias. Otherwise the principal could give the alias settings
    of its own, and then detach the alias from the target. A principal for all
    apps may change the alias.
    """
    tenants = api.tenants
    principal = call.principal
    request = call.input
    require_app(api, principal, route.need, call.app, "named")
    if principal.apps is not None and call.app != request.app:
        raise ApiProblem(
            Problems.FORBIDDEN, "Changing an alias requires a key for all apps"
        )
    # The app shall become an alias. Then its clients could use the target.
    if request.settings.same_as is not UNSET:
        target = tenants.resolve(request.settings.same_as)
        require_app(api, principal, route.need, target, "named")


# --- answering ----------------------------------------------------------------


BULK_SECONDS: Final = 60.0
"""The longest time for which the answer to a large push waits for its
delivery."""
_BULK_PAUSE_SECONDS: Final = 0.005
"""Time between two checks whether a large push was delivered."""


def answer(
    api: Api,
    endpoint: Endpoint,
    request: HttpRequest,
    admitted: Principal | None = None,
) -> HttpResponse:
    """Answer one request, from its headers to the response.

    The steps are: find out who makes it, read it, check the permissions, run
    the function of the route. ``admitted`` is the principal, if the request was
    admitted before its body was read. HEAD and OPTIONS are answered too; the
    caller leaves out the body of an answer to HEAD.

    Never raises: internal errors are logged, and refused in the style of the
    route. May switch greenlets.
    """
    route = endpoint.route
    if admitted is None:
        if request.method == "OPTIONS" and route.method != "OPTIONS":
            return route.style.options
        admission = admit(api, endpoint, request)
        if type(admission) is HttpResponse:
            return admission
        assert type(admission) is Principal
        admitted = admission

    # This number changes if the function fills the outboxes of very many
    # connections.
    filled = api.flusher.bulk_filled
    is_limited = route.limited and api.rates.per_second > 0
    response = _carry_out(api, endpoint, request, admitted, is_limited)

    if api.flusher.bulk_filled != filled:
        # The answer to a large push comes after its delivery. So the sender
        # cannot send faster than the server delivers.
        deadline = monotonic() + BULK_SECONDS
        while not api.flusher.drained(filled) and monotonic() < deadline:
            gevent.sleep(_BULK_PAUSE_SECONDS)
    if is_limited:
        return response.with_headers(api.rates.headers(admitted, request.host))
    return response


def _carry_out(
    api: Api,
    endpoint: Endpoint,
    request: HttpRequest,
    principal: Principal,
    is_limited: bool,
) -> HttpResponse:
    """Read and check a request of an admitted principal, and run its function.

    ``is_limited`` says whether the request counts against the rate of its
    principal. The function never raises, because errors become refusals. May
    switch greenlets.
    """
    route = endpoint.route
    call = None
    is_refused = False
    try:
        if is_limited:
            api.rates.require(principal, request.host)
        # Most bodies are short. The limit of the route is looked up only for
        # longer ones.
        if request.too_large or len(request.body) > api.limits.public_body_bytes:
            _require_room(api, route, request, principal)

        call = read(api, endpoint, request, principal)
        authorise(api, route, call)
        # require() has counted the call as one request already.
        if is_limited and call.cost > 1:
            api.rates.charge(principal, request.host, call.cost - 1)

        assert route.function is not None
        result = None  # the Struct of the answer, if the function returns one
        if route.status:
            result = route.function(endpoint.service, call, call.input)
            response = call.reply(result, (), route.status)
        else:
            response = route.function(endpoint.service, call)

        if route.act and not response.refuses and response.status < 400:
            act = call.act
            if act is None:
                act = route.act
            if act:  # otherwise nothing has changed
                api.acted(act, call, result)
    except Exception as error:
        response = refused(api, route, request, error, principal, call)
        is_refused = True

    if principal.kind == "key" or route.deprecated:
        api.count(endpoint, principal, call, request, is_refused)
    return response


def admit(
    api: Api, endpoint: Endpoint, request: HttpRequest
) -> Principal | HttpResponse:
    """Find out who makes a request, without reading the body.

    Returns the principal, or the answer that refuses the request. May switch
    greenlets.
    """
    route = endpoint.route
    need = route.need
    if need is Needs.ANYONE:
        return NOBODY
    # In demo mode, identify() would return this principal. For most requests,
    # this branch saves that call.
    if api.keys.demo and need.scope and need.users.isdisjoint(TOKEN_HOLDERS):
        request.by = DEMO.label
        return DEMO
    # The route may find the principal itself, for example by a signature.
    if route.signer is not None:
        return _admit_signed(api, endpoint, route.signer, request)

    try:
        token = ""
        if route.token_in:
            token = _token_of(route, request)
        headers = request.headers
        if route.key_in:
            headers = with_key(route, headers)
        principal = api.authority.identify(need, headers, request.host, token)
    except Unavailable as error:
        return refused(api, route, request, error)
    request.by = principal.label
    if principal.may(need):
        return principal

    return _refuse_principal(api, endpoint, request, principal)


def _admit_signed(
    api: Api,
    endpoint: Endpoint,
    signer: Callable[[Any, HttpRequest], Principal],
    request: HttpRequest,
) -> Principal | HttpResponse:
    """Find out who makes a request by its signature.

    ``signer`` is the route's function that checks the signature. Returns the
    principal, or the answer that refuses the request. May switch greenlets.
    """
    route = endpoint.route
    try:
        principal = signer(endpoint.service, request)
    except BadSignature as bad:
        problem = ApiProblem(Problems.SIGNATURE_INVALID, str(bad))
        return refused(api, route, request, problem)
    except (ApiProblem, Unavailable) as error:
        return refused(api, route, request, error)
    request.by = principal.label
    return principal


def _refuse_principal(
    api: Api, endpoint: Endpoint, request: HttpRequest, principal: Principal
) -> HttpResponse:
    """Refuse a request whose principal may not use the route.

    The request is counted as a use of its key. It also counts against the rate
    of its address, because somebody may be guessing keys.
    """
    route = endpoint.route
    api.count(endpoint, principal, None, request, refused=True)
    problem = ApiProblem(*refusal(principal, route.need))
    if route.limited:
        # Attempts with wrong credentials count against the address.
        try:
            api.rates.require(NOBODY, request.host)
        except ApiProblem as over_rate:
            problem = over_rate
    return refused(api, route, request, problem, principal)


def with_key(route: Route, headers: Mapping[str, str]) -> Mapping[str, str]:
    """Return headers that have the API key of a request in ``authorization``.

    Some routes accept the key in another header (``key_in``), or in
    ``authorization`` with the scheme ``apikey`` in place of ``Bearer``.
    """
    key = headers.get(route.key_in, "")
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    if not key and scheme.lower() == "apikey":
        key = credential.strip()
    if key:
        return {**headers, "authorization": f"Bearer {key}"}
    return headers


def _token_of(route: Route, request: HttpRequest) -> str:
    """Return the token of a user, in a route that has it in an unusual place.

    The row names the place (``token_in``): a header, or ``?token`` for the
    query. Returns ``""`` if there is no token.
    """
    if route.token_in != "?token":
        return request.headers.get(route.token_in, "")
    try:
        return parse_form(request.query).get("token", "")
    except BadBody:
        return ""  # the request is refused when its query is read


def body_limit(api: Api, route: Route, principal: Principal) -> int:
    """Return how many bytes of a body a route accepts from a principal.

    An unknown client may send less, because the server has to keep the body in
    memory.
    """
    if principal.kind == "nobody":
        return api.limits.public_body_bytes
    return longest_body(api, route)


def longest_body(api: Api, route: Route) -> int:
    """Return how many bytes of a body a route accepts from a known
    principal."""
    if route.takes_many:
        return api.limits.body_bytes
    return api.limits.one_body_bytes


def _require_room(
    api: Api, route: Route, request: HttpRequest, principal: Principal
) -> None:
    """Refuse a body that is longer than a route accepts from a principal.

    The problem names the limit, unless it is the usual limit. Raises
    :class:`ApiProblem`.
    """
    limit = body_limit(api, route, principal)
    # If the body is too large, the server has not read it to its end.
    if not request.too_large and len(request.body) <= limit:
        return
    message = ""
    if limit != api.limits.body_bytes:
        message = f"The body has more than {limit} bytes"
    raise ApiProblem(Problems.BODY_TOO_LARGE, message)


def read(
    api: Api, endpoint: Endpoint, request: HttpRequest, principal: Principal
) -> Call:
    """Read the parameters of a request into a :class:`Call`.

    A route reads them in one of three ways: into a Struct (``shape``), by a
    function of its own (``read``), or as texts by name, as the original server
    does. May switch greenlets. Raises :class:`ApiProblem`,
    :class:`RequestRefused` and BadBody.
    """
    route = endpoint.route
    if route.shape is not None:
        return _read_shape(api, route, route.shape, request, principal)
    if route.read is not None:
        call = Call({}, "", principal, request, request.body)
        route.read(endpoint.service, call)
        return call

    # The parameters are read in this function. So a push in the form of the
    # original server needs one function call less.
    body = request.body
    fields = None
    pairs = None
    if route.method == "GET":
        params = parse_form(request.query)
        body = b""
    else:
        content_type = request.headers.get("content-type", "")
        if content_type == FORM:
            params = parse_form(body)
        else:
            params, fields, pairs = parse_body(content_type, body)

    if route.app_of is not None:
        app = route.app_of(endpoint.service, params)
    elif fields is None:
        app = app_named(api.tenants, params.get("appid", ""))
    else:
        app = app_from_json(api.tenants, fields.get("appid", 0))
    return Call(params, app, principal, request, body, fields, pairs)


def _read_shape(
    api: Api, route: Route, shape: Shape, request: HttpRequest, principal: Principal
) -> Call:
    """Read the query or JSON body of a request of ``/api/v1`` into its Struct.

    Raises :class:`ApiProblem`.
    """
    call = Call({}, "", principal, request, request.body)
    values: Any = None
    if shape.body is not None:
        body = request.body
        if "content-encoding" in request.headers:
            body = unpacked_body(call, longest_body(api, route))
        if route.takes_many:
            most_values = api.limits.many_values
        else:
            most_values = api.limits.one_body_values
        values = Call.decode_json(shape.body, body, most_values)
        call.input = values
    elif shape.query is not None:
        values = read_query(request, shape.query)
        call.input = values

    if shape.app:
        # A user or a member of the staff need not name their app.
        if values.app:
            call.app = api.tenants.aliases.get(values.app, values.app)
        elif principal.user or principal.staff:
            call.app = principal.app
        elif shape.app == "required":
            raise ApiProblem.invalid("`app`: name the app")
    if shape.user:
        call.user = values.user
    return call


def unpacked_body(call: Call, most_bytes: int) -> bytes:
    """Return the body of a request, decompressed to at most ``most_bytes``.

    Only known principals may compress a body, because a short body can become
    very long. Raises :class:`ApiProblem`.
    """
    encoding = call.request.headers.get("content-encoding", "identity").lower()
    if encoding in ("", "identity"):
        return call.body
    if encoding not in ("gzip", "x-gzip") or call.principal.kind == "nobody":
        raise ApiProblem(Problems.UNKNOWN_ENCODING)
    return inflate(call.body, most_bytes)


def authorise(api: Api, route: Route, call: Call) -> None:
    """Refuse a request for an app or a user for whom its principal may not act.

    Bans and mutes are checked, too. In a request of a user, ``call.user``
    becomes this user. Raises :class:`ApiProblem`. May switch greenlets.
    """
    principal = call.principal
    rule = route.app
    if rule == "settings":
        _require_settings(api, route, call)
    elif rule:
        require_app(api, principal, route.need, call.app, rule)

    # Back ends are neither users nor staff, and are never banned.
    person = principal.user or principal.staff
    if person:
        ban = api.sessions.ban_of(principal.app, person)
        if ban:
            raise ApiProblem(Problems.BANNED, ban.text)

    if principal.user:
        _authorise_user(api, route, call)
    elif route.user == "required" and not call.user:
        raise ApiProblem.invalid("`user`: name the user on whose behalf you ask")

    # With a certain parameter, the request needs another permission.
    if route.need_with is not None:
        name, need = route.need_with
        if call.params.get(name) == "true" and not principal.may(need):
            raise ApiProblem(Problems.FORBIDDEN)


def _authorise_user(api: Api, route: Route, call: Call) -> None:
    """Refuse a user who acts for somebody else, or who is muted.

    A mute matters if other users receive the content of the request
    (``voice``). If the route has a ``user`` rule, ``call.user`` becomes this
    user. Raises :class:`ApiProblem`.
    """
    principal = call.principal
    if route.user_in and call.params.get(route.user_in) != principal.user:
        raise ApiProblem(Problems.FORBIDDEN)
    if route.user:
        if call.user not in ("", principal.user):
            raise ApiProblem(Problems.NOT_ALLOWED, "The token belongs to another user")
        call.user = principal.user

    voice = route.voice
    if not voice:
        return
    mute = api.mutes.mute_of(principal.app, principal.user)
    if mute is not None and (voice is True or voice(call.input)):
        raise ApiProblem(Problems.MUTED, mute.text)


def refused(
    api: Api,
    route: Route,
    request: HttpRequest,
    error: Exception,
    principal: Principal = NOBODY,
    call: Call | None = None,
) -> HttpResponse:
    """Make the answer to a request that ended with an error.

    Refusals are reported to observers, and internal errors are logged.
    ``principal`` is :data:`NOBODY` if it is not known. ``call`` is None if the
    request was not read.
    """
    error = _generalized(route, error)
    if isinstance(error, RequestRefused):
        return error.answer
    if isinstance(error, ApiProblem):
        api.report(request, error, principal, call)
        response = route.style.refuse(error.problem, request, error.detail)
        if error.headers:
            return response.with_headers(error.headers)
        return response

    log.error(
        "%s %s from %s failed",
        request.method,
        route.path,
        request.host,
        extra={"request": request.id},
        exc_info=error,
    )
    return route.style.refuse(Problems.INTERNAL_ERROR, request)


def _generalized(route: Route, error: Exception) -> Exception:
    """Convert an error to a more general error that can be answered.

    The result is a problem or a whole answer. If the error has no such form,
    the result is ``error`` itself.
    """
    refusal_of = route.refusals.get(type(error))
    if refusal_of is not None:
        error = refusal_of(error)
    if isinstance(error, TooManyRequests):
        error = too_many(error)
    if isinstance(error, QuotaSpent):
        error = spent(error)
    if isinstance(error, ServiceRefused):
        return ApiProblem(error.problem, error.detail.format(error))
    return error
