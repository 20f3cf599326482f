"""The rows of streams and producers, and the decision about an append in the
transaction that stores it."""

from __future__ import annotations

from time import time
from typing import Any, Final, Literal

from msgspec import Struct
from msgspec.structs import replace

from imserver.plugin.messages import Entry, MessageLog
from imserver.plugin.storage import (
    PooledStatements,
    Reason,
    RowsOf,
    Statements,
    Store,
    Table,
    text_of,
)

from .protocol import JSON, Offset, Producer, plain_type

LIVE = 0
DELETED = 1
GONE = 2
"""States of a row. Forks still read a DELETED stream. A GONE row only tells
that its channel was a stream. It stays as long as the log has something of the
channel."""
FOREVER: Final = 2**62
MOST_PRODUCERS: Final = 1000
"""The most producers that a stream remembers, each with the number of its last
append."""
_DROPPED_PRODUCERS: Final = 100
"""How many producers a stream forgets together if it has too many: the ones
with the oldest last append."""
PRODUCER_SECONDS: Final = 7 * 86_400
"""How long a producer is remembered after its last append."""
_USE_SECONDS: Final = 60
"""The time of a producer's last append is stored in steps of this length."""
_SECOND_MS: Final = 1000
_RENEWED_SHARE: Final = 10
"""A use of a stream is written if this share of its TTL has passed since the
last written use: a tenth."""
_CHECK_AGAIN_MS: Final = 86_400 * _SECOND_MS
"""The time after which the sweep checks a gone row again."""
MOST_FORKS: Final = 32
"""The most streams in a chain of forks."""


class StreamRow(Struct, frozen=True, kw_only=True):
    """A stream: how the entries of a channel are read.

    A *fork* is a stream that begins with the entries of another one, its
    parent.
    """

    app: str
    name: str
    state: int = LIVE
    content_type: str = JSON
    begins: int = 0
    """Its own entries come after this id."""
    start: int = 0
    skip: int = 0
    """``start`` and ``skip`` are the offset of its end while it has no entries;
    for a fork, how much of the parent it shares."""
    parent: str = ""
    """The name of the stream from which it was forked, or ``""``."""
    fork_offset: str = ""
    fork_sub: int = 0
    """``fork_offset`` and ``fork_sub`` are the offset of the fork in the
    client's words."""
    ttl: int = -1
    """How many seconds it lives after its last use; -1 for ever."""
    expires_at: str = ""
    """When it expires, in the client's words."""
    expires_ms: int = 0
    """When it expires, in Unix milliseconds; 0 for never."""
    closed_at: int = -1
    """The last id that may belong to it; -1 while it is open."""
    closed_by: str = ""
    """The append that closed it, see :func:`_closer_text`."""
    seq: str = ""
    """The last ``Stream-Seq``, a text that must grow with each append."""

    @property
    def is_closed(self) -> bool:
        """Whether the stream takes no more appends."""
        return self.closed_at >= 0

    @property
    def end(self) -> int:
        """The last id that an entry of the stream may have."""
        if self.is_closed:
            return self.closed_at
        return FOREVER

    @property
    def empty(self) -> Offset:
        """The offset of the end while the stream has no entries of its own."""
        return self.start, self.skip

    def is_expired(self, sql: Statements) -> bool:
        """Whether the stream has expired, by the clock of the database.

        Nobody has used it for its TTL, or its time ``expires_at`` has come.
        """
        return self.expires_ms > 0 and self.expires_ms <= sql.clock_ms()

    def renewed(self, sql: Statements) -> int:
        """Return the new ``expires_ms`` of a stream that is used now.

        0 if the row need not be written: the stream has no TTL, or a recent use
        was written. A stream may live a tenth longer than its TTL, so that its
        row is written at most once in this tenth.
        """
        if self.ttl < 0:
            return 0
        tenth_ms = self.ttl * _SECOND_MS // _RENEWED_SHARE
        until = sql.clock_ms() + (_RENEWED_SHARE + 1) * tenth_ms
        if until - self.expires_ms >= tenth_ms:
            return until
        return 0

    def is_same(self, wish: StreamRow) -> bool:
        """Whether a request to create a stream describes this stream.

        If it names no offset for a fork, any offset is right.
        """
        return (
            plain_type(self.content_type)
            == plain_type(wish.content_type or self.content_type)
            and (self.ttl, self.expires_at, self.is_closed)
            == (wish.ttl, wish.expires_at, wish.is_closed)
            and (self.parent, self.fork_sub) == (wish.parent, wish.fork_sub)
            and wish.fork_offset in ("", self.fork_offset)
        )


