"""Exports of Matrix as records: each field, several exports of a room, and
broken or hostile ones."""

import json
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import pytest
from archives.matrix import (
    ANN,
    BOB,
    CAT,
    FAR,
    PNG,
    Room,
    Server,
    element_events,
    make,
    write,
    write_element,
    write_media,
)
from imserver_arrivals.matrix import Matrix
from imserver_arrivals.matrix_events import event_id
from imserver_arrivals.problems import BadArchive
from imserver_arrivals.records import (
    Change,
    Emoji,
    File,
    Group,
    Member,
    Message,
    Person,
    Pin,
    Reaction,
    Removal,
    link,
    mention,
)

VECTORS = [
    (
        3,
        "$yxkUJoG26ba4Dsz1ZQVP5725adMtMkrzTEsEh/FLqlU",
        {
            "room_id": "!wGLflMSufyysuzOOAR:chat.example",
            "auth_events": [
                "$9S28ydGDnzxl5rckIm0IaKv33R/M4I2/jAvIHoServM",
                "$QAys3QlDvVCzwwyEJNOYmqO3ieU1p9Rq0JewyDpTA4A",
                "$exYzv/lHw4MVdv6QuL7YvX/fvO8Uqlu9eKCL8X+1ZOE",
            ],
            "prev_events": ["$EppDF0AMMBkTxgbCYz4fDvq2sS3RFS109ncEI28fDnI"],
            "content": {
                "m.relates_to": {
                    "event_id": "$OvwILxiifODpeWne/WSC4Ud79x1dmofBHTcsiOFwi6o",
                    "key": "👍",
                    "rel_type": "m.annotation",
                }
            },
            "depth": 13,
            "hashes": {"sha256": "sG3zybg+Ua6N9m51tDKXlf6G/gD6Ou0isgnIsRbGCdA"},
            "origin_server_ts": 1796047423636,
            "sender": "@bob:chat.example",
            "type": "m.reaction",
        },
    ),
    (
        12,
        "$uAnYuoDh2FBqcYpvVm4lVis3nb3RqOdNPUkPemakNe4",
        {
            "auth_events": [],
            "prev_events": [],
            "content": {"room_version": "12"},
            "depth": 1,
            "hashes": {"sha256": "OzYxGIM+aNIEbtw1mU1u/82SaaLR8tsKJSbMqg+cJo8"},
            "origin_server_ts": 1796047432606,
            "sender": "@ann:chat.example",
            "state_key": "",
            "type": "m.room.create",
        },
    ),
    (
        12,
        "$ZqXvBbacP0n9GjAW9zlsMDNMFCTZ7vB25maxcHw6biA",
        {
            "room_id": "!uAnYuoDh2FBqcYpvVm4lVis3nb3RqOdNPUkPemakNe4",
            "auth_events": [
                "$vl1CAROrQplDsYFnC6TxoBOwtYODvz-EhSzwjgvSxho",
                "$dlEM3CwGC3WkK_ScaJ0XTDG_YYZ7sJP1JxbJhDJhqTM",
            ],
            "prev_events": ["$xOAEuaZs4o0ehXoVzGFNAXXClZhMzMbX3kUsGIl-Y7Q"],
            "content": {
                "reason": "x",
                "redacts": "$G-vLffifVMaP_jonKEsWx_MDOfXd-zpcoZV4CL5gRAI",
            },
            "depth": 15,
            "hashes": {"sha256": "TykSsLR92KF2mp+WI4nXwXkXWhBwPUUF6ArfOb1UugQ"},
            "origin_server_ts": 1796047434713,
            "sender": "@bob:chat.example",
            "type": "m.room.redaction",
        },
    ),
    (
        9,
        "$uyK9WIl4aO7VIVUEZuljKtaem36Zp81UHi9w-AUWHOM",
        {
            "room_id": "!ZLajvWGADTNjOqILXs:chat.example",
            "auth_events": [
                "$KBWGIuhYly3B1_VmVyfUhH2djDuoQurSRF_mgvoUnd8",
                "$ke4ndgH36mYuyf_wTG5O_GG9Mwqp0mlnnQBh34wXmBE",
                "$6RdnfAGGm0ylNjXm5wKTk8sild-wDH5yTbI0mzQsg4c",
            ],
            "prev_events": ["$RL3vcCmHeE8rRLGKTcENqq22-3s7BzygbLybGkGi6eQ"],
            "content": {"displayname": "Cat", "membership": "join"},
            "depth": 10,
            "hashes": {"sha256": "aCI0+ttDu7TRUttAOyprDcycTjuxC7j8eHpXFCzqpAk"},
            "origin_server_ts": 1796047428237,
            "sender": "@cat:chat.example",
            "state_key": "@cat:chat.example",
            "type": "m.room.member",
        },
    ),
]
"""(version of the room, id, event), as Synapse 1.163 has written them, without
signatures."""


