"""What became of a push, target by target, as it is answered."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from imserver.services.push.publish import Target

Status = Literal["absent", "sent", "repeated", "failed", "partly", "held", "stored", "refused"]
STATUSES: Final[tuple[Status, ...]] = ("absent", "sent", "repeated", "failed", "partly", "held", "stored")
"""Outcome → what results say of it; ``refused`` is said of what cannot be stored."""
Reason = Literal["unknown_conversation", "not_member", "muted", "blocked", "invalid"]


class StoredAt(Struct, gc=False):
    """Where a message is kept."""

    id: Annotated[int, Meta(description="Its place in the log of the app.")]
    conversation: Annotated[int, Meta(description="The conversation; of a group, that is the group.")]
    seq: Annotated[int, Meta(description="Its place in the conversation.")]


class Result(Struct, gc=False):
    """What became of one target."""

    target: Target
    status: Annotated[
        Status,
        Meta(
            description="`sent`: a connection has it, or the node that holds one. `absent`: nobody was "
            "there. `held`: nobody was there, it waits for a login. `repeated`: it was accepted before, "
            "through another node. `failed`: the node that is needed does not answer, or the database; try "
            "again. `partly`: a node does not answer, the others have it. `stored`: it is kept. "
            "`refused`: it cannot be kept."
        ),
    ]
    stored: Annotated[StoredAt | UnsetType, Meta(description="Where it is kept.")] = UNSET
    reason: Annotated[
        Reason | UnsetType,
        Meta(
            description="Why it was refused: there is no such group, the sender is not a member of it, or "
            "silenced there; the receiver has blocked the sender; or a name is too long, or sender and "
            "receiver are one."
        ),
    ] = UNSET


class PushAnswer(Struct, gc=False):
    """What became of a push: ``results`` stand in the order of the targets."""

    sent: Annotated[int, Meta(description="How many results are `sent`, `partly` or `stored`.")]
    results: list[Result]