ROWS: Final = RowsOf(StreamRow, "durable_streams_stream")
_KEY: Final = "app = %s AND name = %s"


def _lock(sql: Statements, app: str, name: str) -> StreamRow | None:
    """Return the row of a stream, locked until the end of the transaction.

    None if there is no row.
    """
    return ROWS.first(sql.query, f"WHERE {_KEY}{sql.for_update}", app, name)


def _has_forks(sql: Statements, app: str, name: str) -> bool:
    """Whether streams exist that were forked from this one."""
    statement = "SELECT 1 FROM durable_streams_stream WHERE app = %s AND parent = %s AND state < %s LIMIT 1"
    return bool(sql.query(statement, (app, name, GONE)))


def _postpone_check(sql: Statements, row: StreamRow) -> None:
    """Let the sweep check later whether a gone row is still needed."""
    until = sql.clock_ms() + _CHECK_AGAIN_MS
    sql.execute(
        f"UPDATE durable_streams_stream SET expires_ms = %s WHERE {_KEY}",
        (until, row.app, row.name),
    )


def _mark_removed(sql: Statements, row: StreamRow) -> None:
    """Make a stream GONE, or DELETED while forks read it.

    Its parent becomes GONE, too, if it was deleted before and only this fork
    has read it.
    """
    while True:
        if _has_forks(sql, row.app, row.name):
            state = DELETED
        else:
            state = GONE
        sql.execute(
            f"UPDATE durable_streams_stream SET state = %s WHERE {_KEY}",
            (state, row.app, row.name),
        )
        if state == DELETED:
            return
        _postpone_check(sql, row)
        sql.execute(
            f"DELETE FROM durable_streams_producer WHERE {_KEY}", (row.app, row.name)
        )
        if not row.parent:
            return
        parent = _lock(sql, row.app, row.parent)
        if parent is None or not (parent.state == DELETED or parent.is_expired(sql)):
            return
        row = parent


def create(
    sql: Statements, wish: StreamRow, head: int
) -> tuple[Literal["new", "same", "other"], StreamRow]:
    """Store a new stream, unless one exists.

    Returns whether it is new, the same, or another one, and its row. ``wish``:
    the row that the request describes. ``head``: an id of the log after which
    its entries come. If its channel was not a stream before, the stream also
    has the earlier entries.
    """
    row = _lock_unexpired(sql, wish.app, wish.name)
    if row is not None and row.state != GONE:
        if row.state == LIVE and row.is_same(wish):
            return "same", row
        return "other", row
    if not _may_begin(sql, wish):
        return "other", wish

    was_stream = row is not None
    wish = _with_beginning(wish, head, has_earlier=was_stream or wish.parent != "")
    wish = replace(wish, expires_ms=wish.renewed(sql) or wish.expires_ms)
    ROWS.put(sql, wish, app=wish.app, name=wish.name)
    return "new", wish


def _may_begin(sql: Statements, wish: StreamRow) -> bool:
    """Whether a new stream may begin. A fork needs a live source.

    A negative start means that a stream existed when the request came. It has
    ended since, and nobody has computed where the fork would begin.
    """
    if wish.start < 0:
        return False
    return not wish.parent or _is_live(sql, wish.app, wish.parent)