def read(path: Path) -> tuple[Matrix, dict[type, list[Any]]]:
    """An archive, and its records by their types. A second reading has the
    same, and notes nothing."""
    archive = Matrix(path)
    records = [*archive.records()]
    notes = dict(archive.problems.counts)
    assert [*archive.records()] == records
    assert archive.problems.counts == notes
    types: dict[type, list[Any]] = {
        kind: [] for kind in (Person, Group, Message, Change, Removal, Emoji)
    }
    for record in records:
        types[type(record)].append(record)
    return archive, types


def texts_of(path: Path) -> list[str]:
    return [message.text for message in read(path)[1][Message]]


def bytes_of(archive: Matrix, id: str) -> bytes | None:
    file = archive.open(id)
    if file is None:
        return None
    with file:
        return file.read()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def room(server: Server) -> Room:
    """The public room ``tea`` of ann and bob."""
    return server.room(ANN, "tea", BOB)


@pytest.mark.parametrize(("version", "id", "event"), VECTORS)
def test_ids_are_those_of_synapse(version: int, id: str, event: dict[str, Any]) -> None:
    assert event_id(event, version) == id
    # no part of it
    assert event_id({**event, "unsigned": {"age": 1}, "extra": 1}, version) == id


@pytest.mark.parametrize(
    "version", ["1", "3", "6", "9", "10", "11", "12", "org.example.newer"]
)
def test_edits_reactions_and_threads_find_their_message(
    tmp_path: Path, version: str
) -> None:
    server = Server(version)
    room = server.room(ANN, "tea", BOB)
    first = server.say(room, ANN, "frist")
    server.edit(room, ANN, first, "older")
    server.edit(room, ANN, first, "first")
    server.edit(room, BOB, first, "by another")
    server.react(room, BOB, first, "👍")
    server.react(room, BOB, first, "👍")
    gone = server.say(room, BOB, "gone")
    server.edit(room, BOB, gone, "also gone")
    server.redact(room, BOB, gone)
    thread = {
        "m.relates_to": {
            "rel_type": "m.thread",
            "event_id": first,
            "m.in_reply_to": {"event_id": first},
        }
    }
    reply = server.say(room, BOB, "in it", **thread)
    answer = {"m.relates_to": {"m.in_reply_to": {"event_id": first}}}
    quoted = server.say(room, BOB, "> <@ann> first\n> on\n\nanswer", **answer)
    archive, records = read(server.export(tmp_path, ANN))
    messages = {message.id: message for message in records[Message]}
    assert [*messages] == [first, reply, quoted]
    assert messages[first] == Message(
        first,
        room.id,
        ANN,
        messages[first].time_ms,
        "first",
        is_edited=True,
        reactions=[Reaction(BOB, "👍")],
        files=[],
    )
    assert (messages[reply].thread, messages[reply].reply, messages[reply].text) == (
        first,
        "",
        "in it",
    )
    assert (messages[quoted].thread, messages[quoted].reply, messages[quoted].text) == (
        "",
        first,
        "answer",
    )
    assert archive.problems.counts == {"deleted message": 1}


