"""The inboxes of users: the commands of clients, and the functions that they
share with the HTTP API."""

from collections.abc import Callable

import msgspec
from msgspec import Struct

from imserver.messenger.inbox.declared import (
    CHANGE_SECONDS,
    CHANGES,
    INBOX_CHANGES,
    InboxSettings,
)
from imserver.messenger.inbox.rows import (
    Arrangement,
    ArrangementPage,
    ArrangementRefused,
    ArrangementRows,
    FolderList,
)
from imserver.messenger.inbox.wire import Arrange, AskArrangements, Folder, SetFolders
from imserver.plugin import Parts
from imserver.plugin.errors import Problems, ReplyCode
from imserver.plugin.identity import Buckets
from imserver.plugin.messages import (
    MessageLog,
    MessageServices,
    RefusedView,
    ToFollowers,
)
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of
from imserver.plugin.storage import Store
from imserver.plugin.wire import (
    CommandRow,
    CommandTable,
    Connection,
    Reply,
    Signal,
    app_and_user,
)


class Inbox(Struct, frozen=True):
    """Stores arrangements, and sends them to other sessions of the user.

    An *arrangement* says how a user has arranged a conversation: pinned,
    archived, in folders, with a draft. ``send`` delivers a signal to all
    sessions except one. ``changes`` limits the rate of changes of a user.
    """

    store: Store
    stored: ArrangementRows
    send: Callable[[ToFollowers, Connection | None], object]
    limits: InboxSettings
    changes: Buckets

    def commands(self) -> CommandTable:
        """Return the commands of clients that this object answers."""
        return {
            Arrange: CommandRow(self._arrange),
            AskArrangements: CommandRow(self._arrangements),
            SetFolders: CommandRow(self._set_folders),
        }

    def arrange(
        self,
        app: str,
        user: str,
        change: Arrange,
        *,
        by_user: bool = True,
        besides: Connection | None = None,
    ) -> Arrangement:
        """Change a user's arrangement of a conversation, and return it.

        The user's sessions on all nodes, except ``besides``, get a signal.
        ``by_user`` is True if the user makes the change, and False if a back
        end does. Only changes by the user count against the user's limit.

        Switches greenlets. Raises ArrangementRefused (the user was never in the
        conversation, or has too many pins or drafts), TooManyRequests and
        StorageUnavailable.
        """
        if by_user:
            self.changes.require((app, user))
        conversation = change.conversation
        if not self._has_conversation(app, user, conversation):
            raise ArrangementRefused(problem=Problems.UNKNOWN_CONVERSATION)

        after, has_changed = self.stored.change(app, user, change, self.limits)
        if has_changed:
            self._send(app, user, "arrangement", after, besides, conversation)
        return after

    def _has_conversation(self, app: str, user: str, conversation: int) -> bool:
        """Tell whether a user was ever in a conversation. Switches greenlets.

        A former member still has the conversation in the list.
        """
        if not self.store.has_database:
            # There is no conversation, and a change would create the database.
            return False
        conversations = self.store.part(MessageLog).conversations
        member = conversations.member(app, conversation, user, or_left=True)
        return member is not None

    def set_folders(
        self,
        app: str,
        user: str,
        folders: tuple[Folder, ...],
        *,
        by_user: bool = True,
        besides: Connection | None = None,
    ) -> FolderList:
        """Replace the folders of a user by this ordered list, and return it.

        Ids of removed folders stay in arrangements, but have no meaning. If
        ``by_user``, the change counts against the user's limit. The session
        ``besides`` gets no signal. Switches greenlets; raises TooManyRequests
        and StorageUnavailable.
        """
        if by_user:
            self.changes.require((app, user))
        after, has_changed = self.stored.set_folders(app, user, folders)
        if has_changed:
            self._send(app, user, "folders", after, besides)
        return after

    def since(self, app: str, user: str, version: int, limit: int) -> ArrangementPage:
        """Return a page of the changes after a version. Switches greenlets.

        Raises StorageUnavailable.
        """
        return self.stored.since(app, user, version, limit)

    def _send(
        self,
        app: str,
        user: str,
        kind: str,
        after: Arrangement | FolderList,
        besides: Connection | None,
        conversation: int = 0,
    ) -> None:
        """Send a signal with the new state to the user's sessions, except
        ``besides``.

        ``kind`` is the kind of the signal. If ``conversation`` is 0, the change
        is not about a conversation.
        """
        signal = Signal(
            kind,
            sender=user,
            text="",
            conversation=conversation,
            data=msgspec.json.encode(after),
        )
        self.send(ToFollowers(app, (user,), group=0, signal=signal), besides)

    def _arrange(self, connection: Connection, command: Arrange) -> Reply:
        """Answer the command of a client that changes an arrangement."""
        app, user = app_and_user(connection)
        try:
            after = self.arrange(app, user, command, besides=connection)
        except ArrangementRefused as refused:
            return Reply(refused.reply_code, RefusedView(refused.problem.code))
        return Reply(ReplyCode.OK, after)

    def _arrangements(self, connection: Connection, command: AskArrangements) -> Reply:
        """Answer the command of a client that asks for changes."""
        app, user = app_and_user(connection)
        page = self.since(app, user, command.version, command.limit)
        return Reply(ReplyCode.OK, page)

    def _set_folders(self, connection: Connection, command: SetFolders) -> Reply:
        """Answer the command of a client that replaces its folders."""
        app, user = app_and_user(connection)
        folders = self.set_folders(app, user, command.folders, besides=connection)
        return Reply(ReplyCode.OK, folders)


def build(core: Core) -> Parts:
    """Build the inboxes of a node."""
    inbox = Inbox(
        store=core.store,
        stored=ArrangementRows(core.store),
        send=core.service(MessageServices).signals.send,
        limits=settings_of(core.config, InboxSettings),
        changes=core.buckets.make(INBOX_CHANGES, CHANGES, CHANGE_SECONDS),
    )
    return Parts((inbox,), inbox.commands())
