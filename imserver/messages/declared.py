"""What the feature declares: settings and tables."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Final

from msgspec import Struct

from imserver.auth.rates import Rate
from imserver.config.declared import about
from imserver.config.settings import Amount, AppCount, Count, Duration, Seconds
from imserver.model import Limit
from imserver.plugin.feature import FeatureSettings
from imserver.storage.numbers import GivenNumbers, raised
from imserver.storage.statements import Statements
from imserver.storage.tables import OF_LOGS, Reason, Table

PIECES: Final = Rate(
    "pieces", "pieces of streamed messages", "app", "limits.pieces_per_second", "1008, over HTTP 429"
)
SEARCH_MILLISECONDS: Final = 15_000
"""The time that the searches of one user may take in a minute."""
SEARCH_TIME: Final = Rate(
    "search_time",
    "milliseconds of searches of messages",
    "user",
    f"{SEARCH_MILLISECONDS} a minute",
    "1008, over HTTP 429",
)


class StreamLimits(Struct, frozen=True):
    """Keys of section ``limits``: streamed messages of an app on one node."""

    pieces_per_second: Seconds = 0.0
    open_streams: Count = 10000
    stream_bytes: Amount = 131072
    stream_seconds: Duration = 60.0


class RetentionSettings(Struct, frozen=True):
    """Keys of section ``storage``: for how many seconds, and how many of the newest messages of each app are
    stored; 0: for ever, all."""

    retention_seconds: Seconds = 0.0
    retention_messages: Count = 0


class AppRetention(Struct, frozen=True):
    """The same of one app."""

    retention_seconds: Annotated[
        Seconds, about("The longest age of stored messages in seconds; 0: the server's setting.")
    ] = 0.0
    retention_messages: Annotated[
        AppCount, about("The maximum number of stored messages; 0: the server's setting.")
    ] = 0


SETTINGS: Final = FeatureSettings(
    {"limits": StreamLimits, "storage": RetentionSettings}, AppRetention, core_keys=("store_conversations",)
)


_BY_MARKS: Final = Reason("the log erases it with the marks of the user")
_BY_LOG: Final = Reason("the log takes the user out: entries stay without content, under another name")
_BY_POSITIONS: Final = Reason("the node forgets the positions, also those in memory")
_OF_MEMBERS: Final = Reason("it belongs to all members of a conversation")
_NUMBERS: Final = Reason("numbers that say nothing of a user")

_HEAD: Final = Reason("it stays with the last ids, none of which is given again if the app is created anew")

_OF_MESSAGES: Final = Reason("the log takes out the words of what it erases")

_of_log: Final = partial(Table, of_app=OF_LOGS)

TABLES: Final = (
    _of_log(
        name="word",
        key=("log", "segment", "bucket"),
        of_user=_OF_MEMBERS,
        erase_user=_OF_MESSAGES,
        columns=Reason("it is made of the messages"),
    ),
    _of_log(name="word_position", key=("log",), of_user=_NUMBERS, erase_user=_OF_MESSAGES, columns=_NUMBERS),
    _of_log(
        name="word_change",
        key=("log", "id", "entry"),
        of_user=_NUMBERS,
        erase_user=_OF_MESSAGES,
        columns=_NUMBERS,
    ),
    _of_log(
        name="hidden",
        key=("log", "member", "id"),
        of_user="member = %s",
        erase_user=_BY_MARKS,
        columns=("member", "id", "version"),
    ),
    _of_log(
        name="read_position",
        key=("log", "member", "conversation"),
        of_user="member = %s",
        erase_user=_BY_MARKS,
        columns=("member", "conversation", "read_id", "received_id", "version", "peer_version"),
    ),
    _of_log(
        name="mark_version",
        key=("log", "member"),
        of_user=_NUMBERS,
        erase_user=_BY_MARKS,
        columns=("member", "version"),
    ),
    _of_log(
        name="uplink_session", key=("log", "member"), of_user=_NUMBERS, erase_user=_BY_MARKS, columns=_NUMBERS
    ),
    _of_log(
        name="reaction",
        key=("log", "message", "emoji", "member"),
        of_user="member = %s",
        erase_user=_BY_LOG,
        columns=("message", "emoji", "member", "id"),
    ),
    _of_log(
        name="pin",
        key=("log", "message"),
        of_user=_OF_MEMBERS,
        erase_user=_BY_LOG,
        columns=("message", "conversation", "id"),
    ),
    _of_log(
        name="mention",
        key=("log", "member", "conversation", "id"),
        of_user="member = %s",
        erase_user=_BY_MARKS,
        columns=("member", "conversation", "id"),
    ),
    _of_log(
        name="bot_entry",
        key=("log", "member", "conversation", "id"),
        of_user="member = %s",
        erase_user=_BY_MARKS,
        columns=("member", "conversation", "id"),
    ),
    _of_log(
        name="thread_reply",
        key=("log", "conversation", "id"),
        of_user=_NUMBERS,
        erase_user=_NUMBERS,
        columns=("conversation", "id", "root", "also"),
    ),
    _of_log(
        name="thread_reader",
        key=("log", "member", "root"),
        of_user="member = %s",
        erase_user=_BY_MARKS,
        columns=("member", "root", "conversation", "read_id", "follows"),
    ),
    _of_log(
        name="ask_deadline", key=("log", "id"), of_user=_NUMBERS, erase_user=_NUMBERS, columns=("id", "due")
    ),
    _of_log(
        name="removed_message",
        key=("log", "act", "id"),
        of_user="sender = %s",
        erase_user=(f"DELETE FROM removed_message WHERE {OF_LOGS} AND sender = %s",),
        columns=(
            *("act", "id", "message", "recall", "sender", "kind", "type", "about", "meta", "body"),
            "annotations",
        ),
        imported=Reason("what was removed stays removed"),
        scan=True,
    ),
    _of_log(
        name="message",
        key=("log", "id"),
        of_user="sender = %s",
        erase_user=_BY_LOG,
        columns=(
            *("id", "conversation", "seq", "sender", "kind", "type", "client_msg_id", "time_ms", "about"),
            *("stored_at", "meta", "body", "resend"),
        ),
        imported=(("batch", 0),),
        scan=True,
        ranges=(("time_ms", Limit.MIN_TIME_MS, Limit.TIME_MS),),
    ),
    _of_log(
        name="membership",
        key=("log", "member", "conversation", "joined_id"),
        of_user="member = %s",
        erase_user=_BY_LOG,
        columns=(
            *("member", "conversation", "joined_id", "left_id", "readable_after", "role"),
            *("muted_until", "bot"),
        ),
    ),
    _of_log(
        name="conversation",
        key=("log", "id"),
        of_user=_OF_MEMBERS,
        erase_user=_BY_LOG,
        columns=(
            *("id", "kind", "pair", "name", "last_seq", "last_id", "created", "open", "options", "bots"),
            *("avatar", "description"),
        ),
    ),
    Table(
        name="talk_position",
        key=("app", "member"),
        of_user="member = %s",
        erase_user=_BY_POSITIONS,
        columns=("member", "id"),
    ),
    Table(
        name="room_position",
        key=("app", "member", "room"),
        of_user="member = %s",
        erase_user=_BY_POSITIONS,
        columns=("member", "room", "id"),
    ),
    Table(
        name="log",
        key=("number",),
        of_app=_HEAD,
        of_user=_HEAD,
        erase_user=_HEAD,
        # Clients with an old cursor begin anew.
        erase_app=("UPDATE log SET floor = last_id WHERE app = %s AND floor < last_id",),
        stays="app = %s",
        columns=("last_id", "last_conversation", "floor", "lost"),
    ),
)
"""In the order of their deletion."""


def _read(sql: Statements) -> tuple[list[Any], list[Any], list[Any]]:
    """The last ids, seqs and versions: (id, conversation, app, part); (seq, conversation, app, part); (user,
    version, app, part)."""
    return (
        sql.query("SELECT last_id, last_conversation, app, part FROM log"),
        sql.query(
            "SELECT c.last_seq, c.id, l.app, l.part FROM conversation c JOIN log l ON l.number = c.log"
        ),
        sql.query(
            "SELECT v.member, v.version, l.app, l.part FROM mark_version v JOIN log l ON l.number = v.log"
        ),
    )


def _continue_after(sql: Statements, given: tuple[list[Any], list[Any], list[Any]]) -> None:
    ids, seqs, versions = given
    sql.execute_many(
        "INSERT INTO log (last_id, last_conversation, app, part, floor) VALUES (%s, %s, %s, %s, 0) "
        "ON CONFLICT (app, part) DO UPDATE SET last_id = max(last_id, excluded.last_id), "
        "last_conversation = max(last_conversation, excluded.last_conversation)",
        ids,
    )
    sql.execute_many(
        "UPDATE conversation SET last_seq = max(last_seq, %s) WHERE id = %s "
        "AND log = (SELECT number FROM log WHERE app = %s AND part = %s)",
        seqs,
    )
    sql.execute_many(
        "INSERT INTO mark_version (member, version, log) SELECT %s, %s, number FROM log "
        "WHERE app = %s AND part = %s "
        "ON CONFLICT (log, member) DO UPDATE SET version = max(version, excluded.version)",
        versions,
    )


def _skip(sql: Statements, far: int) -> None:
    sql.execute(f"UPDATE log SET {raised('last_id', far)}, {raised('last_conversation', far)}")
    sql.execute(f"UPDATE conversation SET {raised('last_seq', far)}")
    sql.execute(f"UPDATE mark_version SET {raised('version', far)}")
    sql.execute(
        f"INSERT INTO mark_version (log, member, version) SELECT DISTINCT s.log, s.member, {far} "
        "FROM membership s LEFT JOIN mark_version v ON v.log = s.log AND v.member = s.member "
        "WHERE v.log IS NULL"
    )


NUMBERS: Final = (GivenNumbers(frozenset({"log", "mark_version"}), _read, _continue_after, _skip),)
"""What a restored database does not give again."""
