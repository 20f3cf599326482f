"""The wire of chats: questions, answers, resumption and stop; and unmodified
clients, and the example."""

import http.client
import itertools
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
import yaml
from conftest import APP, CONFIG, KEY, PLUGIN, Chunk, Producer, Reader, message, said
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from imserver_client import Entry, Messenger
from tests.bots import ExampleBot
from tests.browser.chromium import CHROMIUM, DRIVER, Browser, Page, unexpected
from tests.browser.site import serve_folder
from tests.docs.markdown import blocks
from tests.docs.play import play_session
from tests.integration.plug_ins import running
from tests.processes import pause
from tests.sdk.node import NODE_FLAGS, bundle, run, run_node
from tests.support import ROOT, Server, eventually
from tests.tools import require
from tests.users import User

_names = itertools.count()


class Chat(NamedTuple):
    """Ann at the reader's node, and her bot at the producer's."""

    here: Server
    there: Server
    ann: User
    bot: Producer

    @property
    def id(self) -> str:
        return self.bot.bot.user

    def ask(self, text: str, id: str, chat: str = "") -> Reader:
        return Reader(self.here, self.ann.token, "", message(chat or self.id, text, id))

    def resume(self, query: str = "", chat: str = "") -> Reader:
        return Reader(self.here, self.ann.token, f"/{chat or self.id}/stream{query}")

    def get(self, path: str) -> Reader:
        return Reader(self.here, self.ann.token, f"/{self.id}/{path}")


@pytest.fixture
def chat(servers: tuple[Server, Server]) -> Chat:
    ann = User.register(servers[0], APP, key=KEY)
    return Chat(*servers, ann, Producer(ann.bot(f"bot{next(_names)}_bot")))


def test_an_answer_comes_in_pieces_and_is_stored(chat: Chat) -> None:
    reader = chat.ask("How are you?", "m1")
    assert reader.status == 200
    assert reader.headers["x-vercel-ai-ui-message-stream"] == "v1"
    stream = chat.bot.open(chat.there, chat.ann.user)
    assert chat.bot.append(chat.there, stream, "I am ", "fine ☕") == ["appended"] * 2
    chunks = reader.until("text-delta")
    assert [each["type"] for each in chunks[:2]] == ["start", "text-start"]
    assert chunks[0]["messageId"] == stream
    chat.bot.close(chat.there, stream)
    chunks += list(reader)
    assert said(chunks) == "I am fine ☕"
    assert [each["type"] for each in chunks[-2:]] == ["text-end", "finish"]
    assert chunks[-1]["finishReason"] == "stop"
    found = chat.get("messages").document()["messages"]
    assert [(each["id"], each["role"], each["parts"][0]["text"]) for each in found] == [
        ("m1", "user", "How are you?"),
        (stream, "assistant", "I am fine ☕"),
    ]


def test_who_sends_a_message_again_gets_the_same_answer(chat: Chat) -> None:
    chat.ask("Tea?", "m1").close()
    stream = chat.bot.open(chat.there, chat.ann.user)
    chat.bot.append(chat.there, stream, "Yes, ")
    again = chat.ask("Tea?", "m1")
    assert said(again.until("text-delta")) == "Yes, "
    chat.bot.append(chat.there, stream, "please", first=2)
    chat.bot.close(chat.there, stream)
    assert said(list(again)) == "please"
    whole = list(chat.ask("Tea?", "m1"))
    assert (whole[0]["messageId"], said(whole), whole[-1]["type"]) == (
        stream,
        "Yes, please",
        "finish",
    )
    assert len(chat.get("messages").document()["messages"]) == 2


def test_a_new_question_is_not_answered_by_an_older_stream(chat: Chat) -> None:
    older = chat.bot.open(chat.there, chat.ann.user, text="old")
    reader = chat.ask("New?", "m1")
    newer = chat.bot.open(chat.there, chat.ann.user, text="new")
    chat.bot.close(chat.there, older)
    chat.bot.close(chat.there, newer)
    chunks = list(reader)
    assert (chunks[0]["messageId"], said(chunks)) == (newer, "new")