def test_rooms_are_groups_with_members_roles_pins_and_positions(
    server: Server, tmp_path: Path
) -> None:
    room = server.room(ANN, "first", BOB, CAT, FAR)
    first = server.say(room, BOB, "one")
    second = server.say(room, BOB, "two")
    state = {"state_key": ""}
    server.send(room, ANN, "m.room.name", {"name": "tea"}, **state)
    server.send(room, ANN, "m.room.topic", {"topic": "All of tea"}, **state)
    avatar = {"url": write_media(tmp_path, "roomavatar")}
    server.send(room, ANN, "m.room.avatar", avatar, **state)
    server.send(
        room, ANN, "m.room.power_levels", {"users": {ANN: 100, BOB: "50"}}, **state
    )
    server.send(room, BOB, "m.room.pinned_events", {"pinned": [second, 5]}, **state)
    pinned_ms = server.now_ms
    server.member(room, BOB, CAT, "ban")
    server.export(tmp_path / "ann", ANN, read={room.id: first})
    archive, records = read(tmp_path)
    group = records[Group][0]
    times = {message.id: message.time_ms for message in records[Message]}
    assert group == Group(
        room.id,
        "open",
        "tea",
        "All of tea",
        ANN,
        room.events[0][1]["origin_server_ts"],
        members=[Member(ANN, "owner", times[first]), Member(BOB, "admin"), Member(FAR)],
        pins=[Pin(second, BOB, pinned_ms)],
        avatar=avatar["url"],
    )
    assert bytes_of(archive, group.avatar) == PNG
    changes = [
        (change.kind, change.person, change.people, change.text)
        for change in records[Change]
    ]
    assert changes == [
        *(("join", user, [user], "") for user in (ANN, BOB, CAT, FAR)),
        ("name", ANN, (), "tea"),
        ("leave", BOB, [CAT], ""),
    ]
    assert not archive.problems.counts


def test_kinds_of_rooms(server: Server, tmp_path: Path) -> None:
    closed = server.room(ANN, "closed", BOB, public=False)
    direct = server.room(ANN, "", BOB, public=False)
    asked = server.room(ANN, "", public=False)
    several = server.room(ANN, "", BOB, CAT, public=False)
    server.member(asked, ANN, BOB, "invite", is_direct=True)
    server.room(ANN, "a space", type="m.space")
    old = server.room(ANN, "old")
    server.send(
        old, ANN, "m.room.tombstone", {"replacement_room": closed.id}, state_key=""
    )
    path = server.export(
        tmp_path,
        ANN,
        direct={BOB: [direct.id, several.id, "!none:chat.example"], CAT: 5},
    )
    archive, records = read(path)
    kinds = [(group.id, group.kind, group.is_archived) for group in records[Group]]
    assert sorted(kinds) == [
        (closed.id, "closed", False),
        (direct.id, "direct", False),
        (asked.id, "direct", False),
        (several.id, "several", False),
        (old.id, "open", True),
    ]
    assert [member.person for member in records[Group][2].members] == [ANN, BOB]
    assert archive.problems.counts == {"space (its rooms come)": 1}


def test_people_have_names_and_who_may_claim_an_account(
    server: Server, room: Room, tmp_path: Path
) -> None:
    server.join(room, FAR, avatar_url="mxc://far.example/face")
    server.member(room, CAT, CAT, "join")
    server.export(tmp_path / "ann", ANN)
    server.export(
        tmp_path / "bob", BOB, profile={"user_type": "bot", "displayname": "Robot\x1b"}
    )
    server.export(tmp_path / "eve", "@eve:chat.example", profile={"deactivated": True})
    assert read(tmp_path)[1][Person] == [
        Person(ANN, "Ann", "ann", "ann@example.org"),
        Person(BOB, "Robot", why="bot"),
        Person(CAT, "cat", "cat"),
        Person(FAR, "Dan", avatar="mxc://far.example/face", why="of another server"),
        Person("@eve:chat.example", "Eve", why="deactivated"),
    ]


