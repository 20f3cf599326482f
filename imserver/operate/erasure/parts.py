"""The parts of erasure on one node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

from gevent.lock import BoundedSemaphore
from msgspec import UNSET, Struct, UnsetType

from imserver.operate.erasure.declared import HTTP_NOT_WAITING, NotWaiting
from imserver.operate.erasure.deletion import AppDeletion, ErasureShown
from imserver.operate.erasure.waiting import (
    DUE,
    AppName,
    DueErasures,
    PlannedErasure,
    ReasonText,
    Seconds,
    due_runner,
    facts_of,
)
from imserver.plugin import Parts
from imserver.plugin.errors import Problems, Unavailable
from imserver.plugin.http import Acting, ApiProblem, Call, Resource, about
from imserver.plugin.identity import Act, Needs, Principal
from imserver.plugin.runtime import every
from imserver.plugin.services import Core

log = logging.getLogger(__name__)

Proof = Callable[[Call, str, str], None]
"""A function that checks the proof of a caller who wants to be erased. Its
arguments are the call, a password, and a code of the second factor. Raises
ApiProblem if the caller has an account, and the proof is wrong or missing."""


_LOAD: Final = "erasure.load"
_LOOK_SECONDS: Final = 60.0
_SECOND_MS: Final = 1000


class UserErasure:
    """Erases users, at once or after some time.

    Also continues erasures that another node has begun and could not end, and
    writes the journal of erasures. A planned erasure, also of an app, is a row
    of ``runner``. Until it begins, the user and their bots cannot log in,
    independently of bans. Methods switch greenlets, and raise Unavailable.
    """

    page_folder: Final = Path(__file__).parent / "page"

    def __init__(self, core: Core) -> None:
        """Make the runner of planned erasures, and answer queries of other
        nodes."""
        self._core = core
        self.prove = _proof_of(core)
        self.may_act_on = core.authority.may_act_on
        self.waiting = DueErasures(core.store)
        storage = core.config.storage
        self.deletion = AppDeletion(core.store, core.tenants, storage.look_seconds)
        self.runner = due_runner(core.store, DUE, self._begin)
        self._loading = BoundedSemaphore()
        core.queries.add(_LOAD, bool, self.load)

    def plan(self, app: str, user: str, seconds: int, reason: str) -> PlannedErasure:
        """Plan the erasure of a user to begin after some seconds.

        If an erasure of the user is planned already, the earlier plan stays.
        The user is locked out, so that no new data appear. Raises NotWaiting if
        somebody has taken the erasure back meanwhile.
        """
        self.waiting.add(app, user, seconds, reason)
        self._load_everywhere()
        return self.waiting.added(app, user)

    def undo(self, app: str, user: str) -> None:
        """Take back an erasure that has not begun.

        Raises NotWaiting if no erasure is planned, or if the erasure has begun.
        """
        if not self.waiting.take_back(app, user):
            raise NotWaiting
        self._load_everywhere()

    def load(self, _query: bool = True) -> bool:
        """Lock out on this node the users who will be erased, with their bots.

        All other users are let in again. Returns True, which is the answer to a
        query of another node.
        """
        # One greenlet at a time, so that an older read never replaces a newer
        # one.
        with self._loading:
            ends_by_user: dict[tuple[str, str], int] = {}
            for due in self.waiting.of_users():
                for user in self._core.authority.with_programs(due.app, [due.id]):
                    ends_by_user[due.app, user] = due.ends
            self._core.sessions.hold(ends_by_user, "to be erased")
        return True

    def _load_everywhere(self) -> None:
        """Call :meth:`load` on all nodes that answer. Each other node calls it
        within seconds."""
        self.load()
        self._core.ask_others(_LOAD, True, bool)

    def _begin(self, app: str, user: str) -> None:
        """Erase a user whose time has come, or with an empty ``user`` an app.

        The runner calls this. The row of the planned erasure is deleted with
        all other rows.
        """
        reason = ""
        due = self.waiting.get(app, user)
        if due is not None:
            reason = due.reason
        if user:
            self.erase(app, user, reason)
        elif self.deletion.begin(app, self._core.erasures):
            self._record("apps.delete.end", app, user="", reason=reason)

    def _record(self, name: str, app: str, user: str, reason: str) -> None:
        """Store in the audit log that this node has carried out an erasure."""
        by = Principal("node", key=self._core.node_name)
        # ``gone``: the log stores no name of the user.
        act = Act(name, by, app, user, facts=facts_of(reason), gone=bool(user))
        self._core.observer.acted(act)

    def ended(self, app: str, user: str) -> int | None:
        """When the newest erasure of a user ended, in Unix seconds.

        Returns 0 if an erasure is in progress, and None if the user was never
        erased. Raises Unavailable.
        """
        # The rows have no ids of users, only digests.
        digests = self._core.user_erasures.digests(app, user)
        statement = "SELECT ended FROM erasure WHERE digest IN {}"
        rows = self._core.store.rows_in(statement, (), digests)
        times = [int(ended) for (ended,) in rows]
        if not times:
            return None
        if 0 in times:  # it has begun, but not ended
            return 0
        return max(times) // _SECOND_MS

    def has_rows(self, app: str, user: str) -> bool:
        """Whether the database has rows of a user.

        Switches greenlets. Raises Unavailable.
        """
        return any(True for _ in self._core.store.rows_of_user(app, user))

    def erase_for(
        self, call: Call, act: str, user: str, reason: str = ""
    ) -> ErasedAnswer:
        """Erase a user at once, for a request.

        ``act`` is the name of the act for the audit log. It is stored there
        before the erasure begins, because this node may die during it.
        """
        core = self._core
        self._store_act(call, act, user, reason)
        if core.store.has_database:
            # If this node dies after this step, another node continues.
            core.user_erasures.begin(call.app, user)
        try:
            self.erase(call.app, user, reason)
        except Unavailable as error:
            if not core.store.has_database:
                raise
            # With a database, a node continues the erasure within a minute.
            log.warning("an erasure in %s goes on later: %s", call.app, error)
            return ErasedAnswer(erased=False)
        return ErasedAnswer()

    def _store_act(self, call: Call, act: str, user: str, reason: str) -> None:
        """Store the act of an erasure in the audit log, without its user."""
        who = call.principal, call.app, user, call.request.host, call.request.id
        self._core.observer.acted(Act(act, *who, facts_of(reason), gone=True))
        call.act = ""  # otherwise the API would store the act again

    def erase(self, app: str, user: str, reason: str = "") -> None:
        """Erase a user of any kind. ``reason`` is for the audit log.

        Switches greenlets. Raises Unavailable.
        """
        self._core.erase_user(app, user)
        self._record("users.erase.end", app, user, reason)
        # The user was locked out for a planned erasure, which has ended.
        if (app, user) in self._core.sessions.holds:
            self._load_everywhere()
        self._write_journal()

    def look(self) -> None:
        """Continue interrupted erasures, and bring the journal of this node up
        to date.

        Other nodes have erased users, too. Switches greenlets. Raises
        Unavailable.
        """
        for app, user in self._core.user_erasures.interrupted():
            self.erase(app, user)
            log.info("an interrupted erasure in %s has ended", app)
        self._write_journal()

    def _write_journal(self) -> None:
        """Write the erased users to a file.

        A restore of an older backup reads it, and erases them again.
        """
        try:
            self._core.user_erasures.write_journal(self._core.node.folder)
        except OSError as error:
            log.error("the journal of erasures cannot be written: %s", error.strerror)


def build(core: Core) -> Parts:
    """Build the services for erasures on a node, and their periodic work."""
    erasure = UserErasure(core)

    def configure(_config: object) -> None:
        """Lock out the users who will be erased, before the first login."""
        erasure.load()

    # Other nodes may have planned or interrupted an erasure.
    look = every(_LOOK_SECONDS, erasure.look, "erasures could not go on")
    load = every(
        core.config.storage.look_seconds,
        erasure.load,
        "the erasures that wait could not be read",
    )
    return Parts(
        (erasure, erasure.deletion),
        configure=configure,
        run=(look, load, erasure.runner.run),
        stop=erasure.runner.stop,
    )


def _needs_no_proof(call: Call, password: str, code: str) -> None:
    """Require no proof, because the token of a user is the proof."""


def _proof_of(core: Core) -> Proof:
    """Make the function that checks the proof of a user.

    On a node without accounts it requires no proof.
    """
    if "accounts" not in core.features:
        return _needs_no_proof
    # Imported here: a node may have no accounts.
    from imserver.people.accounts.accounts import AccountLocked, WrongLogin
    from imserver.people.accounts.factors import FactorRequired, WrongCode
    from imserver.people.accounts.parts import accounts_of

    accounts = accounts_of(core).accounts

    def prove(call: Call, password: str, code: str) -> None:
        """Raise ApiProblem unless the user has proved who they are."""
        if accounts.get(call.app, call.user) is None:
            return  # a user without an account, whose token is the proof
        try:
            accounts.proved(
                call.app,
                call.user,
                password,
                code,
                address=call.request.host,
                token=call.credential,
            )
        except FactorRequired:
            raise ApiProblem(
                Problems.NOT_ALLOWED, "The account takes a code of its second factor"
            ) from None
        except (WrongLogin, WrongCode, AccountLocked):
            # One text for all errors, so that nobody learns whether the
            # password or the code is right.
            raise ApiProblem(
                Problems.NOT_ALLOWED, "The password or code is wrong"
            ) from None

    return prove


class ErasedAnswer(Struct):
    """The user is erased, or will be."""

    erased: Annotated[
        bool,
        about(
            "False: the erasure has not ended. If `ends` is set, the erasure begins at "
            "that time. Without `ends`, it has begun, but a service does not answer. "
            "The server continues within ten minutes."
        ),
    ] = True
    ends: Annotated[
        int | UnsetType,
        about(
            "When the erasure begins, in Unix seconds. Until then, you can cancel it."
        ),
    ] = UNSET


_User = Annotated[
    str,
    about("The id of the user.", min_length=1, max_length=255, pattern=r"^[^\x00]+$"),
]


class ErasureQuery(Struct, forbid_unknown_fields=True):
    """Whose erasure is wanted."""

    app: AppName
    user: _User


routes = Resource(
    "erasure",
    service=lambda core, _: core.service(UserErasure),
    base=Acting,
    chapter="Erase users of any kind, with everything that they wrote.",
    hot=False,
)


@routes.post(
    "/users/erase",
    Needs.OPERATE,
    schema=("UserErase", "The user to erase."),
    base=None,
    problems=(Problems.MEDIA_UNAVAILABLE,),
)
def erase(
    erasure: UserErasure,
    call: Call,
    app: AppName,
    user: _User,
    seconds: Seconds = 0,
    reason: ReasonText = "",
) -> ErasedAnswer:
    """Erase a user: account, texts, files, reactions and name.

    Entries keep their ids, but lose their contents. Others see a deleted user.
    A ban ends. If a service does not answer, the server continues the erasure
    by itself. 503: the erasure has not begun; repeat the request.

    With `seconds`, the user is locked out at once and erased after that time.
    Until then, `users/erase/undo` cancels the erasure.
    """
    _check(erasure, call, user)
    if seconds:
        planned = erasure.plan(call.app, user, seconds, reason)
        return ErasedAnswer(erased=False, ends=planned.ends)
    return erasure.erase_for(call, "users.erase", user, reason)


@routes.post(
    "/users/erase/undo",
    Needs.OPERATE,
    schema=("ErasureUndo", "The user whose erasure you want to cancel."),
    base=None,
    problems=(HTTP_NOT_WAITING,),
)
def undo(erasure: UserErasure, call: Call, app: AppName, user: _User) -> ErasureShown:
    """Cancel an erasure that has not begun.

    The user can log in again, unless a ban or a lock is in force.
    """
    _check(erasure, call, user)
    erasure.undo(call.app, user)
    return ErasureShown("none", ends=0)


@routes.get("/users/erase/show", Needs.OPERATE)
def show(erasure: UserErasure, call: Call, request: ErasureQuery) -> ErasureShown:
    """Show the progress of the erasure of a user."""
    due = erasure.waiting.get(call.app, request.user)
    if due is not None:
        return ErasureShown.of(due)
    ended = erasure.ended(call.app, request.user)
    if ended == 0:  # it has begun
        return ErasureShown("under way", ends=0)
    is_stored = erasure.has_rows(call.app, request.user)
    if ended is None:
        return ErasureShown("none", ends=0, stored=is_stored)
    return ErasureShown("ended", ends=ended, stored=is_stored)


def _check(erasure: UserErasure, call: Call, user: str) -> None:
    """Refuse a caller whose role may not act on the user. Raises ApiProblem."""
    if not erasure.may_act_on(call.principal, call.app, [user]):
        raise ApiProblem(
            Problems.NOT_ALLOWED, "Your role acts on users with fewer rights only"
        )


@routes.post(
    "/users/erase/self",
    Needs.ADMIN_OR_USER,
    schema=("OwnErase", "The proof that the user has asked for the erasure."),
    problems=(Problems.MEDIA_UNAVAILABLE,),
)
def erase_self(
    erasure: UserErasure,
    call: Call,
    password: Annotated[
        str,
        about(
            "The password of the account. Users without one leave it out.",
            max_length=250,
        ),
    ] = "",
    code: Annotated[
        str,
        about(
            "A code of the second factor, or a recovery code. Only if the account has "
            "a second factor.",
            max_length=40,
        ),
    ] = "",
) -> ErasedAnswer:
    """Erase the acting user.

    An account proves itself as at a login: by its password and, if it has a
    second factor, by a code. For a user with a session token, the token is the
    proof. A back end needs no proof.
    """
    if not call.is_back_end:
        erasure.prove(call, password, code)
        # The line of this request comes to the server's log after the erasure,
        # so it must not name the user.
        call.request.by = ""
    return erasure.erase_for(call, "users.erase.self", call.user)
