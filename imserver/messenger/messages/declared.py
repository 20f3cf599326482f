"""The declarations of the feature: settings and tables."""

from functools import partial
from typing import Annotated, Any, Final

from msgspec import Struct

from imserver.gateway.config.declared import about
from imserver.gateway.config.settings import AppCount, Count, Seconds
from imserver.gateway.model import Limit
from imserver.gateway.storage.numbers import GivenNumbers, raise_all
from imserver.gateway.storage.statements import Statements
from imserver.gateway.storage.tables import OF_LOGS, Reason, Table
from imserver.messenger.streams.limits import StreamLimits
from imserver.plugin import SettingsRow


class RetentionSettings(Struct, frozen=True):
    """Keys of section ``storage``: how many seconds messages are stored, and
    how many of the newest messages of each app; 0: no limit."""

    retention_seconds: Seconds = 0.0
    retention_messages: Count = 0


class AppRetention(Struct, frozen=True):
    """How long, and how many messages of one app are stored; unset: as
    configured for the server."""

    retention_seconds: Annotated[
        Seconds,
        about(
            "The maximum age of stored messages in seconds; 0: the server's setting "
            "applies."
        ),
    ] = 0.0
    retention_messages: Annotated[
        AppCount,
        about(
            "The maximum number of stored messages; 0: the server's setting applies."
        ),
    ] = 0


SETTINGS: Final = SettingsRow(
    {
        "limits": StreamLimits,
        "storage": RetentionSettings,
        "apps.*": AppRetention,
        "apps.*.store_conversations": None,
    }
)


_BY_MARKS: Final = Reason("the log erases it with the marks of the user")
_BY_LOG: Final = Reason(
    "the log takes the user out: entries stay without content, under another name"
)
_BY_POSITIONS: Final = Reason("the node forgets the positions, also those in memory")
_OF_MEMBERS: Final = Reason("it belongs to all members of a conversation")
_NUMBERS: Final = Reason("numbers that say nothing of a user")
_OF_MESSAGES: Final = Reason("the log takes out the words of what it erases")

_of_log: Final = partial(Table, of_app=OF_LOGS)

TABLES: Final = (
    _of_log(
        name="word",
        types="log big*, segment big*, bucket small*, terms blob",
        of_user=_OF_MEMBERS,
        erase_user=_OF_MESSAGES,
        columns=Reason("it is made of the messages"),
    ),
    _of_log(
        name="word_position",
        types="log big*, segment big, changes big, leased big, floor big=0",
        of_user=_NUMBERS,
        erase_user=_OF_MESSAGES,
    ),
    _of_log(
        name="word_change",
        types="log big*, id big*, entry big*, conversation big",
        of_user=_NUMBERS,
        erase_user=_OF_MESSAGES,
    ),
    _of_log(
        name="hidden",
        types="log int*, member name255* out user, id big* out, version big out",
        erase_user=_BY_MARKS,
    ),
    _of_log(
        name="read_position",
        types="""log int*, member name255* out user, conversation big* out, read_id big out,
            received_id big=0 out, version big out, peer_version big=0 out""",
        erase_user=_BY_MARKS,
    ),
    _of_log(
        name="mark_version",
        types="log int*, member name255* out, version big out",
        of_user=_NUMBERS,
        erase_user=_BY_MARKS,
    ),
    _of_log(
        name="uplink_session",
        types="log int*, member name255*, session big",
        of_user=_NUMBERS,
        erase_user=_BY_MARKS,
    ),
    _of_log(
        name="reaction",
        types="log int*, message big* out, emoji name32* out, member name255* out user, id big out",
        erase_user=_BY_LOG,
    ),
    _of_log(
        name="pin",
        types="log int*, message big* out, conversation big out, id big out",
        of_user=_OF_MEMBERS,
        erase_user=_BY_LOG,
    ),
    _of_log(
        name="mention",
        types="log int*, member name255* out user, conversation big* out, id big* out",
        erase_user=_BY_MARKS,
    ),
    _of_log(
        name="bot_entry",
        types="log int*, member name255* out user, conversation big* out, id big* out",
        erase_user=_BY_MARKS,
    ),
    _of_log(
        name="thread_reply",
        types="log int*, conversation big* out, id big* out, root big out, also small out",
        of_user=_NUMBERS,
    ),
    _of_log(
        name="thread_reader",
        types="""log int*, member name255* out user, root big* out, conversation big out, read_id big out,
            follows small out""",
        erase_user=_BY_MARKS,
    ),
    _of_log(
        name="ask_deadline",
        types="log big*, id big* out, due big out",
        of_user=_NUMBERS,
    ),
    _of_log(
        name="ask_tally", types="log big*, id big* out, due big out", of_user=_NUMBERS
    ),
    _of_log(
        name="ask_vote",
        types="""log big*, id big* out, member name255* out user, choices small out, secret small=0,
            time big out""",
        erase_user=_BY_LOG,
    ),
    _of_log(
        name="removed_message",
        types="""log big*, act name32* out, id big* out, message big out, recall big out,
            sender name255 out user, kind small out, type name64 out, about big out, meta blob out,
            body blob out, annotations blob out""",
        imported=Reason("what was removed stays removed"),
        scan=True,
    ),
    _of_log(
        name="message",
        types="""log int*, id big* out, conversation big out, seq big out, sender name255 out user,
            kind small out, type name32 out, client_msg_id name64 out, time_ms big out, about big out,
            stored_at big out, batch big empty, meta blob out, body blob out, resend bytes16? out""",
        erase_user=_BY_LOG,
        scan=True,
        ranges=(("time_ms", Limit.MIN_TIME_MS, Limit.TIME_MS),),
    ),
    _of_log(
        name="membership",
        types="""log int*, member name255* out user, conversation big* out, joined_id big* out,
            left_id big? out, readable_after big? out, role name16 out, muted_until big out,
            bot small=0 out""",
        erase_user=_BY_LOG,
    ),
    _of_log(
        name="conversation",
        types="""log int*, id big* out, kind small out, pair bytes511? out, name name500 out,
            last_seq big out, last_id big out, created big out, open small=0 out, options small=0 out,
            bots name500? out, avatar name1000? out, description name2000? out, handle name128? out""",
        of_user=_OF_MEMBERS,
        erase_user=_BY_LOG,
    ),
    Table(
        name="talk_position",
        types="app name500*, member name255* out user, id big out",
        erase_user=_BY_POSITIONS,
    ),
    Table(
        name="room_position",
        types="app name500*, member name255* out user, room name255* out, id big out",
        erase_user=_BY_POSITIONS,
    ),
    Table(
        name="log",
        types="""number serial, app name500, part int, last_id big out, last_conversation big out,
            floor big out, lost name1000? out""",
        of_app=Reason(
            "it stays with the last ids, none of which is given again if the app is created anew"
        ),
        # Clients with an old cursor begin anew.
        erase_app=(
            "UPDATE log SET floor = last_id WHERE app = %s AND floor < last_id",
        ),
        stays="app = %s",
    ),
)
"""The tables in the order of their deletion."""