def test_a_second_device_and_a_reloaded_page_get_the_whole_answer(chat: Chat) -> None:
    assert chat.resume().status == 204
    waiting = chat.resume("?wait=1")
    stream = chat.bot.open(chat.there, chat.ann.user, text="one ")
    resumed = chat.resume()
    chat.bot.append(chat.there, stream, "two")
    chat.bot.close(chat.there, stream)
    for reader in (waiting, resumed):
        chunks = list(reader)
        assert (chunks[0]["messageId"], said(chunks)) == (stream, "one two")
    assert chat.resume().status == 204
    ended = list(chat.resume(f"?message={stream}"))
    assert (said(ended), ended[-1]["type"]) == ("one two", "finish")


def test_a_stop_reaches_the_producer_and_all_who_read(chat: Chat) -> None:
    reader = chat.ask("Count to a million", "m1")
    stream = chat.bot.open(chat.there, chat.ann.user, text="1 2 ")
    reader.until("text-delta")
    stopped = Reader(chat.here, chat.ann.token, f"/{chat.id}/stop", {})
    assert stopped.document() == {"stopped": 1}
    assert chat.bot.append(chat.there, stream, "3 ") == ["closed"]
    end = list(reader)[-1]
    assert (end["finishReason"], end["messageMetadata"]["stopped"]) == (
        "interrupted",
        chat.ann.user,
    )
    assert Reader(chat.here, chat.ann.token, f"/{chat.id}/stop", {}).document() == {
        "stopped": 0
    }


def test_of_a_banned_user_nothing_is_stored(chat: Chat) -> None:
    back_end = User(chat.here, KEY, app=APP)
    back_end.post("ban", users=[chat.ann.user], seconds=60)
    refused = chat.ask("Still here?", "m1")
    assert (refused.status, refused.document()["code"]) == (403, "banned")
    assert back_end.get("conversations", user=chat.ann.user)["conversations"] == []


@pytest.mark.parametrize("end", ["logout", "lock", "delete"])
@pytest.mark.parametrize("servers", ["two"], indirect=True)
def test_an_answer_ends_with_the_right_of_its_reader(chat: Chat, end: str) -> None:
    reader = chat.ask("Count to a million", "m1")
    chat.bot.open(chat.there, chat.ann.user, text="1 2 ")
    reader.until("text-delta")
    User(chat.there, KEY, app=APP).post(f"accounts/{end}", user=chat.ann.user)
    assert "finish" not in [each["type"] for each in reader]


@pytest.mark.parametrize("servers", ["two"], indirect=True)
def test_a_bot_without_a_program_is_an_error_within_15_seconds(chat: Chat) -> None:
    asked = time.monotonic()
    chunks = list(chat.ask("Anybody?", "m1"))
    assert chunks == [{"type": "error", "errorText": "the bot does not answer"}]
    assert time.monotonic() - asked < 15


def lines(*chunks: Chunk) -> str:
    return "".join([json.dumps(chunk, ensure_ascii=False) + "\n" for chunk in chunks])


def test_parts_other_than_text_are_chunks_of_the_producer(chat: Chat) -> None:
    parts: list[Chunk] = [
        {"type": "reasoning-start", "id": "r"},
        {"type": "reasoning-delta", "id": "r", "delta": "Hm."},
        {"type": "reasoning-end", "id": "r"},
        {
            "type": "tool-input-available",
            "toolCallId": "c",
            "toolName": "kettle",
            "input": {"cups": 2},
        },
        {"type": "tool-output-available", "toolCallId": "c", "output": {"hot": True}},
        {"type": "data-cups", "data": "two\u2028cups"},
        {"type": "text-start", "id": "t"},
        {"type": "text-delta", "id": "t", "delta": "Ready"},
        {"type": "text-end", "id": "t"},
    ]
    stream = chat.bot.open(
        chat.there, chat.ann.user, type="ai_chat", text=lines(parts[0])
    )
    reader = chat.resume()
    content = lines(*parts[1:])
    own = lines({"type": "finish"}) + "no JSON\n[1]\n"
    chat.bot.append(chat.there, stream, content[:30], content[30:] + own)
    chat.bot.close(chat.there, stream)
    chunks = list(reader)
    assert chunks[1:-1] == parts
    stored = list(chat.resume(f"?message={stream}"))
    assert stored == chunks
    (found,) = chat.get("messages").document()["messages"]
    assert found["chunks"] == parts
    assert found["parts"] == [{"type": "text", "text": "Ready"}, parts[5]]