def html(body: str) -> dict[str, str]:
    return {"format": "org.matrix.custom.html", "formatted_body": body}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            html(
                "<strong>a</strong> <em>b</em> <del>c</del> <code>d*</code><br/>e &lt;f&gt;"
            ),
            "*a* _b_ ~~c~~ `d*`\ne <f>",
        ),
        (html("<p>a</p>\n<p>b<br>\nc</p>"), "a\n\nb\nc"),
        (
            html("<h2>a</h2><pre><code class='language-py'>x = 1\n  y\n</code></pre>b"),
            "*a*\n\n```py\nx = 1\n  y\n```\n\nb",
        ),
        (
            html(
                "<ul>\n<li>a</li>\n<li>b<ol start='3'><li>c</li><li>d</li></ol></li></ul>e"
            ),
            "- a\n- b\n  3. c\n  4. d\n\ne",
        ),
        (html("<blockquote><p>a</p><p>b</p></blockquote>c"), "> a\n> b\n\nc"),
        (
            html('<a href="https://example.org/a">a page</a>'),
            "[a page](https://example.org/a)",
        ),
        (
            html('<a href="https://example.org">example.net</a>'),
            "example.net (https://example.org)",
        ),
        (
            html('<a href="https://example.org/">https://example.org/</a>.'),
            "https://example.org/.",
        ),
        (
            html(f'<a href="https://matrix.to/#/{BOB}">Bob</a>: hi'),
            f"{mention(BOB)}: hi",
        ),
        (
            html('<a href="https://matrix.to/#/%40bob%3Achat.example">Bob</a>'),
            mention(BOB),
        ),
        (html('<a href="https://matrix.to/#/@none:far.example">None</a>'), "None"),
        (html('<a href="https://matrix.to/#/#tea:chat.example">tea</a>'), "tea"),
        (html("<b>a <i>b</i></b> <b> c </b>d"), "*a b* *c* d"),
        (html("<mx-reply><blockquote>old</blockquote></mx-reply>new"), "new"),
        (
            html("a<img data-mx-emoticon src='mxc://x/y' alt=':party:'>b @room"),
            f"a:party:b {mention('*')}",
        ),
        (
            html("<span data-mx-spoiler>a</span><script>b</script><u>c</u>&#2;@*&#3;"),
            "▒▒▒bc@*",
        ),
        (
            html(
                "<mx-reply><span data-mx-spoiler>a</span></mx-reply><span data-mx-spoiler></span>b"
            ),
            "b",
        ),
        # in a time that grows with the length
        (html("<a " * 20_000 + "b"), "<a " * 20_000 + "b"),
        (
            html("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>"),
            "a | b\nc",
        ),
        (
            {"body": "hi @bob:chat.example and @Bob, @none:chat.example"},
            f"hi {mention(BOB)} and @Bob, @none:chat.example",
        ),
        (
            {
                "body": "@bob:chat.example @ann:chat.example",
                "m.mentions": {"user_ids": [BOB]},
            },
            f"{mention(BOB)} @ann:chat.example",
        ),
        (
            {"body": "@room a@room", "m.mentions": {"room": True}},
            f"{mention('*')} a@room",
        ),
        ({"body": "@room", "m.mentions": {}}, "@room"),
        ({"body": "\x02@*\x03 \x1b[0m"}, "@* [0m"),
        ({"msgtype": "m.emote", "body": "waves"}, "_waves_"),
        ({"msgtype": "m.notice", "body": "a"}, "a"),
        ({"msgtype": "m.server_notice", "body": "a", "server_notice_type": "m.x"}, "a"),
        (
            {"msgtype": "m.location", "body": "Here", "geo_uri": "geo:1,2"},
            "Here (geo:1,2)",
        ),
        ({"msgtype": "org.example.other", "body": "a"}, "a"),
    ],
)
def test_texts(
    server: Server, room: Room, tmp_path: Path, content: dict[str, Any], text: str
) -> None:
    server.say(room, ANN, **{"body": "plain", **content})
    assert texts_of(server.export(tmp_path, ANN)) == [text]


