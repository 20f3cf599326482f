"""Every list has a budget: an answer holds at most 4 MiB, and one to a
connection half of an outbox, however long and however many its rows are. Who
adds a list says how it is bounded, or this test fails."""

import typing
from collections.abc import Iterator
from itertools import chain
from typing import Any, Final

import msgspec
import pytest
from msgspec import Struct

from imserver.gateway.channels.members import ChannelMember, MembersHere, page_of
from imserver.gateway.cluster.history import PAGE_BYTES
from imserver.gateway.dialects.cmd import wire as cmd
from imserver.gateway.http.reply import MAX_BATCH_BYTES
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from tests.rows import OPERATIONS, READERS
from tests.users import User

from .node_harness import ADMIN, Harness, config

CUT: Final = frozenset(
    {
        *(
            "conversations",
            "conversations/pins",
            "messages",
            "messages/search",
            "messages/sync",
        ),
        *(
            "messages/marks",
            "threads/list",
            "threads/get",
            "channels/messages",
            "channels/history",
        ),
        *(
            "channels/presence",
            "events/log",
            "events/dead",
            "bots",
            "bots/listed",
            "inbox",
        ),
    }
)
"""Pages of as many rows as fit, which go on by a cursor: ``count_fitting``, or
a number of small rows."""
CUT_FOR_CONNECTIONS: Final = frozenset(
    {
        *(
            "conversations",
            "history",
            "pins",
            "search",
            "sync",
            "marks",
            "threads",
            "thread",
            "arrangements",
        ),
        *("channelHistory", "channelPresence", "subscribe"),
    }
)
_ECHO: Final = (10_000, 300)
"""One row for each target that the request itself has named."""
_ID = 300
_CARD = 2_000
_ROW = 4_000
ROWS: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(
        ("presence", "push", "disconnect", "ban", "channels/broadcast"), _ECHO
    ),
    **dict.fromkeys(
        ("channels/subscribe", "channels/unsubscribe", "channels/stream/append"), _ECHO
    ),
    **dict.fromkeys(
        ("messages/stream/append", "previews/show", "apps/usage", "counts"),
        (1_000, _ROW),
    ),
    **dict.fromkeys(
        ("users", "bans", "apps", "channels/list", "connections/show"), (10_000, 400)
    ),
    **dict.fromkeys(
        ("accounts/list", "friends", "groups", "uploads", "audit"), (1_000, _ROW)
    ),
    **dict.fromkeys(
        ("groups/members", "keys/usage", "messages/receipts"), (1_000, 700)
    ),
    **dict.fromkeys(("invitations", "invitations/list"), (1_000, 700)),
    "groups/open": (50, _ROW),
    "groups/mentions": (50, _CARD),
    "notifications/wishes": (100, _ID),
    **dict.fromkeys(
        ("accounts/search", "accounts/directory", "accounts/cards"), (1_000, _CARD)
    ),
    **dict.fromkeys(
        ("groups/create", "groups/invite", "groups/remove", "groups/leave"),
        (1_000, 2 * _ID),
    ),
    **dict.fromkeys(("groups/role", "groups/mute"), (2, _ID)),
    **dict.fromkeys(("refusals", "reports"), (1_000, _ROW)),
    "limits/lift": (1_000, 1_000),
    **dict.fromkeys(
        ("notifications/recent", "webhooks", "webhooks/address"), (100, 20_000)
    ),
    **dict.fromkeys(("find", "connections/list"), (200, 20_000)),
    **dict.fromkeys(("bots/update", "bots/show", "bots/commands"), (500, 800)),
    **dict.fromkeys(
        (
            "asks/create",
            "asks/get",
            "asks/answer",
            "asks/cancel",
            "asks/remind",
            "asks/escalate",
        ),
        (100, 6_000),
    ),
    "asks/voters": (200, _ID),
    **dict.fromkeys(("invitations/mail", "invitations/mails"), (1_000, 2_600)),
    "scheduled": (200, 20_000),
    **dict.fromkeys(
        ("scheduled/create", "scheduled/change", "scheduled/remind"), (100, _ID)
    ),
    "reports/show": (11, 6 * 60_000),
    "nodes": (1_000, _ROW),
    **dict.fromkeys(("nodes/timings", "keys/deprecated"), (1_000, _ROW)),
    **dict.fromkeys(
        ("keys", "keys/create", "keys/revoke", "keys/rotate"), (1_000, _ROW)
    ),
    "moderation/count": (10_000, 60),
    "moderation/holds": (200, 1_500),
    **dict.fromkeys(
        ("hooks", "accounts/devices", "notifications/endpoints", "exports"), (100, _ROW)
    ),
    "notifications/conversations": (50_000, 80),
    "notifications/audiences": (1_000, 500),
    **dict.fromkeys(("accounts/oauth/providers", "accounts/oauth/links"), (100, _ROW)),
    **dict.fromkeys(("accounts/rules", "reports/reasons", "admin/rights"), (300, 200)),
    **dict.fromkeys(("accounts/factor/confirm", "accounts/factor/codes"), (10, 50)),
    **dict.fromkeys(
        ("apps/create", "apps/set", "apps/show", "apps/settings"), (1, 1 << 20)
    ),
    "batch": (1, MAX_BATCH_BYTES),
    "inbox/folders": (20, 300),
}
"""Other lists → their most rows, and the most bytes of one."""
ROWS_FOR_CONNECTIONS: Final = {
    **dict.fromkeys(("receipts", "receiptCounts", "groupMembers"), (200, 2 * _ID)),
    "groups": (200, _ROW),
    "botCommands": (500, 800),
    "setFolders": (20, 300),
}
NO_LIST: Final = frozenset(
    {
        *(
            "send",
            "recall",
            "edit",
            "press",
            "answer",
            "react",
            "pin",
            "followThread",
            "readThread",
            "read",
        ),
        *(
            "hide",
            "ack",
            "received",
            "typing",
            "arrange",
            "report",
            "streamOpen",
            "streamAppend",
        ),
        *(
            "streamClose",
            "streamStop",
            "createGroup",
            "updateGroup",
            "inviteToGroup",
            "joinGroup",
        ),
        *("leaveGroup", "heartbeat", "login", "ping", "publish", "unsubscribe"),
    }
)
"""Commands whose answers have no list."""