def _read_numbers(sql: Statements) -> tuple[list[Any], list[Any], list[Any]]:
    """Read the numbers that a restored database must not give again.

    There are three lists of rows:

    - The last ids of logs: (id, conversation, app, part).
    - The seqs of conversations: (seq, conversation, app, part).
    - The versions of marks: (user, version, app, part).
    """
    return (
        sql.query("SELECT last_id, last_conversation, app, part FROM log"),
        sql.query(
            "SELECT c.last_seq, c.id, l.app, l.part FROM conversation c JOIN log l ON l.number = c.log"
        ),
        sql.query(
            "SELECT v.member, v.version, l.app, l.part FROM mark_version v JOIN log l ON l.number = v.log"
        ),
    )


def _continue_after(
    sql: Statements, numbers: tuple[list[Any], list[Any], list[Any]]
) -> None:
    """Let the numbers of a restored database (SQLite) continue after known
    ones.

    ``numbers`` is the result of :func:`_read_numbers`.
    """
    ids, seqs, versions = numbers
    sql.execute_many(
        "INSERT INTO log (last_id, last_conversation, app, part, floor) "
        "VALUES (%s, %s, %s, %s, 0) "
        "ON CONFLICT (app, part) DO UPDATE SET "
        "last_id = max(last_id, excluded.last_id), "
        "last_conversation = max(last_conversation, excluded.last_conversation)",
        ids,
    )
    sql.execute_many(
        "UPDATE conversation SET last_seq = max(last_seq, %s) "
        "WHERE id = %s "
        "AND log = (SELECT number FROM log WHERE app = %s AND part = %s)",
        seqs,
    )
    sql.execute_many(
        "INSERT INTO mark_version (member, version, log) "
        "SELECT %s, %s, number FROM log WHERE app = %s AND part = %s "
        "ON CONFLICT (log, member) DO UPDATE SET "
        "version = max(version, excluded.version)",
        versions,
    )


def _skip(sql: Statements, far: int) -> None:
    """Let all numbers continue far beyond the known ones.

    Members without a version of marks get one, because theirs may have been
    lost.
    """
    raise_all(sql, far, "log", "last_id", "last_conversation")
    raise_all(sql, far, "conversation", "last_seq")
    raise_all(sql, far, "mark_version", "version")
    sql.execute(
        f"INSERT INTO mark_version (log, member, version) SELECT DISTINCT s.log, s.member, {far} "
        "FROM membership s LEFT JOIN mark_version v ON v.log = s.log AND v.member = s.member "
        "WHERE v.log IS NULL"
    )


NUMBERS: Final = (
    GivenNumbers(
        tables=frozenset({"log", "mark_version"}),
        read=_read_numbers,
        continue_after=_continue_after,
        skip=_skip,
    ),
)
"""The numbers that a restored database must not give again."""