def test_spoilers_are_in_a_file(server: Server, room: Room, tmp_path: Path) -> None:
    """Forms of Matrix's specification (matrix-org/matrix-spec, client-server
    API, spoiler messages)."""
    bob = f'<a href="https://matrix.to/#/{BOB}">Bob</a>'
    text = (
        f'<p>It was <span data-mx-spoiler="the end">{bob} &amp; <b>Eve</b></span>.</p>'
    )
    server.say(
        room,
        ANN,
        "x",
        **html(
            f"{text}<p><span data-mx-spoiler><span data-mx-spoiler='b'>c</span>d</span></p>"
        ),
    )
    archive, records = read(server.export(tmp_path, ANN))
    (message,) = records[Message]
    assert message.text == "It was ▒▒▒ (the end).\n\n▒▒▒"
    (file,) = message.files
    assert (
        bytes_of(archive, file.id)
        == b"@Bob & *Eve*\n\nc\n\n\xe2\x96\x92\xe2\x96\x92\xe2\x96\x92 (b)d"
    )
    assert file.name == "spoiler.txt"


def test_links_to_messages_are_marks(
    server: Server, room: Room, tmp_path: Path
) -> None:
    id = server.say(room, ANN, "first")
    address = f"https://matrix.to/#/{room.id}/{id}?via=chat.example"
    server.say(room, ANN, f"see {address}.")
    server.say(
        room,
        ANN,
        "x",
        **html(f'<a href="{address}">this</a> <a href="{address}">{address}</a>'),
    )
    mark = link(id, address)
    assert texts_of(server.export(tmp_path, ANN)) == [
        "first",
        f"see {mark}.",
        f"this ({mark}) {mark}",
    ]


def test_polls_stickers_files_and_own_emoji(
    server: Server, room: Room, tmp_path: Path
) -> None:
    ours = write_media(tmp_path, "AbCdEf")
    theirs = "mxc://far.example/AbCdEf"
    answers = [
        {
            "m.id": "1",
            "m.text": [{"mimetype": "text/html", "body": "<b>"}, {"body": "yes"}],
        },
        5,
    ]
    poll = {"m.poll": {"question": {"m.text": [{"body": "Tea?"}]}, "answers": answers}}
    server.send(room, ANN, "m.poll.start", poll)
    key = "org.matrix.msc3381.poll.start"
    old = {
        "question": {"org.matrix.msc1767.text": "Milk?"},
        "answers": [{"org.matrix.msc1767.text": "no"}],
    }
    server.send(room, ANN, key, {key: old})
    server.send(room, BOB, "m.poll.response", {"m.selections": ["1"]})
    server.send(room, ANN, "m.sticker", {"body": "cup", "url": ours, "info": {}})
    for kind in ("image", "video", "audio", "file"):
        server.say(room, ANN, f"a.{kind}", msgtype=f"m.{kind}", url=ours)
    server.say(room, ANN, "Our *tea*", msgtype="m.image", filename="tea.png", url=ours)
    server.say(room, ANN, "far.png", msgtype="m.image", url=theirs)
    server.say(
        room, ANN, "secret.png", msgtype="m.image", file={"url": ours, "key": {}}
    )
    last = server.say(
        room, ANN, "none.png", msgtype="m.image", url="https://example.org/none.png"
    )
    server.react(room, BOB, last, "mxc://chat.example/AbCdEf", shortcode=":party:")
    server.react(room, BOB, last, "mxc://chat.example/other")
    server.export(tmp_path / "ann", ANN)
    archive, records = read(tmp_path)
    assert [(message.text, message.files) for message in records[Message]] == [
        ("Tea?\n- yes\n- ", []),
        ("Milk?\n- no", []),
        ("", [File(ours, "cup")]),
        *(
            ("", [File(ours, f"a.{kind}")])
            for kind in ("image", "video", "audio", "file")
        ),
        ("Our *tea*", [File(ours, "tea.png")]),
        ("", [File(theirs, "far.png", why="of another server")]),
        ("", [File(ours, "secret.png", why="encrypted")]),
        ("", [File(last, "none.png", why="without an address")]),
    ]
    assert records[Message][-1].reactions == [
        Reaction(BOB, ":party:", ours),
        Reaction(BOB, ":picture:", "mxc://chat.example/other"),
    ]
    assert records[Emoji] == [Emoji("party", ours)]
    assert archive.problems.counts == {"vote of a poll": 1}
    assert bytes_of(archive, ours) == PNG
    assert archive.open(theirs) is None


