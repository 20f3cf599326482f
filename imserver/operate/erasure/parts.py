"""The parts of erasure on one node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from math import inf
from pathlib import Path
from time import time
from typing import Annotated, Final, Literal

from msgspec import UNSET, Struct, UnsetType

from imserver.operate.erasure.declared import HTTP_NOT_WAITING, MOST_SECONDS
from imserver.plugin import Parts
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.http import Acting, ApiProblem, Call, Resource, about
from imserver.plugin.identity import Act, Needs, Principal
from imserver.plugin.runtime import every
from imserver.plugin.services import Core
from imserver.plugin.storage import PooledStatements, RowsOf, Runner

log = logging.getLogger(__name__)

Proof = Callable[[Call, str, str], None]
"""Gets a password and a code. Raises if the caller is the owner of an account and has proved nothing."""


class PlannedErasure(Struct, frozen=True):
    """An erasure that is to begin: ``ends`` is when, in Unix seconds by the clock of the database. ``id``:
    the user. ``banned``: the user is banned until then, and was not before."""

    app: str
    id: str
    created: int
    ends: int
    banned: bool
    reason: str


_ROWS: Final = RowsOf(PlannedErasure, "erasure_due")
_ROW: Final = "WHERE app = %s AND id = %s"
_BAN_REASON: Final = "to be erased"
"""Of the bans of an erasure that is to begin: others stay when it is undone."""


class UserErasure:
    """Erases users, at once or a while later, goes on with erasures that were interrupted, and writes the
    journal. An erasure that is to begin is a row of ``runner``; methods raise Unavailable, and switch."""

    page_folder: Final = Path(__file__).parent / "page"

    def __init__(self, core: Core) -> None:
        self._core = core
        self.prove = _proof_of(core)
        self.may_act_on = core.authority.may_act_on
        due = "ends <= {now}"
        self.runner = Runner(core.store, "erasure_due", due, self._begin, lease_seconds=600, look_seconds=5.0)

    def due(self, app: str, user: str) -> PlannedErasure | None:
        """The erasure of a user that is to begin, or has begun just now."""
        return _ROWS.first(self._core.store.rows, _ROW, app, user)

    def plan(self, app: str, user: str, seconds: int, reason: str) -> PlannedErasure:
        """Let the erasure of a user begin in so many seconds, if it does not begin already. The user is
        banned, so that nothing new appears."""
        core = self._core
        everybody = core.authority.with_programs(app, [user])
        free = [each for each in everybody if not core.sessions.is_banned(app, each)]

        def add(sql: PooledStatements) -> None:
            now = int(sql.query(f"SELECT {sql.now}")[0][0])
            new = PlannedErasure(app, user, now, now + seconds, user in free, reason)
            sql.insert_new("erasure_due", f"{_ROWS.columns}, leased", [(*_ROWS.values(new), now)])

        core.store.write(add)
        if free:
            core.sessions.close(app, free, None, inf, _BAN_REASON)
        due = self.due(app, user)
        if due is None:
            raise ServiceRefused(problem=HTTP_NOT_WAITING)  # somebody has undone it
        return due

    def undo(self, app: str, user: str) -> None:
        """Take back an erasure that has not begun, and its bans. Raises ServiceRefused if there is none."""
        due = self.due(app, user)
        statement = f"DELETE FROM erasure_due {_ROW} AND ends > {{}}"
        store = self._core.store
        if due is None or not store.write(lambda sql: sql.execute(statement.format(sql.now), (app, user))):
            raise ServiceRefused(problem=HTTP_NOT_WAITING)
        bans, everybody = self._core.sessions.bans(app), self._core.authority.unlocked(app, [user])
        own = [each for each in everybody if each in bans and bans[each].reason == _BAN_REASON]
        if own:
            self._core.sessions.unban(app, own)

    def _begin(self, app: str, user: str) -> None:
        """Erase a user whose time has come: the row goes with all others."""
        due = self.due(app, user)
        self.erase(app, user)
        self._record(app, user, "" if due is None else due.reason)

    def _record(self, app: str, user: str, reason: str) -> None:
        by, facts = Principal("node", key=self._core.node_name), {"reason": reason} if reason else {}
        self._core.observer.acted(Act("users.erase.end", by, app, user, facts=facts, gone=True))

    def ended(self, app: str, user: str) -> int | None:
        """When the newest erasure of a user ended, in Unix seconds; 0: it is under way. None: there was none.
        Raises Unavailable."""
        statement = "SELECT ended FROM erasure WHERE digest IN {}"
        rows = self._core.store.rows_in(statement, (), self._core.user_erasures.digests(app, user))
        times = [ended for (ended,) in rows]
        return min(times) and max(times) // 1000 if times else None

    def has_rows(self, app: str, user: str) -> bool:
        """Whether the database has rows of a user. Switches. Raises Unavailable."""
        return any(True for _ in self._core.store.rows_of_user(app, user))

    def erase(self, app: str, user: str) -> None:
        """Erase a user of any kind. Switches. Raises Unavailable."""
        self._core.erase_user(app, user)
        self._write_journal()

    def look(self) -> None:
        """Go on with erasures that were interrupted, and note what other nodes have erased. Switches. Raises
        Unavailable."""
        for app, user in self._core.user_erasures.interrupted():
            self._core.erase_user(app, user)
            self._record(app, user, "")
            log.info("an interrupted erasure in %s has ended", app)
        self._write_journal()

    def _write_journal(self) -> None:
        try:
            self._core.user_erasures.write_journal(self._core.node.folder)
        except OSError as error:
            log.error("the journal of erasures cannot be written: %s", error.strerror)


def build(core: Core) -> Parts:
    """Build them."""
    erasure = UserErasure(core)
    look = every(60.0, erasure.look, "erasures could not go on")
    return Parts((erasure,), run=(look, erasure.runner.run), stop=erasure.runner.stop)


def _proof_of(core: Core) -> Proof:
    if "accounts" not in core.features:
        return lambda call, password, code: None
    # Imported here: a node may have no accounts.
    from imserver.people.accounts.accounts import AccountLocked, WrongLogin
    from imserver.people.accounts.factors import FactorRequired, WrongCode
    from imserver.people.accounts.parts import accounts_of

    accounts = accounts_of(core).accounts

    def prove(call: Call, password: str, code: str) -> None:
        if accounts.get(call.app, call.user) is None:
            return  # the user of a token, which is the proof
        try:
            accounts.proved(call.app, call.user, password, code, call.request.host, call.credential)
        except FactorRequired:
            raise ApiProblem(Problems.NOT_ALLOWED, "The account takes a code of its second factor") from None
        except (WrongLogin, WrongCode, AccountLocked):
            raise ApiProblem(Problems.NOT_ALLOWED, "The password or code is wrong") from None

    return prove


class ErasedAnswer(Struct):
    """Nothing of the user is left, or soon will be."""

    erased: Annotated[bool, about("False: the erasure begins later.")] = True
    ends: Annotated[
        int | UnsetType, about("When the erasure begins, in Unix seconds. Until then it can be undone.")
    ] = UNSET


class ErasureShown(Struct):
    """How far the erasure of a user is."""

    state: Annotated[
        Literal["none", "waiting", "under way", "ended"],
        about("`waiting`: it begins at `ends`, and can be undone. `ended`: there was one."),
    ]
    ends: Annotated[int, about("When it begins, or ended, in Unix seconds; 0: unknown.")]
    stored: Annotated[
        bool | UnsetType, about("Whether the database has something of the user, if no erasure is to begin.")
    ] = UNSET


_App = Annotated[str, about("The app.", min_length=1, max_length=191)]
_User = Annotated[str, about("The id of the user.", min_length=1, max_length=255, pattern=r"^[^\x00]+$")]


class ErasureQuery(Struct, forbid_unknown_fields=True):
    """Whose erasure is wanted."""

    app: _App
    user: _User


routes = Resource(
    "erasure",
    service=lambda core, _: core.service(UserErasure),
    base=Acting,
    chapter="Erase users of any kind, with all that they wrote.",
    hot=False,
)


@routes.post(
    "/users/erase",
    Needs.OPERATE,
    schema=("UserErase", "Who is to be erased."),
    base=None,
    problems=(Problems.MEDIA_UNAVAILABLE,),
)
def erase(
    erasure: UserErasure,
    call: Call,
    app: _App,
    user: _User,
    seconds: Annotated[
        int, about("The erasure begins after so many seconds; 0: at once.", ge=0, le=MOST_SECONDS)
    ] = 0,
    reason: Annotated[str, about("Why, for the audit log. It stays there.", max_length=250)] = "",
) -> ErasedAnswer:
    """Erase a user: their account, texts, files, reactions, and their name.

    Entries keep their ids, without content. Others see a deleted user. A ban ends. A request that failed may
    be repeated, and goes on.

    With `seconds` the user is banned at once, and `users/erase/undo` takes it back until then.
    """
    _check(erasure, call, user)
    if seconds:
        return ErasedAnswer(False, erasure.plan(call.app, user, seconds, reason).ends)
    erasure.erase(call.app, user)
    call.gone = True
    return ErasedAnswer()


@routes.post(
    "/users/erase/undo",
    Needs.OPERATE,
    schema=("ErasureUndo", "Whose erasure does not begin."),
    base=None,
    problems=(HTTP_NOT_WAITING,),
)
def undo(erasure: UserErasure, call: Call, app: _App, user: _User) -> ErasureShown:
    """Take back an erasure that has not begun.

    The ban that came with it ends.
    """
    _check(erasure, call, user)
    erasure.undo(call.app, user)
    return ErasureShown("none", 0)


@routes.get("/users/erase/show", Needs.OPERATE)
def show(erasure: UserErasure, call: Call, request: ErasureQuery) -> ErasureShown:
    """Show how far the erasure of a user is."""
    if (due := erasure.due(call.app, request.user)) is not None:
        return ErasureShown("waiting" if due.ends > time() else "under way", due.ends)
    if (ended := erasure.ended(call.app, request.user)) == 0:
        return ErasureShown("under way", 0)
    return ErasureShown("ended" if ended else "none", ended or 0, erasure.has_rows(call.app, request.user))


def _check(erasure: UserErasure, call: Call, user: str) -> None:
    if not erasure.may_act_on(call.principal, call.app, [user]):
        raise ApiProblem(Problems.NOT_ALLOWED, "Your role acts on users with fewer rights only")


@routes.post(
    "/users/erase/self",
    Needs.ADMIN_OR_USER,
    schema=("OwnErase", "The proof that it is the user who wants it."),
    problems=(Problems.MEDIA_UNAVAILABLE, Problems.TOO_MANY_REQUESTS),
)
def erase_self(
    erasure: UserErasure,
    call: Call,
    password: Annotated[
        str, about("The password of the account. Users without one leave it out.", max_length=250)
    ] = "",
    code: Annotated[
        str,
        about("A code of the second factor, or a recovery code, if the account has a factor.", max_length=40),
    ] = "",
) -> ErasedAnswer:
    """Erase the acting user.

    An account proves itself as at a login: by its password, and by a code of its second factor if it has one.
    For a user of a session token, that token is the proof. A back end needs no proof.
    """
    if not call.is_back_end:
        erasure.prove(call, password, code)
        call.request.by = ""  # its line in the log comes after the erasure
    erasure.erase(call.app, call.user)
    call.gone = True
    return ErasedAnswer()
