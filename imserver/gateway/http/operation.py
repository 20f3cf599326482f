"""How a route of ``/api/v1`` is declared: once, for the router, the OpenAPI
document and the tests.

A module of routes has a :class:`Resource`, whose decorators declare its route
functions. The inputs and answers of requests are msgspec Structs. They check
the input, and their annotations make the document.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import (
    Any,
    Concatenate,
    Final,
    Generic,
    Literal,
    ParamSpec,
    Protocol,
    TypeVar,
    get_type_hints,
)

import msgspec
from msgspec import Struct

from imserver.gateway.auth.principal import Need, Needs
from imserver.gateway.core.core import Core
from imserver.gateway.errors import HttpProblem, Problems
from imserver.gateway.http.call import (
    Api,
    AppRule,
    Call,
    MakeService,
    Route,
    Shape,
    UserRule,
    Voice,
)
from imserver.gateway.http.field import Acting
from imserver.gateway.http.reply import PROBLEM, ApiProblem
from imserver.gateway.transport.http1 import HttpResponse

PREFIX: Final = "/api/v1"
JSON: Final = "application/json"


def one_of(*names: str) -> dict[str, Any]:
    """Return a rule in JSON Schema: exactly one of these fields must be
    given."""
    return {"oneOf": [{"required": [name]} for name in names]}


class Header(Struct, frozen=True):
    """A header of a request or answer in the document. ``kind`` is the name of
    a type of JSON. ``limits`` are more rules for its value, as JSON Schema."""

    name: str
    meaning: str
    kind: str = "string"
    example: Any = None
    required: bool = False
    limits: dict[str, Any] = {}


class Link(Struct, frozen=True):
    """A link of OpenAPI from an answer to the next operation of a client.

    ``operation`` is the id of the next operation. ``values`` is name of a
    parameter of the next operation → JSON pointer to the value in the answer,
    such as ``users/0``. ``same`` are names of parameters that have the same
    value as in the request.
    """

    name: str
    operation: str
    values: dict[str, str]
    same: tuple[str, ...] = ("app",)

    @property
    def parameters(self) -> dict[str, str]:
        """Name of a parameter → the OpenAPI expression for its value.

        For example, ``{"app": "$request.query.app"}``.
        """
        expressions = {name: f"$request.query.{name}" for name in self.same}
        for name, pointer in self.values.items():
            expressions[name] = f"$response.body#/{pointer}"
        return expressions


class Operation(Struct, frozen=True):
    """One route. ``need``: what a principal must have proved; ``reach`` and
    ``user``: in which app, for whom.

    ``query`` and ``body`` are the Structs that query parameters and the JSON
    body are read into. ``answer`` is the Struct of the body of an answer with
    ``status`` (None: no body, or a body without a schema). ``rules`` are
    further conditions of the function on a body, as JSON Schema. ``example`` is
    a query or body, and ``answer_example`` an answer, if the ``examples.json``
    of its package does not have them. ``problems`` and the headers belong to
    this route alone; :mod:`imserver.gateway.http.openapi` adds the ones that
    many routes share.
    """

    method: str
    path: str
    need: Need
    function: Callable[..., Any] | None
    """The route function. None if the route is answered elsewhere, see
    :meth:`Resource.elsewhere`."""
    tag: str
    """The name of its chapter in the document."""
    text: str
    """A docstring: the summary, and after an empty line the description."""
    query: type[Struct] | None = None
    body: type[Struct] | None = None
    answer: Any = None
    status: int = 200
    also: tuple[int, ...] = ()
    """Statuses of other successful answers: 206 with a part of the content, 304
    without."""
    problems: tuple[HttpProblem, ...] = ()
    headers: tuple[Header, ...] = ()
    answer_headers: tuple[Header, ...] = ()
    links: tuple[Link, ...] = ()
    rules: dict[str, Any] = {}
    example: Any = None
    answer_example: Any = None
    content_type: str = JSON
    hot: bool = True
    binary: str = ""
    """The media type of a body that is the content of a file."""
    path_id: Any = None
    """The type of ``{id}`` in the path."""

    reach: AppRule = "known"
    """The rule for the field ``app`` of ``query`` or ``body``."""
    user: UserRule | None = None
    """The rule for the field ``user``. None means ``required`` if the shape is
    an :class:`Acting`, and ``""`` otherwise."""
    read: Callable[[Any, Call], None] | None = None
    """Reads the request instead of query and body."""
    service: MakeService | None = None
    """Makes the first argument of the functions. A :class:`Resource` sets
    it."""
    chapter: str = ""
    """The subject of the chapter of a feature."""
    returns: bool = False
    """Whether the function returns the body of the answer, see
    :class:`Resource`."""
    refusals: Mapping[type[Exception], Callable[[Any], ApiProblem]] = {}
    """Exceptions of a function that returns the body → refusals that depend on
    more than the class."""
    on_publisher: bool = False
    """Whether publisher connections have it as a command, too: a POST route
    with the need ``PUSH``."""
    act: str | None = None
    """The name under which observers get each request that has succeeded. None
    means the path of a POST route, such as ``groups.delete``. ``""`` means that
    the request changes nothing, or that users and back ends make it all day."""
    voice: Voice = False
    deprecated: Mapping[str, str] = {}
    takes_many: bool = False
    """For this field and the two fields before it, see
    :class:`imserver.gateway.http.call.Route`."""

    @property
    def scope(self) -> str:
        """The scope that the key must have, if the route accepts only API keys.

        It is ``""`` for a route that accepts tokens of users, too.
        """
        if self.need.users:
            return ""
        return self.need.scope

    @property
    def limited(self) -> bool:
        """Whether requests count against a rate.

        A route that is answered elsewhere has its own limits.
        """
        return self.function is not None

    @property
    def shape(self) -> type[Struct] | None:
        """The Struct into which the request is read. None means that there
        is no such Struct."""
        return self.query or self.body

    @property
    def names_app(self) -> bool:
        """Whether the request has a field ``app``."""
        return self.shape is not None and "app" in self.shape.__struct_fields__

    @property
    def on_behalf(self) -> UserRule:
        """The rule for the field ``user``: on whose behalf the request is
        made."""
        if self.user is not None:
            return self.user
        if self.shape is not None and issubclass(self.shape, Acting):
            return "required"
        return ""

    @property
    def shared_problems(self) -> tuple[HttpProblem, ...]:
        """The refusals that this route shares with many others.

        Routes that name an app have some in common, and routes that act on
        behalf of a user have more.
        """
        if self.on_behalf:
            return ACTOR_PROBLEMS
        if self.shape is None:
            return ()
        if not self.names_app:
            return (Problems.INVALID_REQUEST,)

        left_out = []
        # A route for everybody forbids nobody, and some rules accept an app
        # that does not exist.
        if self.need is Needs.ANYONE:
            left_out.append(Problems.FORBIDDEN)
        if self.reach not in ("known", "optional"):
            left_out.append(Problems.UNKNOWN_APP)
        return tuple(each for each in APP_PROBLEMS if each not in left_out)


S = TypeVar("S")
P = ParamSpec("P")
R = TypeVar("R")


class Declare(Protocol[S]):
    """A decorator of functions that get a service and a call first."""

    def __call__(
        self, function: Callable[Concatenate[S, Call, P], R], /
    ) -> Callable[Concatenate[S, Call, P], R]: ...


class Resource(Generic[S]):
    """Declares the routes of one resource, a chapter of the document. ``rows``
    has them in order.

    ``service`` makes the service that the route functions get first, from the
    services of the core and from :class:`imserver.gateway.http.call.Api` (which
    has the limits), once on each node.

    :meth:`get` and :meth:`post` decorate a route function. A route that deletes
    is a POST. Its docstring is summary and description in the document. The
    function gets the service and the call, and returns one of these:

    - a Struct, the body of the answer: each further parameter is a field of the
      query or the JSON body, with its type, limits and default. ``base`` is a
      Struct whose fields come before them, such as the acting user; a parameter
      of the same name gets the value of such a field. ``schema`` is the
      published name of the body, and what it is. Where two routes share a
      Struct, or a field may be absent, one parameter is of that type. A
      :class:`ServiceRefused` is answered with its problem, and others as
      ``refusals`` say.
    - an ``HttpResponse``: it has no further parameters. Its row names ``query``
      or ``body``, and ``answer``.

    ``more`` are fields of :class:`Operation`. ``hot``, ``problems`` and
    ``base`` hold for all routes of the resource. ``need``, ``user`` and ``act``
    are defaults for routes without their own. ``examples`` are answers, for all
    routes with an answer of their type. ``chapter``: the subject of the chapter
    of a feature; :mod:`imserver.gateway.http.openapi` has the chapters of the
    core.

    It is better to put examples into ``examples.json`` in the package of the
    service: ``"POST /groups/create"`` → ``request`` and ``answer``. Its
    ``answers`` has the examples that routes share, by the name of their type.

    If the shape is an :class:`Acting`, a back end must name the ``user`` for
    whom it asks; a user's own token names them. ``user="optional"`` lets a back
    end leave it out: then ``call.user`` is empty. A subclass of ``Acting`` with
    fields that must be given has ``kw_only=True``.
    """

    def __init__(
        self,
        tag: str,
        service: Callable[[Core, Api], S],
        hot: bool = True,
        problems: tuple[HttpProblem, ...] = (),
        refusals: Mapping[type[Exception], Callable[[Any], ApiProblem]] | None = None,
        examples: tuple[Struct, ...] = (),
        chapter: str = "",
        base: type[Struct] | None = None,
        need: Need | None = None,
        user: UserRule | None = None,
        act: str | None = None,
    ) -> None:
        """Remember the defaults of the routes.

        The class explains the arguments. ``need``, ``user`` and ``act`` are
        only for routes that do not say them.
        """
        self.rows: list[Operation] = []
        self._tag = tag
        self._need = need
        self._usual = {
            "hot": hot,
            "chapter": chapter,
            "service": service,
            "user": user,
            "act": act,
        }
        self._base = base
        self._problems = problems
        self._refusals = refusals or {}
        self._examples = {type(each): each for each in examples}

    def get(self, path: str, need: Need | None = None, **more: Any) -> Declare[S]:
        """Declare the function as ``GET /api/v1{path}``."""
        return self._declare("GET", path, need, more)

    def post(self, path: str, need: Need | None = None, **more: Any) -> Declare[S]:
        """Declare the function as ``POST /api/v1{path}``."""
        return self._declare("POST", path, need, more)

    def elsewhere(
        self, method: str, path: str, need: Need, text: str, **more: Any
    ) -> Route:
        """Declare a route that is answered with its own socket or body.

        No function of this module answers it. ``text`` is its summary and
        description. Returns the route, which
        :meth:`imserver.gateway.http.call.Api.bind` takes. Then
        :meth:`imserver.gateway.http.call.Api.call_of` admits and authorises a
        request for it.
        """
        operation = self._add(method, path, need, function=None, text=text, more=more)
        return route_of(operation)

    def _declare(
        self, method: str, path: str, need: Need | None, more: dict[str, Any]
    ) -> Declare[S]:
        """Make the decorator of a route function.

        ``more`` has fields of :class:`Operation`. It may also have ``schema``,
        the name and the text of the Struct of the request, and ``base``, the
        Struct from which it inherits fields.
        """

        def declare(function: Any) -> Any:
            """Add the function to the table of operations, and return it
            unchanged.

            If it returns the body of the answer, its parameters become the
            fields of the request: of the query for GET, else of the JSON body.
            """
            row = dict(more)
            schema = row.pop("schema", None) or _usual_schema(path)
            base = row.pop("base", self._base)
            run = function
            # Other functions read the request and make the response themselves.
            if _has_signature(function):
                run, shape = _read_signature(row, function, schema, base)
                row.setdefault("answer_example", self._examples.get(row["answer"]))
                row["query" if method == "GET" else "body"] = shape
                row.update(returns=True, refusals=self._refusals)
            self._add(
                method, path, need, function=run, text=function.__doc__ or "", more=row
            )
            # The decorated function stays as it is, so others may call it.
            return function

        return declare

    def _add(
        self,
        method: str,
        path: str,
        need: Need | None,
        function: Callable[..., Any] | None,
        text: str,
        more: dict[str, Any],
    ) -> Operation:
        """Add a row to the table of operations.

        The resource has defaults for the fields that ``more`` does not have.
        Raises TypeError if neither says what a principal needs.
        """
        need = need or self._need
        if need is None:
            raise TypeError(f"{path} does not say what it needs")

        # The fields of the route win over the defaults of the resource.
        row = {**self._usual, **more, "problems": self._problems_with(more)}
        operation = Operation(
            method=method,
            path=PREFIX + path,
            need=need,
            function=function,
            tag=self._tag,
            text=text,
            **row,
        )
        self.rows.append(operation)
        return operation

    def _problems_with(self, more: Mapping[str, Any]) -> tuple[HttpProblem, ...]:
        """List the refusals of the resource, then the refusals of a route, each
        once."""
        problems = [*self._problems, *more.get("problems", ())]
        # A muted user gets this refusal if others would receive the content.
        if more.get("voice"):
            problems.append(Problems.MUTED)
        return tuple(dict.fromkeys(problems))


def _usual_schema(path: str) -> tuple[str, str]:
    """Return the name and the text of the Struct of a request.

    A route uses them if it declares no name and text itself.
    """
    return f"{path.title().replace('/', '')}Query", ""


def _has_signature(function: Any) -> bool:
    """Tell whether a route function takes fields or returns the body of its
    answer."""
    answer = function.__annotations__.get("return", HttpResponse)
    return bool(_fields_of(function)) or "HttpResponse" not in str(answer)


def _read_signature(
    row: dict[str, Any],
    function: Any,
    schema: tuple[str, str],
    base: type[Struct] | None,
) -> tuple[Any, type[Struct]]:
    """Read what a route function takes and returns from its annotations.

    Returns the function that gets the request as one Struct, and the Struct.
    The type of the answer is added to ``row``. There are two forms of route
    functions:

    - ``f(service, call, request: AStruct)``: it is returned as it is.
    - ``f(service, call, name: str, …)``: a Struct is made of its parameters.
      ``schema`` is its name and text, and ``base`` has more fields.
    """
    types = get_type_hints(function, include_extras=True)
    row.setdefault("answer", types["return"])
    fields = _fields_of(function)
    if fields:
        kind = types[fields[0]]
        if isinstance(kind, type) and issubclass(kind, Struct):
            return function, kind

    # Otherwise each parameter is a field.
    name, text = schema
    shape = _shape_of(
        name=name, text=text, fields=fields, function=function, types=types, base=base
    )
    return _spread(function, fields), shape


def _fields_of(function: Any) -> tuple[str, ...]:
    """Return the parameters of a route function after the service and the
    call."""
    code = function.__code__
    count = code.co_argcount + code.co_kwonlyargcount
    names: tuple[str, ...] = code.co_varnames[2:count]
    return names


def _shape_of(
    name: str,
    text: str,
    fields: Sequence[str],
    function: Any,
    types: Mapping[str, Any],
    base: type[Struct] | None,
) -> type[Struct]:
    """Make a Struct with a field for each parameter of a route function.

    ``fields`` are the names of the parameters, and ``types`` is name → type.
    The fields of ``base`` come first. A parameter may have the name of such a
    field; then it is that field.
    """
    inherited: tuple[str, ...] = ()
    bases: tuple[type[Struct], ...] | None = None
    if base is not None:
        inherited = base.__struct_fields__
        bases = (base,)

    names = [field for field in fields if field not in inherited]
    own_fields = _fields_with_defaults(names, types, _defaults_of(function))
    return msgspec.defstruct(
        name,
        own_fields,
        bases=bases,
        namespace={"__doc__": text},
        kw_only=True,
        forbid_unknown_fields=True,
    )


def _fields_with_defaults(
    names: Iterable[str], types: Mapping[str, Any], defaults: Mapping[str, Any]
) -> list[Any]:
    """Describe the fields of a Struct in the form that msgspec takes.

    A parameter with a default is a field that may be left out.
    """
    fields: list[Any] = []
    for name in names:
        if name in defaults:
            fields.append((name, types[name], defaults[name]))
        else:
            fields.append((name, types[name]))
    return fields


def _defaults_of(function: Any) -> dict[str, Any]:
    """Return name of a parameter → its default, for parameters that have one.

    The result includes parameters that are given by keyword only.
    """
    values = function.__defaults__ or ()
    count = function.__code__.co_argcount
    # The defaults in ``__defaults__`` belong to the last positional parameters.
    names = function.__code__.co_varnames[count - len(values) : count]
    defaults = dict(zip(names, values, strict=True))
    defaults.update(function.__kwdefaults__ or {})
    return defaults


def _spread(function: Any, names: Sequence[str]) -> Any:
    """Wrap a route function that takes the fields of a request as parameters.

    The result gets the request as one Struct, and passes the named fields on.
    """

    def run(service: Any, call: Any, shape: Any) -> Any:
        """Call the route function with the fields of a request."""
        return function(service, call, **{name: getattr(shape, name) for name in names})

    # `functools.wraps` would copy more attributes, which costs memory. Code
    # that reads the hints of a route needs only these two.
    run.__annotations__ = function.__annotations__
    run.__wrapped__ = function  # type: ignore[attr-defined]
    return run


def _shape_read_by(row: Operation) -> Shape:
    """Make the rule by which the query or the body of an operation is read.

    The rule also says whether the request has the name of an app, and whether
    that name is required.
    """
    body = None
    if row.body is not None:
        body = msgspec.json.Decoder(row.body)
    app: Literal["", "required", "optional"] = ""
    if row.names_app and row.reach == "optional":
        app = "optional"
    elif row.names_app:
        app = "required"
    return Shape(row.query, body, app, user=row.on_behalf != "")


def route_of(row: Operation) -> Route:
    """Make the route that serves an operation.

    An operation is what the API reference describes. A route has the rules by
    which the server answers it, and some follow from the operation.
    """
    shape = None
    if row.read is None:
        shape = _shape_read_by(row)
    # If the function does not return the body, it makes the whole response with
    # the status.
    status = 0
    if row.returns:
        status = row.status
    return Route(
        row.method,
        row.path,
        row.need,
        row.function,
        app=_app_rule_of(row),
        user=row.on_behalf,
        hot=row.hot,
        shape=shape,
        read=row.read,
        service=row.service,
        style=PROBLEM,
        limited=row.limited,
        token_in=_token_in(row),
        status=status,
        refusals=row.refusals,
        on_publisher=row.on_publisher,
        act=_act_of(row),
        voice=row.voice,
        deprecated=row.deprecated,
        takes_many=row.takes_many,
    )


def _app_rule_of(row: Operation) -> AppRule:
    """Return the rule which apps a principal must reach for an operation."""
    if row.names_app or row.read is not None or row.reach == "all":
        return row.reach
    return ""


def _token_in(row: Operation) -> str:
    """Return where a request may have a token, apart from the usual header.

    ``?token`` means the query. ``""`` means that there is no other place.
    """
    if row.query is not None and "token" in row.query.__struct_fields__:
        return "?token"
    return ""


def _act_of(row: Operation) -> str:
    """Return the name under which observers get an operation, or ``""``.

    By default, a request that changes something has its path as the name:
    ``groups.create`` for ``POST /api/v1/groups/create``.
    """
    if row.act is not None:
        return row.act
    if row.method != "POST":
        return ""
    return row.path.removeprefix(f"{PREFIX}/").replace("/", ".")


APP_PROBLEMS: Final = (
    Problems.INVALID_REQUEST,
    Problems.FORBIDDEN,
    Problems.UNKNOWN_APP,
    Problems.STORAGE_UNAVAILABLE,
)
"""The refusals of every request that names an app."""

ACTOR_PROBLEMS: Final = (
    Problems.INVALID_REQUEST,
    Problems.UNAUTHORIZED,
    Problems.TOKEN_INVALID,
    Problems.FORBIDDEN,
    Problems.NOT_ALLOWED,
    Problems.BANNED,
    Problems.UNKNOWN_APP,
    Problems.STORAGE_UNAVAILABLE,
)
"""The refusals of every request on behalf of a user."""
