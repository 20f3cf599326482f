"""Follows a running server: stores its events in an app, and posts messages of
the app there.

A round writes the new events as an archive, imports it, and posts the new
messages of the app. Then it saves the position. After a crash, the next process
repeats the last round. Messages of the other server have keys, so they are
stored once. Messages of the app are posted once if the adapter finds them
there.
"""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import Final
from urllib.parse import urlsplit

import click
from msgspec.structs import replace

from imserver.people.accounts import AccountStore
from imserver.plugin.commands import opened, record_act
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.messages import Entry, MessageLog
from imserver.plugin.runtime import retry_pause
from imserver.plugin.storage import Store
from imserver.plugin.wire import id_of

from .departure import content_of
from .destination import Destination, tenant_of
from .formats import archive_of
from .live import Live, LiveError, checked_address
from .live_matrix import LiveMatrix
from .live_mattermost import LiveMattermost
from .live_slack import LiveSlack
from .position import Position, PositionFile
from .problems import Problems
from .report import print_counts
from .spool import Spool
from .survey import survey
from .text import SECOND_MS
from .uploads import FileIndex
from .wish import Wish

LIVE: Final[dict[str, type[Live]]] = {
    adapter.name: adapter for adapter in (LiveMattermost, LiveSlack, LiveMatrix)
}
SECONDS: Final = 1.0
"""How long a round waits for events of the other server. Messages of the app
may wait as long."""
_REPORT_SECONDS: Final = 60.0
_LONGEST_PAUSE: Final = 60.0
_PAGE: Final = 200
_REFUSED: Final = (400, 403, 404, 410, 413, 422)
"""Statuses of HTTP that tell that a message can never be posted there."""


def live_of(name: str, address: str, token: str, back: Sequence[str]) -> Live:
    """Return the adapter that follows a server of a format, such as ``slack``.

    Each element of ``back`` is an address to which messages of our app are
    posted: ``ADDRESS``, or ``GROUP=ADDRESS`` for one group. Raises LiveError.
    """
    if name not in LIVE:
        raise LiveError(
            f"servers of the format {name} cannot be followed", is_final=True
        )
    # A token of Slack has two lines.
    is_printable = all(
        line.isascii() and line.isprintable() for line in token.split("\n")
    )
    if not token or not is_printable:
        raise LiveError("the token is empty, or is not printable ASCII", is_final=True)

    targets = {}
    for text in back:
        group, _, target = text.partition("=")
        # No group is named; the "=" belongs to the address.
        if "://" in group:
            group = ""
            target = text
        targets[group] = checked_address(target)
    return LIVE[name](checked_address(address), token, targets)


def follow_server(live: Live, address: str, has_back: bool, wish: Wish) -> None:
    """Follow a server until SIGTERM or Ctrl-C.

    ``has_back``: messages of our app are posted there. Raises LiveError if the
    server refuses for good, and OSError.
    """
    with opened(wish.path, wish.data_dir) as (config, store, tenants):
        tenant = tenant_of(tenants, wish.app)
        problems = Problems()
        file = PositionFile(config.server.data_dir, live.name, tenant.name)
        destination = Destination(config, store, tenant, live.name, problems)
        with closing(destination) as target, file.locked() as stored:
            _require_address(address, stored, file)
            position = _first_position(store, tenant.name, file, stored, has_back)
            beginning = _beginning_in_words(stored.cursor)
            click.echo(f"following {address}, {beginning}; Ctrl-C ends it")
            record = partial(
                record_act, config, store, f"{live.name}.follow", tenant.name
            )
            record(state="begin", server=urlsplit(address).hostname, back=has_back)
            position = replace(position, address=address)
            follower = Follower(live, target, store, file, position, problems)
            _run_and_record(follower, target, record)
    print_counts(problems, "not imported, or different:")


def _require_address(address: str, stored: Position, file: PositionFile) -> None:
    """Raise LiveError if the stored position is that of another server."""
    if stored.address not in ("", address):
        raise LiveError(
            f"this app follows {stored.address}: remove {file.path} to begin again",
            is_final=True,
        )