def lists_in(kind: Any) -> bool:
    if (
        typing.get_origin(kind) in (list, tuple)
        or typing.get_origin(kind) is typing.Annotated
    ):
        return typing.get_origin(kind) is not typing.Annotated or lists_in(
            typing.get_args(kind)[0]
        )
    return (
        isinstance(kind, type)
        and issubclass(kind, Struct)
        and any(
            lists_in(each.type)
            for each in msgspec.structs.fields(kind)
            if each.name != "missing_nodes"
        )
    )


@pytest.mark.parametrize(
    ("lists", "cut", "rows", "most"),
    [
        (
            {
                row.path.removeprefix("/api/v1/")
                for row in OPERATIONS
                if lists_in(row.answer)
            },
            CUT,
            ROWS,
            MAX_BATCH_BYTES,
        ),
        (
            {*cmd.COMMANDS, *chain.from_iterable(READERS.values())} - NO_LIST,
            CUT_FOR_CONNECTIONS,
            ROWS_FOR_CONNECTIONS,
            2 * PAGE_BYTES,
        ),
    ],
    ids=["routes", "commands"],
)
def test_each_has_a_budget(
    lists: set[str], cut: frozenset[str], rows: dict[str, tuple[int, int]], most: int
) -> None:
    unbudgeted = sorted(lists ^ (cut | rows.keys()))
    assert unbudgeted == [], (
        "name each in NO_LIST if its answer has no list; else give it a row (how many "
        "rows of how many bytes) or name it among those that are cut"
    )
    assert [name for name, (count, size) in rows.items() if count * size > most] == []


@pytest.fixture(scope="module")
def back_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    harness = Harness(config(tmp_path_factory.mktemp("lists")))
    yield User(harness, ADMIN.key, app="201")
    harness.close()


COUNT: Final = 30


@pytest.fixture(scope="module")
def long_rows(back_end: User) -> MessageLog:
    """Messages whose characters have six bytes in JSON, and messages with long
    names in ``meta``; all are pinned, and have threads."""
    log: MessageLog = back_end.server.node.core.store.part(MessageLog)
    mentions = msgspec.json.encode(
        {"mentions": [f"{number:0180}" for number in range(100)]}
    )
    drafts = [Draft(sender="ann", to_user="bob", body=b"\1" * 60_000)] * (COUNT // 2)
    drafts += [
        Draft(sender="ann", to_user="bob", body=b"x" * 20_000, meta=mentions)
    ] * (COUNT // 2)
    log.writer.append("201", drafts)
    for id in range(1, COUNT + 1):
        log.annotations.pin("201", "ann", id)
        log.writer.append(
            "201", [Draft(sender="bob", conversation=1, body=b"ok", thread=id)]
        )
    return log


@pytest.mark.parametrize(
    ("route", "rows", "cursor", "fields"),
    [
        ("conversations/pins", "messages", "before", {"conversation": 1}),
        ("threads/list", "threads", "before", {"limit": 50}),
        ("messages", "messages", "before", {"conversation": 1, "limit": 200}),
        ("messages/sync", "messages", "after", {"limit": 200}),
    ],
)
def test_long_rows_come_on_several_pages(
    back_end: User,
    long_rows: MessageLog,
    route: str,
    rows: str,
    cursor: str,
    fields: dict[str, Any],
) -> None:
    found: list[int] = []
    at: dict[str, int] = {}
    while True:
        page = back_end.get(route, user="ann", **fields, **at)
        assert len(msgspec.json.encode(page)) < 2 * PAGE_BYTES
        found += [each.get("thread") or each["id"] for each in page[rows]]
        if not page.get("more", page[cursor]):
            break
        at = {cursor: page[cursor]}
    assert {*found} >= {*range(1, COUNT + 1)}
    assert len(found) == len({*found})


def test_marks_come_on_several_pages(back_end: User, long_rows: MessageLog) -> None:
    long_rows.writer.append(
        "201", [Draft(sender="bob", to_user="cid", body=b"x")] * 2_500
    )
    last = long_rows.entries.head("201")
    ids = [*range(last - 2_499, last + 1)]
    for begin in range(0, len(ids), 1_000):
        long_rows.marks.hide("201", "cid", ids[begin : begin + 1_000])
    first = back_end.get("messages/marks", user="cid")
    assert (len(first["hidden"]), first["more"]) == (2_000, True)
    rest = back_end.get("messages/marks", user="cid", version=first["version"])
    assert first["hidden"] + rest["hidden"] == ids
    assert "more" not in rest


def test_a_page_of_subscribers_has_as_many_as_fit() -> None:
    members = [
        ChannelMember(f"c{number}", "u", "", "cmd", float(number), "1" * 6_000)
        for number in range(1_000)
    ]
    seen = 0
    while True:
        page = page_of([MembersHere(1_000, members[seen : seen + 601], 1)], 600)
        assert sum(len(each.info) for each in page.members) <= PAGE_BYTES
        seen += len(page.members)
        if not page.next:
            break
    assert seen == 1_000
