"""Mailboxes over ``/api/v1``."""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Struct

from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    Acting,
    ActingPage,
    ApiProblem,
    Call,
    NextCursor,
    Resource,
    about,
    page_and_cursor,
    read_cursor,
)
from imserver.plugin.identity import Needs
from imserver.plugin.services import Core
from imserver.plugin.wire import Limit, id_of

from .rows import REASON_CHARACTERS
from .service import HTTP_LATE, HTTP_UNKNOWN_LETTER, Mailboxes

MOST_SECONDS: Final = 43_200
MOST_WAIT_SECONDS: Final = 50
"""The longest wait of a claim, because proxies end requests that take a
minute."""
MOST_MESSAGES: Final = 20
USUAL_SECONDS: Final = 60
USUAL_TRIES: Final = 5

Token = Annotated[str, about("The `token` of the claim.", max_length=80)]
Lease = Annotated[
    int,
    about(
        "So many seconds from now on nobody else gets these messages.",
        ge=1,
        le=MOST_SECONDS,
    ),
]
Until = Annotated[
    int,
    about("When the lease ends, by the clock of the database, in Unix milliseconds."),
]
LetterId = Annotated[int, about("The id of the message.", ge=1, le=Limit.ID)]


class ClaimAnswer(Struct):
    """Messages of one conversation, in their order. None: nothing waits."""

    token: Annotated[
        str, about("For `ack`, `nack` and `renew`; empty: nothing waits.")
    ] = ""
    messages: Annotated[list[Any], about("As `GET /messages` shows them.")] = []
    tries: Annotated[
        int, about("How often the first of them was claimed, with this time.")
    ] = 0
    until: Until = 0


class Renewed(Struct):
    """The new end of the lease."""

    until: Until


class Acknowledged(Struct):
    """Done."""

    repeated: Annotated[bool, about("True: this claim was acknowledged before.")]


class MailboxDone(Struct):
    """Done."""

    done: Annotated[bool, about("Always true.")] = True


class DeadLetter(Struct):
    """A message that was claimed too often. `GET /messages` has its content."""

    message: Annotated[int, about("The id of the message.")]
    conversation: Annotated[int, about("Its conversation.")]
    tries: Annotated[int, about("How often it was claimed.")]
    reason: Annotated[str, about("What the worker who gave it back last has said.")]
    died: Annotated[int, about("When it became a dead letter, in Unix milliseconds.")]


class DeadLetters(Struct):
    """A page of dead letters, ordered by id."""

    letters: list[DeadLetter]
    next: NextCursor


class MailboxApi(Struct, frozen=True):
    """The services that the routes use."""

    core: Core
    mailboxes: Mailboxes


routes = Resource(
    "mailbox",
    lambda core, _: MailboxApi(core, core.service(Mailboxes)),
    base=Acting,
    need=Needs.ADMIN_OR_BOT,
    chapter="The messages of a bot, for workers that share them.",
)


@routes.post(
    "/mailbox/claim",
    schema=("ClaimRequest", "For how long, and how many."),
    act="",
    problems=(Problems.UNKNOWN_ACCOUNT,),
)
def claim(
    api: MailboxApi,
    call: Call,
    seconds: Lease = USUAL_SECONDS,
    wait: Annotated[
        int,
        about(
            "So many seconds the server waits for something to claim.",
            ge=0,
            le=MOST_WAIT_SECONDS,
        ),
    ] = 0,
    limit: Annotated[
        int,
        about(
            "So many messages of one conversation at most. One that failed before comes alone.",
            ge=1,
            le=MOST_MESSAGES,
        ),
    ] = 1,
    tries: Annotated[
        int,
        about(
            "A message that was claimed so often and never acknowledged is a dead letter.",
            ge=1,
            le=100,
        ),
    ] = USUAL_TRIES,
) -> ClaimAnswer:
    """Claim the messages that wait longest.

    Until the lease ends nobody else gets messages of this conversation, so they
    are handled in their order. What is not acknowledged by then is claimed
    again. A mailbox begins with what the bot has not read. Its own messages are
    not in it, nor are messages that were recalled before they were claimed.
    """
    if call.is_back_end:
        api.mailboxes.require_bot(call.app, call.user)
    headers = call.request.headers
    proof = ""
    if wait > 0 and call.credential != "":
        proof = api.core.authority.proof(call.principal, headers)
    claim = api.mailboxes.claim(
        call.app, call.user, seconds, limit, tries, wait, call.principal.label
    )
    # The token or key may have been revoked while the request was waiting.
    app = call.principal.app or call.app
    user = call.principal.user
    if proof and not api.core.still_holds(app, user, proof):
        if user:
            raise ApiProblem(Problems.TOKEN_INVALID)
        raise ApiProblem(Problems.UNAUTHORIZED)
    if claim is None:
        return ClaimAnswer()
    messages = [message.view() for message in claim.messages]
    return ClaimAnswer(claim.token, messages, claim.row.tries + 1, claim.until)