def _lock_unexpired(sql: Statements, app: str, name: str) -> StreamRow | None:
    """Return the row of a stream, locked. An expired stream is removed
    before."""
    row = _lock(sql, app, name)
    if row is not None and row.state == LIVE and row.is_expired(sql):
        _mark_removed(sql, row)
        row = _lock(sql, app, name)
    return row


def _with_beginning(wish: StreamRow, head: int, has_earlier: bool) -> StreamRow:
    """Return a new stream whose entries come after the entry ``head`` of the
    log.

    ``has_earlier``: earlier entries of the channel do not belong to it.
    """
    if has_earlier:
        wish = replace(wish, begins=head)
        if wish.is_closed:
            wish = replace(wish, closed_at=head)
    # A fork begins with entries of its parent.
    if not wish.parent:
        wish = replace(wish, start=head)
    return wish


def _is_live(sql: Statements, app: str, name: str) -> bool:
    """Whether a stream exists. Its row is locked until the end of the
    transaction."""
    row = _lock(sql, app, name)
    return row is not None and row.state == LIVE


STORED: Final = 0
"""The status of a verdict on an append that is stored."""


class Verdict(Struct, frozen=True):
    """The decision about an append."""

    status: int = STORED
    """:data:`STORED`, or the status of the answer. 204 means that it repeats an
    append which is stored."""
    text: str = ""
    """The reason."""
    number: int = -1
    """The last number of the producer (204), its epoch (403), or the expected
    number (409); otherwise -1."""
    row: StreamRow | None = None
    """The stream, if it is known."""

    @property
    def is_accepted(self) -> bool:
        """Whether the append is stored, now or earlier."""
        return self.status in (STORED, 204)


