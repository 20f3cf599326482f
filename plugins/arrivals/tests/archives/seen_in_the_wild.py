"""Shapes that real archives have and no document tells: types, names and
missing parts, each with its source.

The texts are ours. A row says how many messages its archive has, and how many
of them are stored; the others must be named by the report, and then the command
ends with 1.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from archives import matrix, rocketchat, zulip
from archives.slack import BEGIN, ts

ANN = "U00000000"
BOB = "U00000001"
_UTF_8_NAMES = 0x800
"""The flag of a file in a zip file whose name says that it is UTF-8."""


@dataclass(frozen=True)
class Shape:
    """An archive with something odd.

    ``source``: where it was seen. ``says``: what the report must have.
    ``status``: of the command.
    """

    name: str
    source: str
    write: Callable[[Path], Path]
    messages: int
    stored: int
    says: str = ""
    status: int = 0


# --- Slack --------------------------------------------------------------------


def said(number: int, text: str = "", **more: Any) -> dict[str, Any]:
    """A message of Slack, ``number`` seconds after the beginning."""
    return {
        "type": "message",
        "user": ANN,
        "ts": ts(BEGIN + number),
        "text": text or f"m{number}",
        **more,
    }


def slack(
    *messages: dict[str, Any] | bytes,
    without: str = "",
    files: dict[str, Any] | None = None,
    **channel: Any,
) -> Callable[[Path], Path]:
    """An export with the channel ``tea``. ``channel``: what its row in the list
    has else. ``files``: others beside these; bytes stay as they are.
    ``without``: a file that is not there."""
    people = [
        {
            "id": id,
            "name": name,
            "profile": {"real_name": name.title(), "email": f"{name}@example.org"},
        }
        for id, name in ((ANN, "ann"), (BOB, "bob"))
    ]
    tea = {
        "id": "C0TEA",
        "name": "tea",
        "created": BEGIN,
        "creator": ANN,
        "members": [ANN, BOB],
        **channel,
    }
    content: dict[str, Any] = {"users.json": people, "channels.json": [tea]}
    content["tea/2020-09-13.json"] = list(messages)
    content.pop(without, None)
    content |= files or {}
    return lambda folder: zipped(folder / "export.zip", content)


def zipped(path: Path, content: dict[str, Any], *, says_utf_8: bool = True) -> Path:
    """A zip file. ``says_utf_8``: whether it says so of names that are not
    ASCII."""
    hidden: dict[bytes, bytes] = {}
    with ZipFile(path, "w") as archive:
        for name, value in content.items():
            raw = value if isinstance(value, bytes) else json.dumps(value).encode()
            plain = name
            if not says_utf_8 and not name.isascii():
                # as many bytes
                plain = f"{len(hidden):x}".rjust(len(name.encode()), "_")
                hidden[plain.encode()] = name.encode()
            archive.writestr(plain, raw)
    whole = path.read_bytes()
    for plain_bytes, name_bytes in hidden.items():
        whole = whole.replace(plain_bytes, name_bytes)
    path.write_bytes(whole)
    return path


def unflagged(content: dict[str, Any]) -> Callable[[Path], Path]:
    return lambda folder: zipped(folder / "export.zip", content, says_utf_8=False)


PEOPLE = [{"id": ANN, "name": "ann"}, {"id": BOB, "name": "bob"}]
DAY = "2020-09-13.json"
TABLE = {
    "type": "table",
    "rows": [
        [{"type": "raw_text", "text": "tea"}, {"type": "raw_text", "text": "pots"}],
        [
            {
                "type": "rich_text",
                "elements": [{"type": "rich_text_section", "elements": []}],
            },
            {"type": "raw_text", "text": "two"},
        ],
    ],
}
SERVICE = "added an integration to this channel: <https://tea.slack.com/services/B0000001|builds>"

SLACK = (
    Shape(
        "times of channels are texts",
        "hfaran/slack-export-viewer tests/testarchive.zip; dutchcoders/slackarchive#15",
        slack(
            said(1), said(2), created="1452837318", topic={"value": "", "last_set": "0"}
        ),
        2,
        2,
    ),
    Shape(
        "a bot has an id alone, and a message says that it was added",
        "hfaran/slack-export-viewer tests/testarchive.zip",
        slack(
            said(1, SERVICE, subtype="bot_add", bot_id="B0000001"),
            said(2, subtype="bot_message", user=None, bot_id="B0000001"),
        ),
        2,
        2,
    ),
    Shape(
        "the log of integrations has users who are a number",
        "zulip/zulip slack_fixtures/test_slack_importer/integration_logs.json",
        slack(
            said(1, user=None, bot_id="B0000002", app_id="A02"),
            files={
                "integration_logs.json": [
                    {"user_id": 0, "app_id": "A02", "app_type": "Tester"},
                    5,
                ]
            },
        ),
        1,
        1,
    ),
    Shape(
        "a file of old workspaces: one, with a comment, and no bot",
        "zulip/zulip slack_fixtures/test_slack_importer/random/2018-01-20.json",
        slack(
            said(
                1,
                subtype="file_share",
                bot_id=None,
                username="ann",
                file={
                    "id": "F1",
                    "name": "a.md",
                    "size": "5755",
                    "initial_comment": {"id": "Fc1"},
                },
            )
        ),
        1,
        1,
    ),
    Shape(
        "a file without an address, and one that is deleted",
        "zulip/zulip#11619",
        slack(
            said(
                1,
                files=[
                    {"id": "F1", "mode": "tombstone"},
                    {"id": "F2", "size": None},
                    None,
                ],
            )
        ),
        1,
        1,
        "file that Slack had deleted",
    ),
    Shape(
        "a table beside the text",
        "zulip/zulip slack_fixtures/exported_messages_fixtures/message_with_varying_block_types.json",
        slack(said(1, blocks=[{"type": "divider"}, TABLE])),
        1,
        1,
    ),
    Shape(
        "a canvas",
        "zulip/zulip#27281",
        slack(
            said(
                1,
                files=[
                    {
                        "id": "F1",
                        "title": "Our tea",
                        "mimetype": "application/vnd.slack-docs",
                    }
                ],
            )
        ),
        1,
        1,
    ),
    Shape(
        "a list is null",
        "rusq/slackdump#110",
        slack(said(1), files={"groups.json": b"null", "dms.json": b"null"}),
        1,
        1,
    ),
    Shape(
        "members are null",
        "rusq/slackdump#220",
        slack(said(1), members=None, num_members=0),
        1,
        1,
    ),
    Shape(
        "somebody has no name to show",
        "rusq/slackdump#123",
        slack(said(1, user="UFAR", user_profile={"real_name": "Far", "team": "T1"})),
        1,
        1,
    ),
    Shape(
        "a folder has half-width letters, its list full-width ones",
        "rusq/slackdump#144",
        slack(
            without=f"tea/{DAY}",
            name="ビューア",
            files={f"ﾋﾞｭｰｱ/{DAY}": [said(1), said(2)]},
        ),
        2,
        2,
    ),
    Shape(
        "a conversation of several has no folder",
        "hfaran/slack-export-viewer#161",
        slack(
            said(1),
            files={
                "mpims.json": [
                    {"id": "G0NO", "name": "mpdm-ann--bob-1", "members": [ANN]}
                ]
            },
        ),
        1,
        1,
    ),
    Shape(
        "direct messages are of somebody in no list",
        "hfaran/slack-export-viewer#85",
        slack(
            said(1),
            files={
                "dms.json": [{"id": "D0FAR", "created": "1", "members": [ANN, "UFAR"]}],
                f"D0FAR/{DAY}": [said(2, user="UFAR")],
            },
        ),
        2,
        2,
    ),
    Shape(
        "names of files are UTF-8 without a word",
        "zulip/zulip#22533; hfaran/slack-export-viewer#143",
        unflagged(
            {
                "users.json": PEOPLE,
                "channels.json": [
                    {"id": "C0TEA", "name": "お茶チャネル", "members": [ANN]}
                ],
                f"お茶チャネル/{DAY}": [said(1), said(2), said(3)],
            }
        ),
        3,
        3,
    ),
    Shape(
        "folders are separated by backslashes",
        "learn.microsoft.com: mitigation: ZipArchiveEntry.FullName path separator",
        slack(without=f"tea/{DAY}", files={f"tea\\{DAY}": [said(1), said(2)]}),
        2,
        2,
    ),
    Shape(
        "there is no list of channels",
        "hfaran/slack-export-viewer#124",
        slack(said(1), said(2, user=BOB), without="channels.json"),
        2,
        2,
        "folder tea that no list names (it comes as a closed group)",
    ),
    Shape(
        "a second folder of a channel is named as a literal of Python",
        "zach-snell/slack-export#20",
        slack(
            said(1),
            files={
                f"b'tea'/{DAY}": [said(2)],
                f"D0000001/{DAY}": [said(3), said(4, user=BOB)],
            },
        ),
        4,
        4,
        "folder D0000001 that no list names (it comes as a conversation of two)",
    ),
    Shape(
        "a channel has one file for all days",
        "sebseager/slack-exporter#5",
        slack(without=f"tea/{DAY}", files={"tea/tea.json": [said(1), said(100_000)]}),
        2,
        2,
    ),
    Shape(
        "a file of messages is in no folder",
        "hfaran/slack-export-viewer#95",
        slack(said(1), files={"tea-2.json": [said(2), said(3)]}),
        3,
        1,
        "2  message in tea-2.json, which is of no conversation",
        1,
    ),
    Shape(
        "a message has no time that is one",
        "thomasloupe/Slackord#27",
        slack(said(1), said(2, ts="XX", user="XX", client_msg_id="XX")),
        2,
        1,
        "message 2: it has no time (ts)",
        1,
    ),
    Shape(
        "values of attachments are numbers",
        "mattermost/mattermost-server model/slack_attachment.go",
        slack(
            said(
                1,
                attachments=[{"title": 5, "fields": [{"title": "n", "value": 7}, "x"]}],
            )
        ),
        1,
        1,
        "field attachments[].fields[] of a message: its type is wrong (left out)",
        1,
    ),
    Shape(
        "fields of people are null",
        "mattermost/mattermost#1359; RocketChat/Rocket.Chat#26479",
        slack(
            said(1),
            files={
                "users.json": [
                    {"id": ANN, "name": None, "profile": None, "deleted": None},
                    *PEOPLE[1:],
                ]
            },
        ),
        1,
        1,
    ),
    Shape(
        "a sender is null",
        "mattermost/mattermost#13879",
        slack(said(1), said(2, user=None)),
        2,
        1,
        "1  message without a sender",
        1,
    ),
    Shape(
        "empty objects are arrays, and arrays objects",
        "php.net: json_encode",
        slack(
            said(1, reactions={"0": {"name": "+1", "users": {"1": BOB}}}),
            topic=[],
            members={"3": ANN},
        ),
        1,
        1,
    ),
    Shape(
        "an edit is true, files are a text, reactions a number",
        "slackhq/slack-api-docs: objects of messages differ between events",
        slack(
            *(
                said(number, edited=True, files="F1", reactions=3)
                for number in range(1, 10)
            )
        ),
        9,
        9,
        "9  field files of a message: its type is wrong (left out)",
        1,
    ),
    Shape(
        "files begin with a byte order mark",
        "learn.microsoft.com: about_Character_Encoding (Windows PowerShell)",
        slack(
            without=f"tea/{DAY}",
            files={
                "users.json": b"\xef\xbb\xbf" + json.dumps(PEOPLE).encode(),
                f"tea/{DAY}": b"\xef\xbb\xbf" + json.dumps([said(1), said(2)]).encode(),
            },
        ),
        2,
        2,
    ),
    Shape(
        "a byte is no character",
        "hfaran/slack-export-viewer#34",
        slack(
            files={
                f"tea/{DAY}": json.dumps([said(1), said(2)])
                .encode()
                .replace(b"m2", b"\xff")
            }
        ),
        2,
        2,
    ),
    Shape(
        "a file is cut",
        "mattermost/mattermost#5528",
        slack(
            files={f"tea/{DAY}": json.dumps([said(1), said(2), said(3)]).encode()[:-5]}
        ),
        3,
        2,
        f"tea/{DAY}: ",
        1,
    ),
    Shape(
        "it was packed again on a Mac, with its folder",
        "hfaran/slack-export-viewer#131",
        lambda folder: zipped(
            folder / "export.zip",
            {
                "out/users.json": PEOPLE,
                "out/channels.json": [{"id": "C0TEA", "name": "tea", "members": [ANN]}],
                f"out/tea/{DAY}": [said(1)],
                f"__MACOSX/out/tea/._{DAY}": b"\0\5\x16\7",
            },
        ),
        1,
        1,
    ),
    Shape(
        "a reply is older than its message",
        "zulip/zulip slack_fixtures/exported_messages_fixtures/normal_thread.json",
        slack(said(1, thread_ts=ts(BEGIN + 5)), said(5)),
        2,
        2,
        "1  reply older than its message (it comes behind it)",
    ),
)

# --- Mattermost ---------------------------------------------------------------


def post(number: int, **more: Any) -> dict[str, Any]:
    return {
        "type": "post",
        "post": {
            "team": "tea",
            "channel": "pots",
            "user": "ann",
            "message": f"m{number}",
            "create_at": BEGIN * 1000 + number,
            "reactions": None,
            "replies": None,
            **more,
        },
    }


def mattermost(
    *lines: dict[str, Any] | bytes, folder: str = "", mark: bytes = b""
) -> Callable[[Path], Path]:
    member = {"name": "pots", "roles": "channel_user"}
    head = (
        {"type": "version", "version": 1},
        {"type": "team", "team": {"name": "tea", "display_name": "Tea", "type": "O"}},
        {
            "type": "channel",
            "channel": {
                "team": "tea",
                "name": "pots",
                "display_name": "Pots",
                "type": "O",
            },
        },
        *(
            {
                "type": "user",
                "user": {
                    "username": name,
                    "teams": [{"name": "tea", "channels": [member]}],
                },
            }
            for name in ("ann", "bob")
        ),
    )
    rows = (
        each if isinstance(each, bytes) else json.dumps(each).encode()
        for each in (*head, *lines)
    )
    return lambda path: zipped(
        path / "a.zip", {f"{folder}import.jsonl": mark + b"\r\n".join(rows)}
    )


_REPLY = {"user": "bob", "message": "r", "create_at": BEGIN * 1000 - 70_000}

MATTERMOST = (
    Shape(
        "a reply is older than its post",
        "zulip/zulip mattermost_fixtures/export.json",
        mattermost(post(1, replies=[_REPLY])),
        2,
        2,
        "1  reply older than its message (it comes behind it)",
    ),
    Shape(
        "everybody has left a channel",
        "mattermost/mattermost server/tests/import_test.zip: off-topic",
        mattermost(
            {
                "type": "channel",
                "channel": {
                    "team": "tea",
                    "name": "left",
                    "type": "P",
                    "display_name": "Left",
                },
            },
            post(
                1,
                channel="left",
                reactions=[{"user": "bob", "emoji_name": "+1", "create_at": 1}],
            ),
            post(
                2, channel="left", replies=[{**_REPLY, "create_at": BEGIN * 1000 + 3}]
            ),
            post(4, channel="left", type="system_leave_channel"),
        ),
        3,
        3,
        "1  group without members (whoever wrote there is in it)",
    ),
    Shape(
        "two exports are in one file",
        "what cat a.jsonl b.jsonl makes",
        mattermost(
            post(1), post(2, replies=[_REPLY]), post(1), post(2, replies=[_REPLY])
        ),
        3,
        3,
        "3  post that stands twice (comes once)",
    ),
    Shape(
        "a post is in a channel of another team",
        "zulip/zulip mattermost_fixtures/export.json",
        mattermost(post(1), post(2, channel="snakes", replies=[_REPLY])),
        3,
        1,
        "2  post in a channel that is not in the export",
        1,
    ),
    Shape(
        "direct channels have members, or no line at all",
        "zulip/zulip mattermost_fixtures/direct_channel/export.json",
        mattermost(
            {"type": "user", "user": {"username": "tom", "teams": None}},
            {
                "type": "direct_channel",
                "direct_channel": {"members": ["ann", "bob"], "favorited_by": None},
            },
            *(
                {
                    "type": "direct_post",
                    "direct_post": {
                        **post(number)["post"],
                        "channel_members": ["ann", other],
                    },
                }
                for number, other in ((1, "bob"), (2, "tom"))
            ),
        ),
        2,
        2,
    ),
    Shape(
        "a line has no object of its type",
        "mattermost/mattermost#22535; mattermost/mattermost#10395",
        mattermost(
            {"type": "user", "username": "cat", "use_formatting": "True"},
            {"name": "troll", "image": "troll.png"},
            post(1),
        ),
        1,
        1,
        "it has no type",
        1,
    ),
    Shape(
        "the lines are in a folder",
        "mattermost/mattermost server/tests/export_test_with_nested_jsonl.zip",
        mattermost(post(1), folder="export/"),
        1,
        1,
    ),
    Shape(
        "lines were written by a tool of Windows, with times as texts",
        "mattermost/mattermost#14959",
        mattermost(
            post(
                1, create_at=str(BEGIN * 1000), props="", reactions={}, is_pinned="true"
            ),
            post(
                2,
                channel="pots",
                replies={"0": {**_REPLY, "create_at": str(BEGIN * 1000 + 9)}},
            ),
            mark=b"\xef\xbb\xbf",
        ),
        3,
        3,
    ),
    Shape(
        "a post has no user, and its type is not first",
        "mattermost/mattermost#22142",
        mattermost(
            post(1),
            {
                "post": {"message": "m", "create_at": 5, "replies": [_REPLY]},
                "type": "post",
            },
        ),
        3,
        1,
        "it has no post that can be read",
        1,
    ),
)

# --- Zulip, Rocket.Chat, Matrix -----------------------------------------------


def of_zulip(change: Callable[[zulip.Export], object]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        export = zulip.make(folder / "export", 3, 20)
        change(export)
        return export.folder

    return write


def _first(export: zulip.Export, **fields: Any) -> None:
    """Change the first message."""
    part = export.get("messages-000001.json")
    part["zerver_message"][0] |= fields
    export.put("messages-000001.json", part)


def _renamed(export: zulip.Export) -> None:
    part = export.folder / "messages-000001.json"
    part.rename(f"{part}.partial")


ZULIP = (
    Shape(
        "a part was not finished",
        "zulip/zulip zerver/lib/export.py: .partial files",
        of_zulip(_renamed),
        20,
        20,
    ),
    Shape(
        "histories are arrays, times texts",
        "zulip/zulip#26369",
        of_zulip(
            lambda export: _first(
                export, edit_history=[{"prev_subject": "x"}, 5], last_edit_time="9"
            )
        ),
        20,
        20,
        "field edit_history[] of a message: its type is wrong (left out)",
        1,
    ),
    Shape(
        "files that messages name are not there",
        "zulip/zulip#26349",
        of_zulip(lambda export: (export.folder / "attachment.json").unlink()),
        20,
        20,
    ),
    Shape(
        "a message is to nobody",
        "zulip/zulip#14830",
        of_zulip(lambda export: _first(export, recipient=99_999)),
        20,
        19,
        "1  message of nobody, to nobody or without a time",
        1,
    ),
)


def of_rocketchat(
    change: Callable[[rocketchat.Dump], object],
) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        dump = rocketchat.make(3, 20)
        change(dump)
        return dump.write(folder / "dump")

    return write


def _rocket(**fields: Any) -> Callable[[rocketchat.Dump], None]:
    """What changes the first message."""

    def change(dump: rocketchat.Dump) -> None:
        message = dump.collections["rocketchat_message"][0]
        assert isinstance(message, dict)
        message |= fields

    return change


def _without_subscriptions(dump: rocketchat.Dump) -> None:
    """Nobody is in the first room, and nobody has made it."""
    rows = dump.collections["rocketchat_subscription"]
    kept = [each for each in rows if isinstance(each, dict) and each["rid"] != "room0"]
    dump.collections["rocketchat_subscription"] = [*kept]
    room = dump.collections["rocketchat_room"][0]
    assert isinstance(room, dict)
    del room["u"]


ROCKETCHAT = (
    Shape(
        "a channel has no users",
        "zulip/zulip zerver/tests/test_rocketchat_importer.py: no-user-channel",
        of_rocketchat(_without_subscriptions),
        20,
        20,
        "1  group without members (whoever wrote there is in it)",
    ),
    Shape(
        "a text mentions a discussion by its second id",
        "RocketChat/Rocket.Chat createDiscussion.ts; zulip/zulip zerver/data_import/rocketchat.py",
        of_rocketchat(
            _rocket(msg="#x7Hk", channels=[{"_id": "room3", "name": "x7Hk"}])
        ),
        20,
        20,
    ),
    Shape(
        "there are no users",
        "zulip/zulip rocketchat_fixtures: collections are missing",
        of_rocketchat(lambda dump: dump.collections.pop("users")),
        20,
        20,
        "collection users: it is not in the dump: nobody can claim an account",
        1,
    ),
    Shape(
        "names of who reacts are null",
        "RocketChat/Rocket.Chat#16697",
        of_rocketchat(
            _rocket(reactions={":+1:": {"usernames": [None]}}, mentions=None, urls=None)
        ),
        20,
        20,
        "reaction of nobody",
    ),
    Shape(
        "reactions are an array, an alias a number",
        "RocketChat/Rocket.Chat#20425",
        of_rocketchat(
            _rocket(reactions=[{"type": ":heart:", "usernames": ["ann"]}], alias=7)
        ),
        20,
        20,
        "field reactions of rocketchat_message: its type is wrong (left out)",
        1,
    ),
    Shape(
        "a message is of a visitor of a site",
        "RocketChat/Rocket.Chat packages/core-typings/src/IRoom.ts",
        of_rocketchat(_rocket(rid="visit")),
        20,
        19,
        "1  message of omnichannel",
        1,
    ),
)


def of_matrix(*events: dict[str, Any]) -> Callable[[Path], Path]:
    """A room with two messages, and events that are odd."""

    def write(folder: Path) -> Path:
        server = matrix.Server(version="1")
        room = server.room(matrix.ANN, "tea", matrix.BOB)
        for number in range(2):
            server.say(room, matrix.BOB, f"m{number}")
        for event in events:
            server.send(
                room,
                **{
                    "sender": matrix.BOB,
                    "type": "m.room.message",
                    "content": {},
                    **event,
                },
            )
        return server.export(folder / "export", matrix.ANN)

    return write


def _element(folder: Path) -> Path:
    server = matrix.Server()
    room = server.room(matrix.ANN, "tea", matrix.BOB)
    server.say(room, matrix.BOB, "m")
    document = {"messages": matrix.element_events(room), "room_name": "tea"}
    path = folder / "export.json"
    path.write_text("\ufeff" + json.dumps(document), encoding="utf-8")
    return path


_SAID = {"msgtype": "m.text", "body": "odd"}

MATRIX = (
    Shape(
        "powers are texts",
        "matrix-org/synapse#7592; matrix-org/synapse#9267",
        of_matrix(
            {
                "type": "m.room.power_levels",
                "sender": matrix.ANN,
                "content": {
                    "users": {matrix.ANN: "100", matrix.BOB: " 8"},
                    "ban": "50",
                },
                "state_key": "",
            }
        ),
        2,
        2,
    ),
    Shape(
        "numbers are texts, and what is not there is null",
        "matrix-org/matrix-spec#853",
        of_matrix(
            {
                "content": _SAID,
                "depth": "9",
                "redacts": None,
                "origin_server_ts": "1600000900000",
            }
        ),
        3,
        3,
    ),
    Shape(
        "a content is no object",
        "matrix-org/synapse#1237",
        of_matrix({"content": "text"}),
        3,
        2,
        "an event: its content is no object",
        1,
    ),
    Shape(
        "a room of a client has its messages first",
        "element-hq/element-web src/utils/exportUtils/JSONExport.ts: keys of JSON have no order",
        _element,
        1,
        1,
    ),
)

SHAPES = (*SLACK, *MATTERMOST, *ZULIP, *ROCKETCHAT, *MATRIX)
