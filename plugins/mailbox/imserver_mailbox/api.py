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
from .service import HTTP_LATE, HTTP_UNKNOWN_LETTER, Claim, Mailboxes

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
        "The duration of the lease, in seconds. During this time, nobody else gets "
        "these messages.",
        ge=1,
        le=MOST_SECONDS,
    ),
]
Until = Annotated[
    int,
    about("The end of the lease, by the clock of the database, in Unix milliseconds."),
]
LetterId = Annotated[int, about("The id of the message.", ge=1, le=Limit.ID)]


class ClaimAnswer(Struct):
    """Messages of one conversation, in their order. Empty: no message waits."""

    token: Annotated[
        str, about("The token for `ack`, `nack` and `renew`; empty: no message waits.")
    ] = ""
    messages: Annotated[
        list[Any], about("The messages, in the form of `GET /messages`.")
    ] = []
    tries: Annotated[
        int, about("How often the first message was claimed, including this claim.")
    ] = 0
    until: Until = 0


class Renewed(Struct):
    """The new end of the lease."""

    until: Until


class Acknowledged(Struct):
    """Done."""

    repeated: Annotated[bool, about("True: this claim has already been acknowledged.")]


class MailboxDone(Struct):
    """Done."""

    done: Annotated[bool, about("Always true.")] = True


class DeadLetter(Struct):
    """A message that was claimed too often. `GET /messages` has its content."""

    message: Annotated[int, about("The id of the message.")]
    conversation: Annotated[int, about("The conversation of the message.")]
    tries: Annotated[int, about("How often the message was claimed.")]
    reason: Annotated[
        str,
        about("The reason from the worker that was the last to give the message back."),
    ]
    died: Annotated[
        int, about("When the message became a dead letter, in Unix milliseconds.")
    ]


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
    chapter="Share the messages of a bot among several workers.",
)


@routes.post(
    "/mailbox/claim",
    schema=("ClaimRequest", "The duration of the claim, and the number of messages."),
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
            "How long the server waits for messages, in seconds.",
            ge=0,
            le=MOST_WAIT_SECONDS,
        ),
    ] = 0,
    limit: Annotated[
        int,
        about(
            "The maximum number of messages, all of one conversation. A message that "
            "failed before comes alone.",
            ge=1,
            le=MOST_MESSAGES,
        ),
    ] = 1,
    tries: Annotated[
        int,
        about(
            "After so many claims without an acknowledgement, a message becomes a dead "
            "letter.",
            ge=1,
            le=100,
        ),
    ] = USUAL_TRIES,
) -> ClaimAnswer:
    """Claim the messages that wait longest.

    Until the lease ends, nobody else gets messages of this conversation. So the
    messages are handled in their order. Messages that are not acknowledged by
    then can be claimed again. A mailbox begins with the messages that the bot
    has not read. The bot's own messages, and messages recalled before a claim,
    are left out.
    """
    if call.is_back_end:
        api.mailboxes.require_bot(call.app, call.user)
    # The proof stays empty if the request does not wait, or needed no key.
    proof = ""
    if wait > 0 and call.credential != "":
        proof = api.core.authority.proof(call.principal, call.request.headers)
    claim = api.mailboxes.claim(
        call.app,
        call.user,
        seconds=seconds,
        limit=limit,
        tries=tries,
        wait=wait,
        payer=call.principal.label,
    )
    if proof:
        _require_right(api, call, proof)
    if claim is None:
        return ClaimAnswer()
    return _answer_with(claim)


def _answer_with(claim: Claim) -> ClaimAnswer:
    """The messages of a claim, with its token and its end."""
    messages = [message.view() for message in claim.messages]
    return ClaimAnswer(
        token=claim.token,
        messages=messages,
        tries=claim.row.tries + 1,
        until=claim.until,
    )


def _require_right(api: MailboxApi, call: Call, proof: str) -> None:
    """Raise ApiProblem if the token or key of a request was revoked while the
    request was waiting.

    ``proof`` is a text by which the core recognises them.
    """
    app = call.principal.app or call.app
    user = call.principal.user
    if api.core.still_holds(app, user, proof):
        return
    if user:
        raise ApiProblem(Problems.TOKEN_INVALID)
    raise ApiProblem(Problems.UNAUTHORIZED)


@routes.post(
    "/mailbox/renew", schema=("RenewRequest", "A claim."), act="", problems=(HTTP_LATE,)
)
def renew(
    api: MailboxApi, call: Call, token: Token, seconds: Lease = USUAL_SECONDS
) -> Renewed:
    """Extend a claim that has not ended"""
    return Renewed(api.mailboxes.renew(call.app, call.user, token, seconds))


@routes.post(
    "/mailbox/ack", schema=("AckRequest", "A claim."), act="", problems=(HTTP_LATE,)
)
def ack(api: MailboxApi, call: Call, token: Token) -> Acknowledged:
    """Acknowledge the messages of a claim.

    The messages count as handled, and nobody gets them again. Their senders see
    that the bot has read them. If the lease has ended, the answer is
    `claim_ended`. Then another worker has the messages, or will get them.
    """
    return Acknowledged(not api.mailboxes.acknowledge(call.app, call.user, token))


@routes.post(
    "/mailbox/nack",
    schema=("NackRequest", "A claim, and the reason of the failure."),
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
            "The delay in seconds before the messages may be claimed again.",
            ge=0,
            le=MOST_SECONDS,
        ),
    ] = 0,
    reason: Annotated[
        str,
        about(
            "The reason of the failure. A dead letter shows it.",
            max_length=REASON_CHARACTERS,
            pattern=r"^[^\x00-\x1f\x7f]*$",
        ),
    ] = "",
) -> MailboxDone:
    """Give back the messages of a claim that could not be handled"""
    api.mailboxes.give_back(call.app, call.user, token, seconds, reason)
    return MailboxDone()


@routes.get("/mailbox/dead", base=ActingPage)
def dead(api: MailboxApi, call: Call, cursor: str, limit: int) -> DeadLetters:
    """List the dead letters of a bot"""
    after = id_of(read_cursor(cursor) or "0")
    # One more than fits on the page, to know whether another page follows.
    rows = api.mailboxes.rows.dead(call.app, call.user, after, limit + 1)
    page, next_cursor = page_and_cursor(rows, limit, lambda row: str(row.message))
    letters = [
        DeadLetter(
            message=row.message,
            conversation=row.conversation,
            tries=row.tries,
            reason=row.reason,
            died=row.due,
        )
        for row in page
    ]
    return DeadLetters(letters, next_cursor)


@routes.post(
    "/mailbox/retry",
    schema=("RetryRequest", "A dead letter."),
    problems=(HTTP_UNKNOWN_LETTER,),
)
def retry(api: MailboxApi, call: Call, message: LetterId) -> MailboxDone:
    """Put a dead letter back. Workers can claim it again, alone, independently
    of its conversation"""
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