class Append(Struct):
    """Decides about an append, in the transaction that stores it.

    The log calls :meth:`holds` before it stores the entry, and :meth:`stored`
    afterwards. It is a ``DraftSource`` of the log.
    """

    app: str
    name: str
    content_type: str = ""
    """``""`` if the append has none."""
    seq: str = ""
    producer: Producer | None = None
    ends: bool = False
    """Whether it closes the stream. Without ``content`` its entry comes after
    the end."""
    content: bool = True
    wish: StreamRow | None = None
    """The stream that the append creates, or None."""
    head: int = 0
    verdict: Verdict = Verdict()

    def holds(self, sql: Statements) -> bool:
        """Whether the append is to be stored. Writes facts for the decision
        about the next one."""
        self.verdict = self._decide(sql)
        return self.verdict.status == STORED

    def stored(self, sql: Statements, entry: Entry) -> None:
        """Note the end of a stream that this entry closes.

        ``entry``: the append as the log has stored it.
        """
        if not self.ends:
            return
        last = entry.id
        if not self.content:
            last -= 1  # the entry only marks the end, and is no part of the stream
        statement = f"UPDATE durable_streams_stream SET closed_at = %s WHERE {_KEY}"
        sql.execute_many(statement, [(last, self.app, self.name)])

    def _decide(self, sql: Statements) -> Verdict:
        """Decide about the append.

        If it is accepted, write the facts by which the next append is decided.
        """
        if self.wish is not None:
            row = self._create(sql, self.wish)
        else:
            row = self._find(sql)
        if isinstance(row, Verdict):
            return row
        objection = self._refusal_of(sql, row)
        if objection is not None:
            return objection

        self._write_facts(sql, row)
        return Verdict(row=row)

    def _create(self, sql: Statements, wish: StreamRow) -> StreamRow | Verdict:
        """Return the new stream that the append creates. If it exists, return a
        verdict."""
        outcome, row = create(sql, wish, self.head)
        if outcome == "new":
            return row
        if outcome == "same":
            return Verdict(200, "there is another stream", row=row)
        return Verdict(409, "there is another stream", row=row)

    def _find(self, sql: Statements) -> StreamRow | Verdict:
        """Return the stream of the append. If it does not exist, return a
        verdict."""
        row = _lock(sql, self.app, self.name)
        if row is None or row.state == GONE:
            return Verdict(404, "there is no such stream")
        if row.state == DELETED:
            return Verdict(410, "the stream is gone")
        if not row.is_expired(sql):
            return row
        # An expired stream counts as deleted while forks read it, and otherwise
        # as gone.
        if _has_forks(sql, self.app, self.name):
            return Verdict(410, "the stream is gone")
        return Verdict(404, "the stream is gone")

    def _write_facts(self, sql: Statements, row: StreamRow) -> None:
        """Write the facts by which the next append is decided.

        These are the last ``Stream-Seq``, the end of a closed stream, and when
        the stream expires.
        """
        changes: dict[str, int | str] = {}
        until = row.renewed(sql)
        if until:
            changes["expires_ms"] = until
        if self.seq:
            changes["seq"] = self.seq
        if self.ends:
            # The entry has no id yet. Append.stored() writes the real end.
            changes["closed_at"] = FOREVER
            changes["closed_by"] = _closer_text(self.producer)
        if not changes:
            return

        columns = ", ".join([f"{column} = %s" for column in changes])
        values = (*changes.values(), self.app, self.name)
        sql.execute_many(
            f"UPDATE durable_streams_stream SET {columns} WHERE {_KEY}", [values]
        )

    def _refusal_of(self, sql: Statements, row: StreamRow) -> Verdict | None:
        """Return the verdict on an append that is not stored. None if it is.

        The append is refused, or it repeats an earlier one.
        """
        if row.is_closed and self.wish is None:
            return self._verdict_after_end(row)
        if self.content_type and plain_type(self.content_type) != plain_type(
            row.content_type
        ):
            return Verdict(409, f"the stream has the content type {row.content_type}")
        # A repeated append gets the answer of the first one, although its
        # Stream-Seq is not new.
        old_seq = None
        if "" < self.seq <= row.seq:
            old_seq = Verdict(409, f"Stream-Seq: the last one was {row.seq}")
        if self.producer is None:
            return old_seq
        return self._check_producer(sql, self.producer, old_seq)

    def _verdict_after_end(self, row: StreamRow) -> Verdict:
        """Return the verdict on an append to a closed stream.

        It is accepted if it repeats the append that has closed the stream.
        """
        producer = self.producer
        if producer is not None and row.closed_by == _closer_text(producer):
            return Verdict(204, number=producer.seq, row=row)
        if producer is None and self.ends and not self.content:
            return Verdict(204, row=row)
        return Verdict(409, "the stream is closed", row=row)

    def _check_producer(
        self, sql: Statements, producer: Producer, old_seq: Verdict | None
    ) -> Verdict | None:
        """Check the number of a producer, and store it.

        Returns None if the append is to be stored. ``old_seq``: the verdict on
        an append whose ``Stream-Seq`` is not new. It is returned unless the
        append repeats an earlier one, and then the number is not stored.
        """
        key = self.app, self.name, producer.id
        where = f"WHERE {_KEY} AND producer = %s"
        rows = sql.query(
            f"SELECT epoch, seq FROM durable_streams_producer {where}{sql.for_update}",
            key,
        )
        if rows:
            epoch, seq = rows[0]
        else:
            epoch = producer.epoch
            seq = -1  # a new producer begins with 0

        verdict = _verdict_on_number(producer, epoch, seq) or old_seq
        if verdict is not None:
            return verdict
        if rows:
            statement = f"UPDATE durable_streams_producer SET epoch = %s, seq = %s, used = %s {where}"
            sql.execute_many(
                statement, [(producer.epoch, producer.seq, _use_time(), *key)]
            )
        else:
            self._add_producer(sql, producer)
        return None

    def _add_producer(self, sql: Statements, producer: Producer) -> None:
        """Store the number of a new producer. Old producers make room for
        it."""
        _drop_producers(sql, self.app, self.name)
        key = self.app, self.name, producer.id
        row = (*key, producer.epoch, producer.seq, _use_time())
        sql.insert_new(
            "durable_streams_producer",
            "app, name, producer, epoch, seq, used",
            [row],
        )