@routes.post(
    "/mailbox/renew", schema=("RenewRequest", "A claim."), act="", problems=(HTTP_LATE,)
)
def renew(
    api: MailboxApi, call: Call, token: Token, seconds: Lease = USUAL_SECONDS
) -> Renewed:
    """Let a claim end later, while it still holds"""
    return Renewed(api.mailboxes.renew(call.app, call.user, token, seconds))


@routes.post(
    "/mailbox/ack", schema=("AckRequest", "A claim."), act="", problems=(HTTP_LATE,)
)
def ack(api: MailboxApi, call: Call, token: Token) -> Acknowledged:
    """Acknowledge the messages of a claim.

    They were handled, and nobody gets them again. Who wrote them sees that the
    bot has read them. If the lease has ended, the answer is `claim_ended`:
    another worker gets the messages, or has them already.
    """
    return Acknowledged(not api.mailboxes.acknowledge(call.app, call.user, token))


@routes.post(
    "/mailbox/nack",
    schema=("NackRequest", "A claim, and why it failed."),
    act="",
    problems=(HTTP_LATE,),
)
def nack(
    api: MailboxApi,
    call: Call,
    token: Token,
    seconds: Annotated[
        int,
        about(
            "After so many seconds the messages may be claimed again.",
            ge=0,
            le=MOST_SECONDS,
        ),
    ] = 0,
    reason: Annotated[
        str,
        about(
            "What a dead letter says about it.",
            max_length=REASON_CHARACTERS,
            pattern=r"^[^\x00-\x1f\x7f]*$",
        ),
    ] = "",
) -> MailboxDone:
    """Give the messages of a claim back, because they could not be handled"""
    api.mailboxes.give_back(call.app, call.user, token, seconds, reason)
    return MailboxDone()


@routes.get("/mailbox/dead", base=ActingPage)
def dead(api: MailboxApi, call: Call, cursor: str, limit: int) -> DeadLetters:
    """List the dead letters of a bot"""
    after = id_of(read_cursor(cursor) or "0")
    rows = api.mailboxes.rows.dead(call.app, call.user, after, limit + 1)
    page, following = page_and_cursor(rows, limit, lambda row: str(row.message))
    letters = [
        DeadLetter(row.message, row.conversation, row.tries, row.reason, row.due)
        for row in page
    ]
    return DeadLetters(letters, following)


@routes.post(
    "/mailbox/retry",
    schema=("RetryRequest", "A dead letter."),
    problems=(HTTP_UNKNOWN_LETTER,),
)
def retry(api: MailboxApi, call: Call, message: LetterId) -> MailboxDone:
    """Put a dead letter back: it is claimed again, alone, beside its
    conversation"""
    api.mailboxes.put_back(call.app, call.user, message)
    return MailboxDone()


@routes.post(
    "/mailbox/drop",
    schema=("DropRequest", "A dead letter."),
    problems=(HTTP_UNKNOWN_LETTER,),
)
def drop(api: MailboxApi, call: Call, message: LetterId) -> MailboxDone:
    """Delete a dead letter. The message stays in its conversation"""
    api.mailboxes.drop(call.app, call.user, message)
    return MailboxDone()