def test_a_message_that_is_not_streamed_is_an_answer(chat: Chat) -> None:
    reader = chat.ask("Short?", "m1")
    chat.bot.bot.post("messages/send", to=chat.ann.user, text="Short.")
    assert said(list(reader)) == "Short."
    reader = chat.ask("Data?", "m2")
    chat.bot.bot.post("messages/send", to=chat.ann.user, data={"cups": 2})
    (part,) = [each for each in list(reader) if each["type"].startswith("data-")]
    assert (part["type"], part["data"]) == ("data-custom", {"cups": 2})


def test_a_group_is_a_chat_of_its_own(chat: Chat) -> None:
    group = chat.ann.group(chat.bot.bot)
    number = (
        int(chat.ann.get("groups/list")["groups"][0]["conversation"])
        if not group.isdecimal()
        else int(group)
    )
    here = f"{chat.id}-{number}"
    reader = chat.ask("@all Tea?", "m1", here)
    assert reader.status == 200, reader.document()
    other = chat.bot.open(chat.there, chat.ann.user, text="elsewhere")
    stream = chat.bot.open(chat.there, conversation=number, text="Yes")
    chat.bot.close(chat.there, other)
    chat.bot.close(chat.there, stream)
    assert said(list(reader)) == "Yes"
    with runs_at(chat, chat=here, runId="m1", offset="-1") as socket:
        events = [json.loads(frame)["chunk"] for frame in socket]
    assert [event["delta"] for event in events if "delta" in event] == ["Yes"]
    eve = User.register(chat.here, APP, key=KEY)
    for path, body in (
        (f"/{here}/stream", None),
        (f"/{here}/messages", None),
        (f"/{here}/stop", {}),
    ):
        assert Reader(chat.here, eve.token, path, body).status == 404
    assert Reader(chat.here, eve.token, "", message(here, "I?", "m1")).status == 404


def test_what_is_refused(chat: Chat) -> None:
    def ask(body: object, token: str = chat.ann.token) -> int:
        return Reader(chat.here, token, "", body).status

    good = message(chat.id, "Tea?", "m1")
    assert ask(good, "wrong") == 401
    assert ask({**good, "id": "tea"}) == 400
    assert ask({**good, "messages": []}) == 400
    assert ask(message(chat.id, " ", "m1")) == 400
    assert ask(message("999999999", "Nobody?", "m1")) == 404
    assert (
        ask(message(chat.ann.user, "A person?", "m1"))
        == chat.resume("?wait=1", "999999999").status
        == 404
    )
    file = {"type": "file", "mediaType": "image/png", "url": "data:,x"}
    assert (
        ask({**good, "messages": [{"id": "m", "role": "user", "parts": [file]}]}) == 400
    )
    assert chat.get("messages").document() == {"messages": [], "before": 0}


