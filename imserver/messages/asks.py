"""Answers of users to questions: the command of clients, and what it checks before the log decides."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from imserver import errors
from imserver.core.services import IdentityServices
from imserver.errors import ReviewUnavailable, TooManyMessages
from imserver.messages.annotations import RefusedView
from imserver.messages.commands import AnswerAsk
from imserver.messages.log.asks import AskChange
from imserver.messages.log.contract import Draft, Rejected, RejectReason
from imserver.messages.log.message_log import MessageLog
from imserver.messages.messaging import Messaging, facts_of
from imserver.messages.model import Ask
from imserver.model import Reply
from imserver.storage.store import Store
from imserver.transport.connection import Connection, app_and_user
from imserver.transport.dispatch import CommandRow, CommandTable


class AnsweredView(Struct, omit_defaults=True):
    """The answer to an answer: the question as it is now. Without ``id``: the user had answered so before."""

    conversation: int
    ask: Ask
    id: int = 0
    seq: int = 0


_LATER: Final[dict[type[Exception], int]] = {
    TooManyMessages: errors.ReplyCode.NOT_STORED,
    ReviewUnavailable: errors.ReplyCode.NOT_STORED,
}


class AskCommands:
    """Carries out the command. Stateless."""

    def __init__(self, store: Store, messaging: Messaging, identity: IdentityServices) -> None:
        self._store = store
        self._log = store.part(MessageLog)
        self._messaging = messaging
        self._rates = identity.sender_rates
        self._reviews = identity.reviews

    def rows(self) -> CommandTable:
        """The commands that this service runs."""
        return {AnswerAsk: CommandRow(self.run, refusals=_LATER)}

    def run(self, connection: Connection, command: AnswerAsk) -> Reply:
        """Answer a question. Switches."""
        result = self.answer(*app_and_user(connection), command.id, command.value, command.text)
        if isinstance(result, Rejected):
            return Reply(result.reply_code, RefusedView.of(result), result.reason)
        view = AnsweredView(result.conversation, result.ask)
        if result.entry is not None:
            view.id, view.seq = result.entry.id, result.entry.seq
        return Reply(errors.ReplyCode.OK, view)

    def answer(
        self, app: str, user: str, message: int, value: str = "", text: str = "", by_user: bool = True
    ) -> AskChange | Rejected:
        """Answer a question as a user, with the value of an option or with free text, which the back end of
        the app reviews if it wants to. Not ``by_user``: a back end does, for the user.

        Switches. Raises StorageUnavailable, TooManyMessages and ReviewUnavailable.
        """
        if not self._store.has_database:  # a change would create it
            return Rejected(RejectReason.UNKNOWN_MESSAGE)
        if by_user:
            if (mute := self._messaging.mute_of(app, user)) is not None:
                return mute
            if not self._rates.take(app, user):
                raise TooManyMessages("the user has sent too many messages")
            if text and app in self._reviews.apps:
                decision = self._reviews.decide(app, facts_of(_draft_of(user, message, text)))
                if decision.action == "reject":
                    return Rejected(RejectReason.REJECTED, decision.reason)
                if decision.action == "undecided":
                    raise ReviewUnavailable("the back end has not reviewed it in time")
                if decision.action == "replace":
                    text = decision.body.decode("utf-8", "replace")
        return self._log.asks.answer(app, user, message, value=value, text=text)


def _draft_of(user: str, message: int, text: str) -> Draft:
    return Draft(sender=user, kind="press", type="text", body=text.encode(), about=message)
