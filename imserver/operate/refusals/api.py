"""``/api/v1/refusals`` and ``/api/v1/limits/lift``."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Annotated

from msgspec import Struct

from imserver.operate.refusals.limits import Hold, Refusals
from imserver.operate.refusals.log import RefusalRow, Wanted
from imserver.operate.refusals.reasons import reason_of
from imserver.plugin.errors import Problems
from imserver.plugin.http import ApiProblem, Call, Resource, about, view
from imserver.plugin.identity import Needs
from imserver.plugin.runtime import network_of
from imserver.plugin.storage import Store

_Missing = Annotated[
    list[str], about("Nodes that did not answer in time. The answer lacks their part.")
]
_Address = Annotated[
    str, about("A client address. For IPv6: its network of 64 bits.", max_length=64)
]
_User = Annotated[
    str,
    about(
        "A user id, or the phone number, e-mail address or user name that an account "
        "uses to log in.",
        max_length=255,
    ),
]


class RefusalsQuery(Struct, forbid_unknown_fields=True):
    """Whose refusals are wanted."""

    app: Annotated[str, about("The app; empty: all that the key reaches.")] = ""
    user: _User = ""
    account: Annotated[
        str,
        about(
            "The id of an account. It has the same meaning as `user`.", max_length=255
        ),
    ] = ""
    address: _Address = ""
    request: Annotated[
        str,
        about(
            "The id of a request, or the address and port of a connection, as they "
            "appear in the log.",
            max_length=128,
        ),
    ] = ""
    limit: Annotated[
        int, about("The maximum number of refusals in the answer.", ge=1, le=1000)
    ] = 100


class RefusalShown(RefusalRow, array_like=False):
    """Refusals that differ only in their time."""

    meaning: Annotated[str, about("The meaning of the reason.")]
    lift: Annotated[
        str, about("How to end the refusals; empty: there is nothing to lift.")
    ]


class HoldShown(Hold, array_like=False):
    """A limit or a ban that is in force."""


class RefusalsAnswer(Struct):
    """Refusals, the latest first, and the limits and bans in force."""

    refusals: list[RefusalShown]
    holds: Annotated[
        list[HoldShown],
        about(
            "The limits and bans in force for this user or address. Empty if you "
            "name neither."
        ),
    ]
    users: Annotated[
        list[str], about("The user ids for which the server has searched.")
    ]
    missing_nodes: _Missing
    names: Annotated[
        dict[str, dict[str, str]], about("App → user → name of the account.")
    ] = {}


class LiftAnswer(Struct):
    """The limits and bans that were lifted."""

    lifted: list[HoldShown]
    missing_nodes: _Missing


routes = Resource(
    "refusals",
    service=lambda core, _: core.service(Refusals),
    chapter=(
        "See why logins, commands and requests were refused within the last hour, "
        "and lift the limits and bans."
    ),
    hot=False,
    need=Needs.OPERATE,
)


@routes.get("/refusals", reach="optional")
def refusals(refusals: Refusals, call: Call, request: RefusalsQuery) -> RefusalsAnswer:
    """List what was refused within the last hour, on all nodes.

    With a `user` or `address`, the answer also has the bans, mutes, locks and
    rates in force for them. Refusals that name no app of this server are only
    for keys that reach all apps. Nodes keep refusals in memory, so a restart
    deletes them.
    """
    app = call.app
    names = refusals.names_of(app, request.user or request.account)
    rows, missing = refusals.select(_wanted_of(call, request, names))

    # Without a user or an address, the limits of everybody would be listed.
    holds: list[Hold] = []
    if app and (names or request.address):
        reaches_all = call.principal.apps is None
        holds, missing_holds = refusals.holds(
            app, names, request.address, everywhere=reaches_all, rows=rows
        )
        missing = [*missing, *missing_holds]
    listed = [_shown(row) for row in rows[: request.limit]]
    return RefusalsAnswer(
        refusals=listed,
        holds=list(map(_shown_hold, holds)),
        users=sorted(names),
        missing_nodes=sorted(set(missing)),
        names=_names_in(listed, refusals.core.store),
    )


def _wanted_of(call: Call, request: RefusalsQuery, names: frozenset[str]) -> Wanted:
    """The filter for the refusals that a caller wants, and may see."""
    apps = call.principal.apps  # None: all apps, and unknown ones
    if call.app:
        apps = frozenset({call.app})
    return Wanted(
        apps=apps,
        names=names,
        address=network_of(request.address),
        request=request.request,
    )


def _names_in(rows: list[RefusalShown], store: Store) -> dict[str, dict[str, str]]:
    """App → user → name of the account, for all users in these refusals.

    Users without an account are left out.
    """
    ids_by_app: dict[str, set[str]] = {}
    for row in rows:
        if row.app:
            ids_by_app.setdefault(row.app, set()).update((row.user, row.account))
    names_by_app = {}
    for app, ids in ids_by_app.items():
        ids.discard("")
        if ids:
            names_by_app[app] = store.names_of(app, list(ids))
    return names_by_app


@routes.post(
    "/limits/lift",
    schema=("LiftRequest", "The user or the address to let in again, or both."),
    problems=(Problems.UNKNOWN_ACCOUNT,),
    rules={
        "anyOf": [
            {"required": [field], "properties": {field: {"minLength": 1}}}
            for field in ("user", "address")
        ]
    },
)
def lift(
    refusals: Refusals,
    call: Call,
    app: Annotated[str, about("The app: a tenant of this server.", min_length=1)],
    user: _User = "",
    address: _Address = "",
) -> LiftAnswer:
    """Lift the limits and bans of a user or an address on all nodes: bans,
    locks of accounts, rates.

    For a user, the server also lifts the rates of the addresses from which the
    user was refused. Only a key that reaches all apps lifts rates that belong
    to no app, such as requests from an address. A scheduled erasure stays, and
    its user stays locked out. Mutes stay: `moderation/unmute` and `groups/mute`
    end them.
    """
    if not (user or address):
        raise ApiProblem.invalid("Give `user`, `address` or both")
    call.user = refusals.user_of(call.app, user)
    names = refusals.names_of(call.app, user)
    _require_may_act_on(refusals, call, names)
    # The refusals of the user show the addresses whose rates are lifted, too.
    rows = _refusals_of(refusals, call.app, names)
    lifted, missing = refusals.lift(call.principal, call.app, names, address, rows)
    call.facts = {"lifted": list(map(_words_of, lifted))}
    if address:
        call.facts["address"] = address
    return LiftAnswer(list(map(_shown_hold, lifted)), missing)


def _refusals_of(
    refusals: Refusals, app: str, names: frozenset[str]
) -> list[RefusalRow]:
    """The refusals of a user on all nodes. The result is empty if ``names`` is
    empty."""
    if not names:
        return []
    rows, _ = refusals.select(Wanted(apps=frozenset({app}), names=names))
    return rows


def _require_may_act_on(refusals: Refusals, call: Call, names: Collection[str]) -> None:
    """Raise ApiProblem if the role of the caller may not act on these users."""
    authority = refusals.core.authority
    if not authority.may_act_on(call.principal, call.app, sorted(names)):
        raise ApiProblem(
            Problems.NOT_ALLOWED, "Your role acts on users with fewer rights only"
        )


def _words_of(hold: Hold) -> str:
    """A lifted hold in the words of the audit log.

    Examples are ``ban until 2026-11-26T08:30Z: spam`` and ``rate pair``.
    """
    if hold.kind == "rate":
        return f"rate {hold.name}"
    words: str = hold.kind
    if hold.until:
        end = datetime.fromtimestamp(hold.until, UTC)
        words += f" until {end:%Y-%m-%dT%H:%MZ}"
    if hold.detail:
        words += f": {hold.detail}"
    return words


def _shown(row: RefusalRow) -> RefusalShown:
    """Refusals as the route shows them, with their meaning."""
    reason, detail = reason_of(row.kind, row.reason, row.detail)
    times = {name: round(getattr(row, name), 1) for name in ("first", "last", "until")}
    return view(
        RefusalShown,
        row,
        **times,
        detail=detail,
        meaning=reason.meaning,
        lift=reason.lift,
    )


def _shown_hold(hold: Hold) -> HoldShown:
    """A hold as the routes show it."""
    return view(HoldShown, hold, until=round(hold.until, 1))