def test_exports_of_several_users_are_merged(
    server: Server, room: Room, tmp_path: Path
) -> None:
    """Each sees a part. What one export has without its content was deleted,
    wherever it still is."""
    first = server.say(room, ANN, "first")
    gone = server.say(room, ANN, "gone")
    server.export(tmp_path / "ann", ANN)
    server.redact(room, ANN, gone)
    last = server.say(room, BOB, "last")
    server.export(tmp_path / "bob", BOB)
    events = tmp_path / "bob" / "rooms" / room.id / "events"
    write(
        events,
        [
            event
            for id, event in room.events
            if id != first and event["type"] != "m.room.redaction"
        ],
    )
    state = [event for _, event in room.events if "state_key" in event]
    write(tmp_path / "bob" / "rooms" / room.id / "state" / last, state)
    archive, records = read(tmp_path)
    assert [message.id for message in records[Message]] == [first, last]
    assert [change.person for change in records[Change]] == [ANN, BOB]
    assert archive.problems.of_groups == {room.id: {"deleted message": 1}}


def test_only_those_who_may_redact(server: Server, room: Room, tmp_path: Path) -> None:
    """An old server has written what was redacted whole."""
    by_another = server.say(room, ANN, "stays")
    by_admin = server.say(room, BOB, "goes")
    server.send(room, BOB, "m.room.redaction", {}, redacts=by_another)
    server.send(room, ANN, "m.room.redaction", {}, redacts=by_admin)
    assert texts_of(server.export(tmp_path, ANN)) == ["stays"]


