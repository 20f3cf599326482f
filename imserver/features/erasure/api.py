"""Routes that erase users."""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from imserver.features.erasure.parts import UserErasure
from imserver.plugin.errors import Problems
from imserver.plugin.http import Acting, ApiProblem, Call, Resource, about
from imserver.plugin.identity import Needs

_USER = r"^[^\x00]+$"


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
    user: Annotated[str, about("The id of the user.", min_length=1, max_length=255, pattern=_USER)],
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
    if erasure.proof is not None and not call.is_back_end:
        host, token = call.request.host, call.credential
        erasure.proof(call.app, call.user, password, code, host, token)
    erasure.erase(call.app, call.user)
    call.gone = True
    return ErasedAnswer()