def test_what_a_socket_refuses(chat: Chat) -> None:
    eve = User.register(chat.here, APP, key=KEY)

    def ask(request: str, token: str, **more: Any) -> tuple[str, str]:
        head = {"Authorization": f"Bearer {token}"}
        socket.send(
            json.dumps({"type": "send", "requestId": request, "headers": head, **more})
        )
        while (answer := json.loads(socket.recv(60)))["requestId"] != request:
            pass
        return answer["type"], answer.get("errorText", "")

    good = message(chat.id, "Tea?", "m1")
    bot, (host, port) = chat.bot.bot, chat.here.http
    with (
        # it is online, and silent
        Messenger(chat.there.ws_url, APP, bot.user, bot.token, cursor=None),
        connect(f"ws://{host}:{port}/ai-chat/socket") as socket,
    ):
        assert ask("1", "wrong", **good)[0] == "error"
        assert ask("2", chat.ann.token, **{**good, "id": "tea"})[0] == "error"
        assert ask("3", eve.token, **good) == (
            "error",
            "The WebSocket is of another user",
        )
        for number in range(16):
            assert ask(
                f"m{number}", chat.ann.token, **message(chat.id, "Tea?", f"m{number}")
            ) == (
                "start",
                "",
            )
        assert ask("4", chat.ann.token, **message(chat.id, "Tea?", "m16"))[0] == "error"
        socket.send(json.dumps({"type": "abort", "requestId": "m0"}))
        assert ask("5", chat.ann.token, **message(chat.id, "Tea?", "m16")) == (
            "start",
            "",
        )
        assert ask("5", chat.ann.token, **message(chat.id, "Tea?", "m17"))[0] == "error"
        assert ask("5", chat.ann.token, **message(chat.id, "Tea?", "m17"))[0] == "start"
        socket.send("tea")
        with pytest.raises(ConnectionClosedError):
            socket.recv(60)
    with (
        connect(f"ws://{host}:{port}/ai-chat/socket") as socket,
        pytest.raises(ConnectionClosedError),
    ):
        ask("6" * 256, chat.ann.token, **good)
    asked = [each["id"] for each in chat.get("messages").document()["messages"]]
    assert asked == [f"m{number}" for number in range(18)]


def runs_at(at: Chat, /, **query: str) -> ClientConnection:
    """A WebSocket as TanStack opens it."""
    host, port = at.here.http
    query = {"token": at.ann.token, "chat": at.id, **query}
    return connect(f"ws://{host}:{port}/ai-chat/socket?{urlencode(query)}")


def run_of(chat: Chat, run: str) -> str:
    """A request as TanStack sends it."""
    return json.dumps(
        {
            "threadId": chat.id,
            "runId": run,
            "messages": [{"id": "m", "role": "user", "content": "Tea?"}],
        }
    )


def joined(events: list[Chunk]) -> list[Chunk]:
    """Events without their ids, and neighbouring texts as one."""
    rows = list[Chunk]()
    for event in (each["chunk"] for each in events):
        if rows and rows[-1]["type"] == event["type"] == "TEXT_MESSAGE_CONTENT":
            rows[-1] = {**event, "delta": rows[-1]["delta"] + event["delta"]}
        else:
            rows.append(event)
    return rows


CALL: Chunk = {
    "type": "tool-input-available",
    "toolCallId": "c",
    "toolName": "kettle",
    "input": {"cups": 2},
}
SPOKEN: tuple[Chunk, ...] = (
    {"type": "text-start", "id": "t"},
    {"type": "text-delta", "id": "t", "delta": "Hm ☕"},
    {"type": "text-end", "id": "t"},
)