def test_encrypted_messages_are_counted_for_each_room(
    server: Server, room: Room, tmp_path: Path
) -> None:
    relation = {"m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}}
    for content in ({}, {}, relation):
        server.send(room, ANN, "m.room.encrypted", {"ciphertext": "x", **content})
    server.export(tmp_path, ANN)
    archive, records = read(tmp_path)
    assert not records[Message]
    assert archive.problems.of_groups == {room.id: {"encrypted message": 3}}
    readable = element_events(room)
    readable[-3] |= {
        "type": "m.room.message",
        "content": {"msgtype": "m.text", "body": "read by Element"},
    }
    readable[-2] |= {
        "type": "m.room.message",
        "content": {"msgtype": "m.bad.encrypted", "body": "**"},
    }
    write_element(tmp_path / "room.json", "tea", readable)
    archive, records = read(tmp_path)
    assert [message.text for message in records[Message]] == ["read by Element"]
    assert archive.problems.of_groups == {room.id: {"encrypted message": 2}}


def test_a_room_of_element(server: Server, room: Room, tmp_path: Path) -> None:
    said = server.say(room, ANN, "typed")
    server.say(room, ANN, "tea.png", msgtype="m.image", url="mxc://chat.example/a")
    first_ms = server.now_ms
    server.say(room, ANN, "tea.png", msgtype="m.image", url="mxc://chat.example/b")
    server.send(room, BOB, "m.sticker", {"body": "cup", "url": "mxc://chat.example/c"})
    server.say(room, BOB, "lost.png", msgtype="m.image", url="mxc://chat.example/d")
    minute, second = divmod(first_ms // 1000 % 3600, 60)
    names = [
        f"images/tea-9-13-2020 at 2-{minute:02}-{second + n:02} PM.png"
        for n in range(2)
    ]
    cup = f"stickers/cup-13.9.2020 klo 14.{minute:02}.{second + 2:02}.png"
    files = {names[0]: b"first", names[1]: b"second", cup: b"cup"}
    events = element_events(room)[3:]  # only what it draws
    edit = {
        "sender": ANN,
        "content": {"m.new_content": {"msgtype": "m.text", "body": "edited"}},
    }
    next(event for event in events if event["event_id"] == said)["unsigned"] = {
        "m.relations": {"m.replace": edit}
    }
    archive, records = read(
        write_element(tmp_path / "element.zip", "The tea", events, **files)
    )
    found = [
        bytes_of(archive, file.id)
        for message in records[Message]
        for file in message.files
    ]
    assert found == [b"first", b"second", b"cup", None]
    assert records[Message][0].text == "edited"
    assert records[Message][0].is_edited
    assert (records[Group][0].name, records[Group][0].description) == (
        "tea",
        "All of tea",
    )
    assert [person.login for person in records[Person]] == ["ann", "bob"]
    alone = write_element(
        tmp_path / "alone.json",
        "Alone",
        [event for event in events if "state_key" not in event],
    )
    assert read(alone)[1][Group] == [
        Group(
            room.id,
            "closed",
            "Alone",
            "All of tea",
            members=[Member(ANN), Member(BOB)],
            pins=[],
        )
    ]


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "other.json").write_text("[]", encoding="utf-8")
    for name in ("empty", "other.json"):
        with pytest.raises(BadArchive, match="no export of Matrix"):
            Matrix(tmp_path / name)


def test_broken_and_hostile_events_are_noted_and_the_rest_comes(
    server: Server, room: Room, tmp_path: Path
) -> None:
    server.say(room, ANN, "before")
    path = server.export(tmp_path / "ann", ANN) / "rooms" / room.id / "events"
    good = json.dumps(
        {
            **room.events[-1][1],
            "content": {"msgtype": "m.text", "body": "after"},
            "depth": 99,
        }
    )
    whole = path.read_text(encoding="utf-8")
    deep = '{"content": ' + "[" * 100_000 + "]" * 100_000 + "}"
    types = '{"type": 5, "sender": [], "content": 7}[]null"text"' + json.dumps(
        {
            "type": "m.room.message",
            "sender": "nobody",
            "origin_server_ts": 1,
            "content": {},
        }
    )
    wrong = {
        "msgtype": ["m.text"],
        "body": {"a": 1},
        "m.relates_to": 5,
        "m.mentions": [],
        "m.new_content": 5,
    }
    odd = json.dumps({**room.events[-1][1], "content": wrong, "depth": 98})
    fields = json.dumps(
        {**room.events[-1][1], "depth": [], "unsigned": 5, "state_key": 5}
    )
    times = json.dumps({**room.events[-1][1], "origin_server_ts": 1 << 70})
    path.write_text(
        f'{whole}{whole}{types}{fields}{times}{odd}{good}{{"cut": {{}}{good}',
        encoding="utf-8",
    )
    (path.parent / "state").mkdir()
    (path.parent / "state" / "deep").write_text(deep, encoding="utf-8")
    write(tmp_path / "ann" / "rooms" / "..no room" / "events", [])
    write(tmp_path / "ann" / "user_data" / "account_data" / room.id, [5])
    archive, records = read(tmp_path)
    assert [message.text for message in records[Message]] == ["before", "", "after"]
    assert len(records[Change]) == 2
    assert archive.problems.counts["broken"] >= 9
    assert len(archive.problems.broken) <= 20


def test_files_of_a_zip_lead_nowhere(
    server: Server, room: Room, tmp_path: Path
) -> None:
    server.say(room, ANN, "first")
    server.export(tmp_path / "ann", ANN)
    with ZipFile(tmp_path / "all.zip", "w", ZIP_DEFLATED) as archive:
        for path in (tmp_path / "ann").rglob("*"):
            archive.write(path, path.relative_to(tmp_path))
        archive.writestr("../rooms/!evil:chat.example/events", "{}")
        archive.writestr("local_content/aa/../../etc", "x")
        archive.writestr("rooms/!bomb:chat.example/events", "[" * 50_000_000)
    found, records = read(tmp_path / "all.zip")
    assert [group.id for group in records[Group]] == [room.id]
    assert found.open("mxc://chat.example/aa....etc") is None
    assert found.problems.counts["broken"]


def test_an_archive_of_a_seed_has_what_it_says(tmp_path: Path) -> None:
    counts = make(tmp_path, 5, 600)
    archive, records = read(tmp_path)
    messages = records[Message]
    assert len(messages) == counts["messages"]
    assert sum(message.is_edited for message in messages) == counts["edits"]
    assert sum(len(message.reactions) for message in messages) == counts["reactions"]
    assert (
        sum(bool(message.thread or message.reply) for message in messages)
        == counts["replies"]
    )
    assert sum(len(message.files) for message in messages) == counts["files"]
    assert len({message.id for message in messages}) == len(messages)
    assert {*archive.problems.counts} == {"deleted message"}
