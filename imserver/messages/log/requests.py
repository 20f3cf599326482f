"""What travels between the senders of messages, the log, and those who deliver: a draft with its result, and
what a transaction has stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from imserver.messages.log.contract import Draft, Entry, Rejected, StorageUnsure, Stored
from imserver.transport.connection import Connection

Done = Callable[[Stored], None]
"""Gets the result of a draft; called once, and must not switch."""


class DraftOwner(Protocol):
    """Who has sent drafts to the log, and passes on their results."""

    def stored(self, request: AppendRequest, result: Stored) -> None:
        """The result of a draft: after the commit, and before its entry is delivered. Results of an app come
        in the order of the ids. After a StorageUnsure comes the final one. Never switches."""


class AppendRequest(Struct, eq=False):
    """A draft on its way to the log, and back with its result.

    ``done`` gets the result; None: nobody waits for it any more. If there is an ``owner``, that hears the
    result, and passes it on. ``connection``: of the sender. ``to_account``: the receiver of a first message
    must be an account. StorageUnavailable: nothing was stored. StorageUnsure: the answer to COMMIT did not
    come in time; its ``on_known`` receives the final result.
    """

    app: str
    draft: Draft
    done: Done | None
    owner: DraftOwner | None = None
    connection: Connection | None = None
    to_account: bool = False
    resend: bytes | None = None
    """The digest of the ``client_msg_id``, None without one."""
    rejected: Rejected | None = None
    """The draft is invalid, and waits only to be answered in order."""
    size: int = 0
    """Size of the content in bytes."""
    outcome: Stored | None = None
    """Set in the transaction."""
    unsure: StorageUnsure | None = None
    """Set if the request was answered with it."""

    def answer(self, result: Stored) -> None:
        """Pass the result to whoever waits for it. Never switches."""
        if self.owner is not None:
            self.owner.stored(self, result)
        elif self.unsure is not None:
            if self.unsure.on_known is not None:
                self.unsure.on_known(result)
        elif self.done is not None:
            self.done(result)


class Commit(Struct, frozen=True, gc=False, tag="l", array_like=True):
    """What a transaction stored in the log of an app: all ids from ``first`` to ``last``, or those that
    concern this node. Nodes send it to each other as it is."""

    app: str
    first: int
    last: int
    entries: list[Entry]