@pytest.mark.parametrize("form", ["text", "chunks", "message"])
def test_a_run_goes_on_behind_each_event(chat: Chat, form: str) -> None:
    more = {"type": "ai_chat"} if form == "chunks" else {}
    pieces = ["one ", "two ☕"] if form == "text" else [lines(*SPOKEN), lines(CALL)]

    def resume(offset: str) -> Iterator[Chunk]:
        with runs_at(chat, runId="r1", offset=offset) as socket:
            yield from map(json.loads, socket)
            assert socket.close_code == 1000

    with runs_at(chat) as socket:
        socket.send(run_of(chat, "r1"))
        events = [json.loads(socket.recv(60))]
        socket.send(run_of(chat, "r1"))  # it begins again, and the first time ends
        assert json.loads(socket.recv(60)) == events[0]
        waiting = resume(events[0]["id"])
        if form == "message":
            chat.bot.bot.post("messages/send", to=chat.ann.user, text="Short ☕")
        else:
            stream = chat.bot.open(chat.there, chat.ann.user, **more)
            chat.bot.append(chat.there, stream, pieces[0])
            while events[-1]["chunk"]["type"] not in (
                "TEXT_MESSAGE_CONTENT",
                "TEXT_MESSAGE_END",
            ):
                events.append(json.loads(socket.recv(60)))
            # they go on while it comes
            early = [next(resume(each["id"])) for each in events[:-1]]
            assert [each["id"] for each in early] == [each["id"] for each in events[1:]]
            chat.bot.append(chat.there, stream, pieces[1], first=2)
            chat.bot.close(chat.there, stream)
        while events[-1]["chunk"]["type"] != "RUN_FINISHED":
            events.append(json.loads(socket.recv(60)))
    assert len({each["id"] for each in events}) == len(events)
    for at, event in enumerate(events):
        assert joined(list(resume(event["id"]))) == joined(events[at + 1 :]), event
    whole = list(resume("-1"))
    assert joined(whole) == joined(events)
    assert [event["chunk"]["runId"] for event in (whole[0], whole[-1])] == ["r1", "r1"]
    assert joined(list(waiting)) == joined(events[1:])
    with runs_at(chat) as socket:  # the same run again
        socket.send(run_of(chat, "r1"))
        again = [json.loads(socket.recv(60)) for _ in whole]
    assert again == whole
    asked = [
        each["id"]
        for each in chat.get("messages").document()["messages"]
        if each["role"] == "user"
    ]
    assert asked == ["r1"]


def test_a_run_that_is_asked_for_by_its_id_is_not_answered_by_an_older_stream(
    chat: Chat,
) -> None:
    older = [
        chat.bot.open(chat.here, chat.ann.user, text=f"old {number}")
        for number in range(4)
    ]
    chat.ask("New?", "r1").close()
    with runs_at(chat, runId="r1", offset="-1") as socket:
        newer = chat.bot.open(chat.there, chat.ann.user, text="new")
        assert chat.resume().until("start")[0]["messageId"] == newer
        for stream in (*older, newer):
            chat.bot.close(chat.there, stream)
        assert {event["id"].rpartition(":")[0] for event in map(json.loads, socket)} - {
            ""
        } == {newer}


def test_a_run_that_goes_on_is_a_message_of_its_socket(
    installed: dict[str, str], tmp_path: Path
) -> None:
    config = {**CONFIG, "limits": {"messages_per_second": 0.1}}
    with running(tmp_path, installed, 1, config) as servers:
        ann = User.register(servers[0], APP, key=KEY)
        chat = Chat(servers[0], servers[0], ann, Producer(ann.bot("slow_bot")))
        chat.ask("Tea?", "r1").close()
        with runs_at(chat, runId="r1", offset="-1") as socket:
            assert json.loads(socket.recv(60))["chunk"]["type"] == "RUN_STARTED"
            socket.send(json.dumps({"type": "abort", "runId": "r1"}))
            with pytest.raises(ConnectionClosedError):
                socket.recv(60)
            assert socket.close_code == 4003


def test_whether_an_answer_is_open_is_not_known_without_its_node(chat: Chat) -> None:
    if chat.here is chat.there:
        pytest.skip("one node")
    pause(chat.there.process.pid)
    try:
        assert chat.resume().status == 503
        with runs_at(chat) as socket:
            socket.send(json.dumps({"type": "resume", "requestId": "1", "id": chat.id}))
            assert json.loads(socket.recv(60))["type"] == "error"
    finally:
        os.kill(chat.there.process.pid, signal.SIGCONT)
    eventually(lambda: chat.resume().status == 204)


