"""``/api/v1/audit``: the acts in the audit log."""

from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from imserver.operate.audit.chain import ActShown, shown
from imserver.operate.audit.rows import AuditQuery, page_of
from imserver.plugin.http import Api, ApiProblem, Call, HttpResponse, Resource, about
from imserver.plugin.identity import Needs
from imserver.plugin.storage import Store

if TYPE_CHECKING:
    from imserver.operate.audit.verification import Verification

NDJSON: Final = "application/x-ndjson"
ACTS_PER_REQUEST: Final = 10
"""How many acts are checked in the time of a request."""


class AuditCheck(Struct):
    """The result of a check of the newest acts. A principal that does not reach
    all apps sees only whether the chain is broken."""

    acts: Annotated[int, about("The number of acts that were checked.")] = 0
    since: Annotated[
        int, about("The time of the oldest checked act, in Unix milliseconds.")
    ] = 0
    until: Annotated[
        int, about("The time of the newest checked act, in Unix milliseconds.")
    ] = 0
    head: Annotated[
        str,
        about(
            "The newest checked act, in the form that `imserver audit verify "
            "--head` takes."
        ),
    ] = ""
    wrong: Annotated[
        list[str],
        about(
            "The errors, at most 100 lines. Empty: nobody has changed or removed an "
            "act."
        ),
    ] = []


class AuditAnswer(Struct):
    """Acts, the newest first."""

    acts: list[ActShown]
    next: Annotated[
        int, about("Pass this value as `after` for older acts; 0: no older acts exist.")
    ]
    names: Annotated[
        dict[str, dict[str, str]], about("App → user → name of the account.")
    ] = {}
    check: Annotated[
        AuditCheck | None,
        about("Only if you sent `check` and the server has a database."),
    ] = None


class AuditApi(Struct, frozen=True):
    """The services that the route uses."""

    store: Store
    api: Api


routes = Resource(
    "audit",
    service=lambda core, api: AuditApi(core.store, api),
    hot=False,
    chapter=(
        "The audit log: changes, with the principal, the target, the time and the "
        "address."
    ),
    need=Needs.OPERATE,
)


@routes.get(
    "/audit",
    query=AuditQuery,
    answer=AuditAnswer,
    reach="optional",
)
def audit(service: AuditApi, call: Call) -> HttpResponse:
    """Search the audit log.

    An account that operates its app sees the acts in that app, and so does a
    key of one app. A key for all apps also sees acts that belong to no app.
    `user` needs an app. A search looks through 10,000 acts. If `next` is not 0,
    continue there, even if a page has fewer acts than `limit`. Erased names are
    null. `check` only finds out whether the chain of acts is unbroken. It shows
    nothing about acts in other apps. Each 10 checked acts count as one more
    request.

    With `Accept: application/x-ndjson`, the answer has one act per line, and
    the header `Link` leads to older acts.
    """
    request: AuditQuery = call.input
    store = service.store
    wanted = _wanted_of(call)
    # Lines of JSON have no place for the result of the check.
    has_lines = NDJSON in call.request.headers.get("accept", "")
    check = None
    if request.check and store.has_database and not has_lines:
        check = _check(service, call)
    acts, following = page_of(store, wanted)
    rows = [shown(row, names) for row, names in acts]
    if has_lines:
        return _lines(call, wanted, rows, following)
    return call.reply(AuditAnswer(rows, following, _names(store, rows), check))


def _wanted_of(call: Call) -> AuditQuery:
    """The acts that a caller wants. Raises ApiProblem.

    The chain is not to be verified, also by the link to the next page.
    """
    request: AuditQuery = call.input
    app = _app_of(call)
    if request.user and not app:
        raise ApiProblem.invalid("`app`: name the app of the user")
    return msgspec.structs.replace(request, app=app, check=False)


def _app_of(call: Call) -> str:
    """The app whose acts a caller wants; ``""`` means all apps.

    A caller who reaches only one app need not name it. Raises ApiProblem if
    several apps are possible.
    """
    reached_apps = call.principal.apps  # None: all apps
    if call.app or reached_apps is None:
        return call.app
    if len(reached_apps) != 1:
        raise ApiProblem.invalid("`app`: name one of those that the key reaches")
    (app,) = reached_apps
    return app


def _lines(
    call: Call, wanted: AuditQuery, rows: list[ActShown], following: int
) -> HttpResponse:
    """Answer with one act in each line, as JSON.

    If more acts follow, the header ``Link`` has the address of the next page.
    ``following`` is the number after which they begin; 0 means that no acts
    follow.
    """
    headers = [("X-Request-Id", call.request.id)]
    if following:
        fields = msgspec.structs.asdict(wanted)
        query = {name: value for name, value in fields.items() if value}
        query["after"] = following
        headers.append(("Link", f'</api/v1/audit?{urlencode(query)}>; rel="next"'))
    content = msgspec.json.Encoder().encode_lines(rows)
    return HttpResponse(200, content, NDJSON, tuple(headers))


def _check(service: AuditApi, call: Call) -> AuditCheck:
    """Verify the newest acts, and charge the caller for the work.

    The verification reads acts of all apps. A caller that does not reach all
    apps learns only whether the chain is unbroken.
    """
    from imserver.operate.audit.verification import NEWEST, verify  # few ask for it

    rates = service.api.rates
    payer = (call.principal, call.request.host)
    # The caller pays in advance, because other requests are served during the
    # verification.
    rates.charge(*payer, NEWEST // ACTS_PER_REQUEST)
    result = verify(service.store.read, newest=NEWEST)
    # If the log has fewer acts, this number is negative: the caller gets the
    # difference back.
    rates.charge(*payer, (result.rows - NEWEST) // ACTS_PER_REQUEST)

    reaches_all_apps = call.principal.apps is None
    if reaches_all_apps:
        return _full_check(result)
    # The numbers of broken rows would tell something about other apps.
    if result.wrong:
        return AuditCheck(wrong=["the chain is broken"])
    return AuditCheck()


def _full_check(result: "Verification") -> AuditCheck:
    """All results of a verification."""
    number, digest = result.head
    return AuditCheck(
        acts=result.rows,
        since=result.since,
        until=result.until,
        head=f"{number}:{digest}",
        wrong=result.wrong,
    )


def _names(store: Store, acts: list[ActShown]) -> dict[str, dict[str, str]]:
    """App → user → name of the account, for all users in these acts.

    Users without an account are left out.
    """
    names_by_app = {}
    for app, ids in _users_by_app(acts).items():
        if app and ids:
            names = store.names_of(app, sorted(ids))
            if names:
                names_by_app[app] = names
    return names_by_app


def _users_by_app(acts: list[ActShown]) -> dict[str, set[str]]:
    """App → the users in these acts who were not erased."""
    users_by_app: dict[str, set[str]] = {}
    for act in acts:
        # The maker may belong to another app than the target.
        if act.by.app and act.by.id:
            users_by_app.setdefault(act.by.app, set()).add(act.by.id)
        users_by_app.setdefault(act.app, set()).update(_targets_of(act))
    return users_by_app


def _targets_of(act: ActShown) -> list[str]:
    """The users to whom an act was done, and who were not erased."""
    others = (act.facts or {}).get("users", ())
    # None and "" stand for erased and missing users.
    return [user for user in (act.user, *others) if user]
