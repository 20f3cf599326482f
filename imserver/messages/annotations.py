"""The commands of clients about reactions, pinned messages and questions."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from imserver import errors
from imserver.core.services import IdentityServices
from imserver.errors import ReviewUnavailable, TooManyMessages
from imserver.messages.commands import AnswerAsk, AskPins, Pin, React
from imserver.messages.log.asks import AskChange
from imserver.messages.log.contract import Change, Draft, Rejected, RejectReason
from imserver.messages.log.message_log import MessageLog
from imserver.messages.messaging import Messaging, RefusedView, facts_of
from imserver.messages.model import Ask, EntryView
from imserver.model import Reply
from imserver.storage.store import Store
from imserver.transport.connection import Connection, app_and_user
from imserver.transport.dispatch import CommandRow, CommandTable


class AnnotatedView(Struct, omit_defaults=True):
    """The answer to a reaction or a pin: its entry. Without ``id``: nothing had to change."""

    conversation: int
    id: int = 0
    seq: int = 0


class PinsView(Struct, omit_defaults=True):
    """Pinned messages, the one that was pinned last first. ``before``: of the next page; 0: there is none."""

    messages: list[EntryView]
    before: int = 0


class AnnotationCommands:
    """Carries out the commands. The answer may come before or after the entry, which all connections of the
    user receive. Stateless."""

    def __init__(self, store: Store, messaging: Messaging) -> None:
        self._store = store
        self._messaging = messaging
        self._log = store.part(MessageLog)

    def rows(self) -> CommandTable:
        """The commands that this service runs."""
        return {React: CommandRow(self.react), Pin: CommandRow(self.pin), AskPins: CommandRow(self.pins)}

    def react(self, connection: Connection, command: React) -> Reply:
        """React to a message, or remove the reaction. Switches."""
        app, user = app_and_user(connection)
        return self._change(
            None if command.remove else self._messaging.mute_of(app, user),
            lambda log: log.annotations.react(app, user, command.id, command.emoji, remove=command.remove),
        )

    def pin(self, connection: Connection, command: Pin) -> Reply:
        """Pin a message, or remove its pin. Switches."""
        app, user = app_and_user(connection)
        return self._change(
            self._messaging.mute_of(app, user),
            lambda log: log.annotations.pin(app, user, command.id, remove=command.remove),
        )

    def pins(self, connection: Connection, command: AskPins) -> Reply:
        """The pinned messages of a conversation. Switches."""
        app, user = app_and_user(connection)
        entries, before = self._log.entries.pins(app, user, command.conversation, command.before)
        return Reply(errors.ReplyCode.OK, PinsView([entry.view() for entry in entries], before))

    def _change(self, mute: Rejected | None, change: Callable[[MessageLog], Change | Rejected]) -> Reply:
        # A change would create the database.
        may_know = self._store.has_database
        result = mute or (change(self._log) if may_know else Rejected(RejectReason.UNKNOWN_MESSAGE))
        if isinstance(result, Rejected):
            return Reply(result.reply_code, RefusedView.of(result), result.reason)
        entry = result.entry
        position = (entry.id, entry.seq) if entry else ()
        return Reply(errors.ReplyCode.OK, AnnotatedView(result.conversation, *position))


class AnsweredView(Struct, omit_defaults=True):
    """The answer to an answer: the question as it is now. Without ``id``: the user had answered so before."""

    conversation: int
    ask: Ask
    id: int = 0
    seq: int = 0


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
        return {AnswerAsk: CommandRow(self.run)}

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
                draft = Draft(sender=user, kind="press", type="text", body=text.encode(), about=message)
                decision = self._reviews.decide(app, facts_of(draft))
                if decision.action == "reject":
                    return Rejected(RejectReason.REJECTED, decision.reason)
                if decision.action == "undecided":
                    raise ReviewUnavailable("the back end has not reviewed it in time")
                if decision.action == "replace":
                    text = decision.body.decode("utf-8", "replace")
        return self._log.asks.answer(app, user, message, value=value, text=text)