def test_a_run_that_is_refused(chat: Chat) -> None:
    eve = User.register(chat.here, APP, key=KEY)
    other = chat.ann.bot(f"bot{next(_names)}_bot")
    chat.ask("Tea?", "r1").close()
    stream = chat.bot.open(chat.there, chat.ann.user, text="secret")
    for query in (
        {"offset": f"{stream}:1", "token": eve.token},
        {"offset": "-1", "token": eve.token},
        {"offset": "-1", "token": ""},
        {"offset": "-1", "runId": "r2"},
        {"offset": "-1", "chat": other.user},
        {"offset": "-1", "chat": "tea"},
        *(
            {"offset": offset}
            for offset in (
                "",
                "-2",
                "1",
                f"{stream}:",
                f"{stream}:-1",
                f"{stream}:{'9' * 16}",
            )
        ),
    ):
        with runs_at(chat, **{"runId": "r1", **query}) as socket:
            assert json.loads(socket.recv(60))["type"] == "RUN_ERROR", query
            with pytest.raises(ConnectionClosedError):
                socket.recv(60)
            assert socket.close_code == 1008
    with runs_at(chat, token="wrong") as socket:
        socket.send(run_of(chat, "r2"))
        assert json.loads(socket.recv(60))["type"] == "RUN_ERROR"
    with runs_at(chat) as socket:
        socket.send(json.dumps({"threadId": chat.id, "messages": []}))
        with pytest.raises(ConnectionClosedError):
            socket.recv(60)
    assert [each["id"] for each in chat.get("messages").document()["messages"]] == [
        "r1"
    ]
    assert chat.ann.token not in chat.here.log_with_requests()  # the URL has it