def _closer_text(producer: Producer | None) -> str:
    """Return the append that closed a stream, as text for its row.

    ``""`` if the append had no producer, so that a repeated one is not
    recognised.
    """
    if producer is None:
        return ""
    return f"{producer.id}\n{producer.epoch}\n{producer.seq}"


def _verdict_on_number(producer: Producer, epoch: int, seq: int) -> Verdict | None:
    """Return the verdict on an append by its number. None if it is the next
    one.

    ``epoch`` and ``seq``: the epoch of the producer, and its last number in it.
    """
    if producer.epoch < epoch:
        return Verdict(403, "the epoch of the producer has ended", number=epoch)
    if producer.epoch > epoch:
        if producer.seq:
            return Verdict(400, "an epoch begins with Producer-Seq 0")
        return None
    if producer.seq <= seq:
        return Verdict(204, number=seq)
    if producer.seq != seq + 1:
        return Verdict(409, "an append of the producer is missing", number=seq + 1)
    return None


def _use_time() -> int:
    """Return the present time in Unix seconds, in steps of a minute.

    The clock of this node is exact enough, because producers are remembered for
    days.
    """
    return int(time()) // _USE_SECONDS * _USE_SECONDS


def _drop_producers(sql: Statements, app: str, name: str) -> None:
    """Make room for another producer of a stream.

    If there are too many, the ones with the oldest last append are deleted.
    """
    ((count,),) = sql.query(
        f"SELECT COUNT(*) FROM durable_streams_producer WHERE {_KEY}", (app, name)
    )
    if count < MOST_PRODUCERS:
        return
    oldest = f"WHERE {_KEY} ORDER BY used, producer LIMIT %s"
    rows = sql.query(
        f"SELECT producer FROM durable_streams_producer {oldest}",
        (app, name, _DROPPED_PRODUCERS),
    )
    statement = f"DELETE FROM durable_streams_producer WHERE {_KEY} AND producer = %s"
    sql.execute_many(statement, [(app, name, producer) for (producer,) in rows])


