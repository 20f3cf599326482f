"""The commands of clients about threads."""

from __future__ import annotations

import msgspec
from msgspec import Struct, field
from msgspec.structs import replace

from imserver import errors
from imserver.http.wire import view
from imserver.messages.commands import AskThread, AskThreads, FollowThread, ReadThread
from imserver.messages.log.contract import Entry, RejectReason, newest_page
from imserver.messages.log.message_log import MessageLog
from imserver.messages.log.threads import Thread, ThreadState
from imserver.messages.messaging import RefusedView
from imserver.messages.model import EntryView
from imserver.messages.receipts import Signals, ToFollowers
from imserver.model import Reply, Signal
from imserver.storage.store import Store
from imserver.transport.connection import Connection, app_and_user
from imserver.transport.dispatch import CommandRow, CommandTable


class ThreadView(ThreadState, frozen=True, kw_only=True):
    """A thread as a user sees it: without ``message`` if they may not read that."""

    message: EntryView | msgspec.UnsetType = msgspec.UNSET

    @staticmethod
    def of(thread: Thread) -> ThreadView:
        """How clients see a thread."""
        message = msgspec.UNSET if thread.message is None else thread.message.view()
        return view(ThreadView, thread, message=message)


class ThreadPage(Struct, frozen=True):
    """A thread with a page of its replies, in the order of their ids. ``before``: of the page before it; 0:
    there is none."""

    thread: Thread
    entries: list[Entry]
    before: int


class ThreadPageView(Struct, rename="camel"):
    """The answer to :class:`imserver.messages.commands.AskThread`."""

    thread: ThreadView
    messages: list[EntryView]
    has_more: bool
    before: int


class ThreadList(Struct):
    """Threads, those with the newest replies first."""

    threads: list[ThreadView]
    has_more: bool = field(name="hasMore")


class ThreadCommands:
    """Carries out what users do with threads, and tells it to their other connections. Stateless."""

    def __init__(self, signals: Signals, store: Store) -> None:
        self._signals = signals
        self._log = store.part(MessageLog)

    def rows(self) -> CommandTable:
        """The commands that this service runs."""
        return {
            AskThread: CommandRow(self._ask),
            AskThreads: CommandRow(self._list),
            FollowThread: CommandRow(self._follow),
            ReadThread: CommandRow(self._read),
        }

    def page(self, app: str, user: str, root: int, before: int, limit: int) -> ThreadPage | None:
        """A thread with the last of its replies before an id (0: its end). None: the user cannot read it.
        Switches; raises StorageUnavailable."""
        thread = self._log.threads.get(app, user, root)
        replies = self._log.threads.replies(app, user, root, before, limit)
        if thread is None or replies is None:
            return None
        entries, cursor = replies
        entries, is_cut = newest_page(entries, False)
        cursor = entries[0].id if is_cut else cursor
        return ThreadPage(thread, entries, cursor)

    def list(self, app: str, user: str, before: int, limit: int) -> tuple[list[Thread], bool]:
        """The threads that a user follows whose last reply is before an id (0: all), those with the newest
        replies first; and whether there are more. Switches; raises StorageUnavailable."""
        return self._log.threads.of_user(app, user, before, limit)

    def follow(
        self, app: str, user: str, root: int, follows: bool, besides: Connection | None = None
    ) -> Thread | None:
        """Follow a thread, or mute it. The user's connections except ``besides`` hear of it. Switches; raises
        StorageUnavailable."""
        return self._notify(app, user, self._log.threads.follow(app, user, root, follows), besides)

    def read(
        self, app: str, user: str, root: int, id: int, besides: Connection | None = None
    ) -> Thread | None:
        """A user has read a thread up to a reply. The user's connections except ``besides`` hear of it.
        Switches; raises StorageUnavailable."""
        return self._notify(app, user, self._log.threads.read(app, user, root, id), besides)

    def _notify(
        self, app: str, user: str, thread: Thread | None, besides: Connection | None
    ) -> Thread | None:
        if thread is not None:
            data = msgspec.json.encode(ThreadView.of(replace(thread, message=None)))
            signal = Signal("threadMark", user, "", conversation=thread.conversation, data=data)
            self._signals.send(ToFollowers(app, (user,), 0, signal), besides)
        return thread

    def _ask(self, connection: Connection, command: AskThread) -> Reply:
        page = self.page(*app_and_user(connection), command.thread, command.before, command.limit)
        if page is None:
            return _UNKNOWN
        messages = [entry.view() for entry in page.entries]
        answer = ThreadPageView(ThreadView.of(page.thread), messages, page.before > 0, page.before)
        return Reply(errors.ReplyCode.OK, answer)

    def _list(self, connection: Connection, command: AskThreads) -> Reply:
        threads, more = self.list(*app_and_user(connection), command.before, command.limit)
        return Reply(errors.ReplyCode.OK, ThreadList([ThreadView.of(each) for each in threads], more))

    def _follow(self, connection: Connection, command: FollowThread) -> Reply:
        app, user = app_and_user(connection)
        return _answer(self.follow(app, user, command.thread, not command.remove, connection))

    def _read(self, connection: Connection, command: ReadThread) -> Reply:
        app, user = app_and_user(connection)
        return _answer(self.read(app, user, command.thread, command.id, connection))


def _answer(thread: Thread | None) -> Reply:
    return _UNKNOWN if thread is None else Reply(errors.ReplyCode.OK, ThreadView.of(thread))


_UNKNOWN = Reply(errors.ReplyCode.NO_DATA, RefusedView(RejectReason.UNKNOWN_MESSAGE))