def test_a_page_of_another_origin_may_ask(chat: Chat) -> None:
    for path in (
        "/ai-chat",
        "/ai-chat/ag-ui",
        f"/ai-chat/{chat.id}/stream",
        f"/ai-chat/{chat.id}/stop",
    ):
        connection = http.client.HTTPConnection(*chat.here.http, timeout=60)
        headers = {
            "Origin": "https://shop.example",
            "Access-Control-Request-Method": "POST",
        }
        connection.request("OPTIONS", path, headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (
            204,
            "*",
        ), path
        answer.read()
        connection.close()


def test_the_stream_of_a_producer_that_has_died_ends_as_interrupted(chat: Chat) -> None:
    stream = chat.bot.open(chat.there, chat.ann.user, text="half ")
    reader = chat.resume()
    chat.bot.bot.post("messages/stream/close", stream=stream, incomplete=True)
    end = list(reader)[-1]
    assert (end["finishReason"], end["messageMetadata"]["incomplete"]) == (
        "interrupted",
        True,
    )
    eventually(lambda: chat.resume().status == 204)


HERE = Path(__file__).parent


@pytest.mark.needs("node")
@pytest.mark.parametrize(
    "script",
    [
        "judges.test.mjs",
        *(
            pytest.param(each, marks=pytest.mark.full("programs"))
            for each in ("socket.test.mjs", "tanstack.test.mjs")
        ),
    ],
)
def test_the_judges_chat_with_a_bot(
    servers: tuple[Server, Server], project: Path, script: str
) -> None:
    here, there = servers
    ann = User.register(here, APP, key=KEY)
    bot = ann.bot(f"judge{next(_names)}_bot")
    users = {"chat": bot.user, "bot": {"token": bot.token, "user": ann.user}}
    place = {"url": here.http_url, "api": there.http_url, "token": ann.token, **users}
    for name in (script, "cutting.mjs"):
        shutil.copy(HERE / name, project)
    run_node(str(project / script), PLACE=json.dumps(place))


@pytest.mark.needs("tsc")
def test_the_types_of_the_package_are_those_of_the_ai_sdk(project: Path) -> None:
    shutil.copy(HERE / "consumer.ts", project)
    options = {"module": "nodenext", "target": "es2022", "types": []}
    options |= dict.fromkeys(("strict", "noEmit", "skipLibCheck"), True)
    config = {
        "compilerOptions": {**options, "lib": ["es2022", "dom"]},
        "files": ["consumer.ts"],
    }
    (project / "tsconfig.json").write_text(json.dumps(config), encoding="utf-8")
    (project / "package.json").write_text(
        '{"private": true, "type": "module"}', encoding="utf-8"
    )
    run([require("tsc"), "-p", str(project)])


def test_the_package_has_its_version_and_nothing_else() -> None:
    described = json.loads((PLUGIN / "npm" / "package.json").read_text("utf-8"))
    names = {path.name for path in (PLUGIN / "npm").iterdir()}
    assert names == {*described["files"], "package.json", "README.md", "LICENSE"}
    assert f'version = "{described["version"]}"' in (
        PLUGIN / "pyproject.toml"
    ).read_text("utf-8")


def place_of(servers: list[Server]) -> dict[str, Any]:
    """What a script has to know that kills nodes: Ann, her bot and the
    processes."""
    ann = User.register(servers[1], APP, key=KEY)
    bot = ann.bot("dying_bot")
    return {
        "urls": [each.http_url for each in servers],
        "processes": [each.process.pid for each in servers],
        "token": ann.token,
        "chat": bot.user,
        "bot": {"token": bot.token, "user": ann.user},
    }


@pytest.mark.needs("node")
def test_answers_survive_the_death_of_nodes(
    project: Path, installed: dict[str, str], tmp_path: Path
) -> None:
    quick = {**CONFIG, "cluster": {"lease_seconds": 6, "renew_seconds": 1}}
    with running(tmp_path, installed, 4, quick) as servers:
        shutil.copy(HERE / "killed.test.mjs", project)
        run_node(str(project / "killed.test.mjs"), PLACE=json.dumps(place_of(servers)))


@pytest.mark.needs("node")
def test_an_application_with_ag_ui_hears_that_its_node_has_died(
    project: Path, installed: dict[str, str], tmp_path: Path
) -> None:
    with running(tmp_path, installed, 2, CONFIG) as servers:
        shutil.copy(HERE / "killed_ag_ui.mjs", project)
        place = json.dumps(place_of(servers))
        run(
            [require("node"), *NODE_FLAGS, str(project / "killed_ag_ui.mjs")],
            PLACE=place,
        )


def test_the_guide_does_what_it_says(installed: dict[str, str], tmp_path: Path) -> None:
    guide = ROOT / "docs" / "guides" / "ai-chat.md"
    (settings,), (session,) = blocks(guide, "yaml"), blocks(guide, "console")
    with Server(
        tmp_path / "node", config=yaml.safe_load(settings.text), environment=installed
    ) as server:
        ann = User.register(server)
        bot = ann.bot("tea_bot")

        def answer() -> None:
            for event in messenger:
                if isinstance(event, Entry) and event.sender == ann.user:
                    stream = messenger.stream_open(
                        conversation=event.conversation
                    ).stream
                    messenger.stream_append(
                        [(stream, 1, "Yes, "), (stream, 2, "please.")]
                    )
                    messenger.stream_close(stream)

        with Messenger(
            server.ws_url, "gochat", bot.user, bot.token, cursor=None
        ) as messenger:
            thread = Thread(target=answer)
            thread.start()
            play_session(session, tmp_path, server, ANN=ann.token, BOT=bot.user)
        thread.join()


PRODUCTION = '--define:process.env.NODE_ENV="production"'
EXAMPLE = ROOT / "examples" / "ai-chat"
LAST = "li.assistant:nth-last-child(2)"


def text(page: Page) -> str:
    return "".join(page.texts(LAST))


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("AI_CHAT_PICTURES"):
        page.driver.save_screenshot(str(Path(folder, f"{name}.png")))


@pytest.fixture
def site(project: Path, tmp_path: Path) -> Path:
    require(*CHROMIUM)
    require(DRIVER)
    shutil.copy(EXAMPLE / "page.jsx", project)
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(EXAMPLE / "index.html", site)
    bundle(project / "page.jsx", site / "page.js", "--jsx=automatic", PRODUCTION)
    return site


def location(address: str, server: str, ann: User, bot: User) -> str:
    """Where the page of Ann is that talks with a bot at a server."""
    return f"{address}/index.html#{urlencode({'server': server, 'bot': bot.user, 'token': ann.token})}"


@pytest.mark.full("browser")
@pytest.mark.needs("node", "esbuild")
def test_a_page_with_use_chat(
    installed: dict[str, str], site: Path, tmp_path: Path
) -> None:
    with (
        running(tmp_path, installed, 2, CONFIG) as (first, second),
        serve_folder(site) as address,
    ):
        ann = User.register(first, APP, key=KEY)
        bot = ann.bot("tea_bot")
        producer = ExampleBot(
            second, "ai-chat", bot.token, tmp_path / "bot", APP, MODEL_SECONDS="0.1"
        )
        desktop = Browser(tmp_path / "desktop")
        phone = Browser(tmp_path / "phone")
        try:
            page, other = (
                browser.open(location(address, node.http_url, ann, bot))
                for browser, node in ((desktop, first), (phone, second))
            )
            page.resize(1280, 800)
            other.resize(390, 844)
            for each in (page, other):
                eventually(lambda each=each: each.shown("form"), what="the page")
            page.find("input").send_keys("Does tea help?\n")
            for each in (page, other):
                eventually(
                    lambda each=each: "You ask" in text(each),
                    what="the answer comes on both devices",
                )
            picture(page, "desktop-streaming")
            picture(other, "phone-streaming")
            page.driver.refresh()
            eventually(
                lambda: "You ask" in text(page), what="the answer after the reload"
            )
            whole = "You ask: “Does tea help?” " + " ".join(["Tea helps."] * 20)
            for each in (page, other):
                eventually(
                    lambda each=each: text(each).strip() == whole,
                    what="the whole answer, once",
                )
                assert len(each.texts("li.assistant")) == 1
                eventually(
                    lambda each=each: each.texts("form button") == ["Send"],
                    what="ready",
                )
            other.find("input").send_keys("And now?\n")
            eventually(
                lambda: "And now?" in text(page),
                what="the second answer on the first device",
            )
            page.click("button.stop")
            for each in (page, other):
                eventually(
                    lambda each=each: text(each).endswith("Stopped"),
                    what="stopped on both",
                )
                eventually(
                    lambda each=each: each.texts("form button") == ["Send"],
                    what="ready",
                )
            producer.wait_for("closed: ")
            for each, name in ((page, "desktop-stopped"), (other, "phone-stopped")):
                assert each.overflow <= 0
                picture(each, name)
            for each in (desktop, phone):
                assert not unexpected(each.complaints())
        finally:
            producer.kill()
            desktop.quit()
            phone.quit()


@pytest.mark.full("browser")
@pytest.mark.needs("node", "esbuild")
@pytest.mark.parametrize("hook", ["ai-sdk", "tanstack"])
def test_a_page_with_stock_hooks_goes_on_after_reloads(
    installed: dict[str, str], project: Path, tmp_path: Path, hook: str
) -> None:
    require(*CHROMIUM)
    require(DRIVER)
    shutil.copy(HERE / "stock_page.jsx", project)
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(EXAMPLE / "index.html", site)
    bundle(project / "stock_page.jsx", site / "page.js", "--jsx=automatic", PRODUCTION)
    with (
        running(tmp_path, installed, 2, CONFIG) as (here, there),
        serve_folder(site) as address,
    ):
        ann = User.register(here, APP, key=KEY)
        chat = Chat(here, there, ann, Producer(ann.bot("tea_bot")))
        browser = Browser(tmp_path / "browser")
        try:
            page = browser.open(
                f"{location(address, here.http_url, ann, chat.bot.bot)}&hook={hook}"
            )

            def shows(button: str, *answer: str) -> None:
                page.has("li.user", "Tea?")
                page.has("li.assistant", *answer)
                page.has("form button", button)

            page.write("input", "Tea?\n")
            eventually(
                lambda: chat.get("messages").document()["messages"],
                what="the question is stored",
            )
            if hook == "tanstack":  # its run goes on before there is an answer
                page.driver.refresh()
                shows("Busy")
            stream = chat.bot.open(there, ann.user, text="Yes,")
            shows("Busy", "Yes,")
            page.driver.refresh()
            shows("Busy", "Yes,")
            chat.bot.append(there, stream, " please ☕")
            shows("Busy", "Yes, please ☕")
            page.driver.refresh()
            shows("Busy", "Yes, please ☕")
            chat.bot.close(there, stream)
            shows("Send", "Yes, please ☕")
            page.driver.refresh()
            shows("Send", "Yes, please ☕")
            assert not unexpected(browser.complaints())
        finally:
            browser.quit()