class StreamRows(Store.Rows):
    """The rows in a store.

    Methods may switch greenlets, and raise StorageUnavailable.
    """

    @property
    def log(self) -> Any:
        """The reader of the log's entries."""
        return self._store.part(MessageLog).entries

    def get(self, app: str, name: str) -> StreamRow | None:
        """The row of a stream, in any state."""
        return ROWS.first(self._rows, f"WHERE {_KEY}", app, name)

    def _rows(
        self, statement: str, values: tuple[object, ...]
    ) -> list[tuple[object, ...]]:
        """Query the database. Without a database, the result is empty."""
        if self._store.has_database:
            return self._store.rows(statement, values)
        return []

    def state(self, row: StreamRow) -> int:
        """Return the state of a stream.

        An expired one is deleted while forks read it; otherwise it is gone.
        """
        if row.state == LIVE and row.expires_ms:
            return self._state(row)
        return row.state

    @Store.reading
    def _state(self, sql: PooledStatements, row: StreamRow) -> int:
        """Return the state of a stream, which may have expired."""
        if not row.is_expired(sql):
            return row.state
        if _has_forks(sql, row.app, row.name):
            return DELETED
        return GONE

    @Store.writing
    def create(
        self, sql: PooledStatements, wish: StreamRow, head: int
    ) -> tuple[Literal["new", "same", "other"], StreamRow]:
        """Store a new stream in a transaction of its own, as :func:`create`
        does."""
        return create(sql, wish, head)

    @Store.writing
    def remove(self, sql: PooledStatements, app: str, name: str) -> None:
        """Delete a stream. Its entries stay in the log."""
        row = _lock(sql, app, name)
        if row is not None and row.state == LIVE:
            _mark_removed(sql, row)

    def sweep(self) -> None:
        """Remove expired streams, and rows that nobody needs.

        Makes expired streams gone, and deletes the rows of their producers.
        Deletes gone rows if the log has nothing of their channels. Forgets
        producers that no longer append.
        """
        self._forget_producers()
        while True:
            rows = self._expired_rows()
            if not rows:
                return
            for app, name in rows:
                page = self.log.channel_page(app, name, None, 0)
                is_stored = page.last > page.extent.floor
                self._end_expired(app, name, is_stored)

    @Store.writing
    def _forget_producers(self, sql: PooledStatements) -> None:
        """Delete the producers that have not appended for
        :data:`PRODUCER_SECONDS`."""
        now = _use_time()
        # Rows of the version before have no time. They count as used now.
        sql.execute(
            "UPDATE durable_streams_producer SET used = %s WHERE used = 0", (now,)
        )
        sql.execute(
            "DELETE FROM durable_streams_producer WHERE used < %s",
            (now - PRODUCER_SECONDS,),
        )

    @Store.reading
    def _expired_rows(self, sql: PooledStatements) -> list[tuple[str, str]]:
        """List up to 100 streams (app, name) that have expired.

        Gone rows are listed if it must be checked whether they are still
        needed.
        """
        where = "state IN (%s, %s) AND expires_ms > 0 AND expires_ms <= %s LIMIT 100"
        statement = f"SELECT app, name FROM durable_streams_stream WHERE {where}"
        return [
            (text_of(app), text_of(name))
            for app, name in sql.query(statement, (LIVE, GONE, sql.clock_ms()))
        ]

    @Store.writing
    def _end_expired(
        self, sql: PooledStatements, app: str, name: str, is_stored: bool
    ) -> None:
        """Remove an expired stream, or its gone row.

        The gone row stays while the log has entries of its channel
        (``is_stored``).
        """
        row = _lock(sql, app, name)
        if row is None or not row.is_expired(sql):
            return
        if row.state == LIVE:
            _mark_removed(sql, row)
        elif row.state == GONE and is_stored:
            _postpone_check(sql, row)
        elif row.state == GONE:
            sql.execute(f"DELETE FROM durable_streams_stream WHERE {_KEY}", (app, name))

    def renew(self, row: StreamRow) -> None:
        """Note that a reader has used a stream."""
        if row.ttl >= 0:
            self._renew(row)

    @Store.writing
    def _renew(self, sql: PooledStatements, row: StreamRow) -> None:
        """Write when a stream expires after its use now."""
        until = row.renewed(sql)
        if until:
            statement = f"UPDATE durable_streams_stream SET expires_ms = %s WHERE {_KEY} AND state = %s"
            sql.execute(statement, (until, row.app, row.name, LIVE))


_OF_APP: Final = Reason("streams and their producers are of the app, and name no user")
TABLES: Final = (
    Table(
        name="durable_streams_stream",
        types="""app name500*, name name255* out, state small out, content_type string255 out,
            begins big out, start big out, skip big out, parent name255 out, fork_offset string40 out,
            fork_sub big out, ttl big out, expires_at string64 out, expires_ms big out, closed_at big out,
            closed_by text out, seq name500 out""",
        of_user=_OF_APP,
        ranges=(
            ("state", LIVE, GONE),
            ("ttl", -1, FOREVER),
            ("closed_at", -1, FOREVER),
        ),
    ),
    Table(
        name="durable_streams_producer",
        types="""app name500*, name name255* out, producer name500* out, epoch big out, seq big out,
            used big""",
        of_user=_OF_APP,
    ),
    """
    table durable_streams_stream: app name500*, name name255*, state small, content_type string255,
        begins big, start big, skip big, parent name255, fork_offset string40, fork_sub big, ttl big,
        expires_at string64, expires_ms big, closed_at big, closed_by text, seq name500
      index durable_streams_by_parent: app parent
    ordered durable_streams_producer: app name500*, name name255*, producer name500*, epoch big, seq big
    """,
    """
    # When it has appended last, in Unix seconds; 0: not known.
    columns durable_streams_producer: used big=0
      index durable_streams_producer_by_used: used
    """,
)