class Follower:
    """Runs the rounds in which messages come from a server and go to it.

    ``position`` is where the first round begins, and ``file`` keeps the
    position. ``posted`` counts the messages of our app that were posted there.
    """

    def __init__(
        self,
        live: Live,
        target: Destination,
        store: Store,
        file: PositionFile,
        position: Position,
        problems: Problems,
    ) -> None:
        """Prepare the rounds. ``target``: the app into which messages are
        imported."""
        self._live = live
        self._target = target
        self._file = file
        self._problems = problems
        self._entries = store.part(MessageLog).entries
        self._accounts = AccountStore(store)
        self._position = position
        self.posted = 0
        self._is_finishing = False
        """Whether a block runs that the first signal does not interrupt."""
        self._is_ending = False
        """Whether a signal has come."""

    def run(self) -> None:
        """Run rounds until a signal comes.

        If the server or the database does not answer, try again after a pause.
        Raises LiveError if the server refuses for good, and OSError.
        """
        failures = 0
        with self._signals(), suppress(KeyboardInterrupt):
            self._begin_count()
            while not self._is_ending:
                try:
                    self._run_round()
                except (LiveError, StorageUnavailable) as error:
                    if isinstance(error, LiveError) and error.is_final:
                        raise
                    failures += 1
                    # People need to read it only once.
                    if failures == 1:
                        click.echo(f"waiting: {error}")
                    sleep(retry_pause(failures, 1.0, _LONGEST_PAUSE))
                    continue
                if failures:
                    click.echo("continuing")
                failures = 0
                self._print_count()

    def _begin_count(self) -> None:
        """Begin to count the messages for the next line of the progress."""
        self._counted_at = monotonic()
        self._received_before = self._target.added["message"]
        self._sent_before = self.posted

    def _print_count(self) -> None:
        """Print how many messages came and went, once a minute if any did."""
        received = self._target.added["message"] - self._received_before
        sent = self.posted - self._sent_before
        is_due = monotonic() - self._counted_at >= _REPORT_SECONDS
        if (received or sent) and is_due:
            click.echo(f"{received:,} messages received, {sent:,} sent")
            self._begin_count()

    def _run_round(self) -> None:
        """Import the server's new events, post our new messages, store the
        position.

        Raises LiveError, StorageUnavailable and OSError.
        """
        position = self._receive(self._position)
        try:
            for ours in self._post(position):
                position = replace(position, ours=ours)
        finally:
            # The messages that came are stored even if a post fails: they need
            # not come again.
            if position != self._position:
                with self._finishing():
                    self._file.write(position)
                self._position = position

    def _receive(self, position: Position) -> Position:
        """Import the server's events after a position, and return the next
        one."""
        groups: dict[int, str] = {}
        with TemporaryDirectory(prefix="imserver-") as name:
            folder = Path(name)
            cursor = self._live.write(folder, position.cursor, SECONDS)
            if any(folder.iterdir()):
                groups = self._import_events(folder)
        return replace(position, cursor=cursor, groups=position.groups | groups)

    def _import_events(self, folder: Path) -> dict[int, str]:
        """Import the archive in a folder.

        Returns its groups: conversation here → id of the group there.
        """
        archive = archive_of(folder, self._live.name)
        index = FileIndex(archive, None)
        with closing(Spool()) as spool, self._finishing():
            contents = survey(
                archive, index.__contains__, spool, done=lambda _count: None
            )
            importer = self._target.add(archive, contents, spool, index)
        for kind, count in archive.problems.counts.items():
            self._problems.note(kind, count=count)
        return importer.groups()

    # --- ours, to theirs ------------------------------------------------------

    def _post(self, position: Position) -> Iterator[int]:
        """Post the new messages of our app to the server.

        Yields the id of each entry up to which the log is done, so that the
        caller can store it. Nothing is posted if no messages go back (``ours``
        is -1).
        """
        after = position.ours
        while after >= 0:
            page = self._entries.read(self._target.app, after, _PAGE)
            if not page:
                return
            after = page[-1].id
            entries = self._ours_in(page, position)
            nicknames = self._nicknames_of(entries)
            for entry in entries:
                nickname = nicknames.get(entry.sender) or entry.sender or "server"
                if self._is_ending:
                    return
                self._post_one(entry, position.groups[entry.conversation], nickname)
                yield entry.id
            # The page may end with entries that were not posted.
            yield after

    def _ours_in(self, page: Sequence[Entry], position: Position) -> list[Entry]:
        """Return the messages of our app in groups that came from the server."""
        return [
            entry
            for entry in page
            if entry.conversation in position.groups and self._is_ours(entry)
        ]

    def _nicknames_of(self, entries: list[Entry]) -> dict[str, str]:
        """Return the nicknames of the senders of entries, by their users."""
        ids = {id_of(entry.sender) for entry in entries}
        accounts = self._accounts.by_ids(self._target.app, list(ids))
        return {account.user: account.nickname for account in accounts}

    def _post_one(self, entry: Entry, group: str, nickname: str) -> None:
        """Post a message to a group of the server.

        A message that the server will never take is noted and left out. Raises
        LiveError for other errors.
        """
        try:
            with self._finishing():
                self.posted += self._live.post(
                    group, nickname, self._text(entry), entry.id
                )
        except LiveError as error:
            if error.status not in _REFUSED:
                raise
            self._problems.note("message of this server that the other server refuses")
            click.echo(f"message {entry.id} cannot be sent: {error}")

    def _is_ours(self, entry: Entry) -> bool:
        """Whether an entry is a message that was written here, and not
        imported.

        An imported message has its key, such as ``slack.C1.1700000000.0001``,
        as the id of the client.
        """
        return entry.kind == "message" and not entry.client_msg_id.startswith(
            f"{self._live.name}."
        )

    def _text(self, entry: Entry) -> str:
        """Return the text of a message, with a line for each of its files.

        Files are not posted. Their line is the name, and the address at which
        people find the message here.
        """
        text, files, _ = content_of(entry)
        page = self._target.page
        address = ""
        if page:
            address = f" {page}#c/{entry.conversation}/{entry.id}"
        names = [f"{file.name}{address}" for file in files]
        return "\n".join(filter(None, (text, *names)))

    # --- signals --------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and Ctrl-C end a wait, until the end of ``with``."""
        before = {
            number: signal.signal(number, self._handle_signal)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _finishing(self) -> Iterator[None]:
        """Let the first signal wait until the end of ``with``."""
        self._is_finishing = True
        try:
            yield
        finally:
            self._is_finishing = False

    def _handle_signal(self, *_: object) -> None:
        """End the process at once, or after the block that must be finished.

        A second signal does not wait for the block.
        """
        is_first = not self._is_ending
        self._is_ending = True
        if not (is_first and self._is_finishing):
            raise KeyboardInterrupt


def _run_and_record(
    follower: "Follower", target: Destination, record: Callable[..., None]
) -> None:
    """Run a follower, and then print and record how many messages it has moved.

    ``record`` records an act of the operator.
    """
    try:
        follower.run()
    finally:
        received = target.added["message"]
        sent = follower.posted
        click.echo(f"ended: {received:,} messages received, {sent:,} sent")
        record(state="end", messages=received, posted=sent)


def _first_position(
    store: Store, app: str, file: PositionFile, stored: Position, has_back: bool
) -> Position:
    """Return the position with which following begins.

    ``stored``: the position in the file. ``has_back``: messages of our app are
    posted there. If this is new, the file is written. Then messages from now on
    are posted there, even if this process is killed in its first round.
    """
    ours = -1
    if has_back:
        ours = stored.ours
        if ours < 0:
            ours = store.part(MessageLog).entries.head(app)
    position = replace(stored, ours=ours)
    if ours != stored.ours:
        # The address is stored when that server has answered.
        file.write(position)
    return position


def _beginning_in_words(cursor: str) -> str:
    """Return for people from when on events come, such as ``from now on``.

    For the forms of a cursor see :class:`~imserver_arrivals.live.Live`.
    """
    if not cursor:
        return "from now on"
    if not cursor.startswith("@"):
        return "from where it was"
    begin = datetime.fromtimestamp(int(cursor[1:]) / SECOND_MS, UTC)
    return f"from {begin:%Y-%m-%d %H:%M} UTC on"
