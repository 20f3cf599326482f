"""The parts of erasure on one node."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Final

from msgspec import Struct

from imserver.plugin import Parts
from imserver.plugin.errors import Problems
from imserver.plugin.http import Acting, ApiProblem, Call, Resource, about
from imserver.plugin.identity import Needs
from imserver.plugin.runtime import every
from imserver.plugin.services import Core

log = logging.getLogger(__name__)

Proof = Callable[[Call, str, str], None]
"""Gets a password and a code. Raises if the caller is the owner of an account and has proved nothing."""


class UserErasure:
    """Erases users, goes on with erasures that were interrupted, and writes the journal."""

    page_folder: Final = Path(__file__).parent / "page"

    def __init__(self, core: Core) -> None:
        self._core = core
        self.prove = _proof_of(core)
        self.may_act_on = core.authority.may_act_on

    def erase(self, app: str, user: str) -> None:
        """Erase a user of any kind. Switches. Raises Unavailable."""
        self._core.erase_user(app, user)
        self._write_journal()

    def look(self) -> None:
        """Go on with erasures that were interrupted, and note what other nodes have erased. Switches. Raises
        Unavailable."""
        for app, user in self._core.user_erasures.interrupted():
            self._core.erase_user(app, user)
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
    return Parts((erasure,), run=(every(60.0, erasure.look, "erasures could not go on"),))


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
    """Nothing of the user is left."""

    erased: Annotated[bool, about("Always true.")] = True


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
    app: Annotated[str, about("The app.", min_length=1, max_length=191)],
    user: Annotated[str, about("The id of the user.", min_length=1, max_length=255, pattern=r"^[^\x00]+$")],
) -> ErasedAnswer:
    """Erase a user: their account, texts, files, reactions, and their name.

    Entries keep their ids, without content. Others see a deleted user. A ban ends. A request that failed may
    be repeated, and goes on.
    """
    if not erasure.may_act_on(call.principal, call.app, [user]):
        raise ApiProblem(Problems.NOT_ALLOWED, "Your role acts on users with fewer rights only")
    erasure.erase(call.app, user)
    call.gone = True
    return ErasedAnswer()


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
    erasure.erase(call.app, call.user)
    call.gone = True
    return ErasedAnswer()
