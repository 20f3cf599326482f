"""The wire of chats: questions, answers, resumption and stop."""

import http.client
import itertools
import json
import time
from typing import NamedTuple

import pytest
from conftest import APP, KEY, Chunk, Producer, Reader, message, said

from tests.support import Server, eventually
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
    assert (whole[0]["messageId"], said(whole), whole[-1]["type"]) == (stream, "Yes, please", "finish")
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
    assert (end["finishReason"], end["messageMetadata"]["stopped"]) == ("interrupted", chat.ann.user)
    assert Reader(chat.here, chat.ann.token, f"/{chat.id}/stop", {}).document() == {"stopped": 0}


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
    assert (chunks, time.monotonic() - asked < 15) == (
        [{"type": "error", "errorText": "the bot does not answer"}],
        True,
    )


def lines(*chunks: Chunk) -> str:
    return "".join([json.dumps(chunk) + "\n" for chunk in chunks])


def test_parts_other_than_text_are_chunks_of_the_producer(chat: Chat) -> None:
    parts: list[Chunk] = [
        {"type": "reasoning-start", "id": "r"},
        {"type": "reasoning-delta", "id": "r", "delta": "Hm."},
        {"type": "reasoning-end", "id": "r"},
        {"type": "tool-input-available", "toolCallId": "c", "toolName": "kettle", "input": {"cups": 2}},
        {"type": "tool-output-available", "toolCallId": "c", "output": {"hot": True}},
        {"type": "data-cups", "data": 2},
        {"type": "text-start", "id": "t"},
        {"type": "text-delta", "id": "t", "delta": "Ready"},
        {"type": "text-end", "id": "t"},
    ]
    stream = chat.bot.open(chat.there, chat.ann.user, type="ai_chat", text=lines(parts[0]))
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
    assert found["parts"] == [{"type": "text", "text": "Ready"}, {"type": "data-cups", "data": 2}]


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
        int(chat.ann.get("groups/list")["groups"][0]["conversation"]) if not group.isdecimal() else int(group)
    )
    here = f"{chat.id}-{number}"
    reader = chat.ask("@all Tea?", "m1", here)
    assert reader.status == 200, reader.document()
    other = chat.bot.open(chat.there, chat.ann.user, text="elsewhere")
    stream = chat.bot.open(chat.there, conversation=number, text="Yes")
    chat.bot.close(chat.there, other)
    chat.bot.close(chat.there, stream)
    assert said(list(reader)) == "Yes"
    eve = User.register(chat.here, APP, key=KEY)
    for path, body in ((f"/{here}/stream", None), (f"/{here}/messages", None), (f"/{here}/stop", {})):
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
    assert ask(message(chat.ann.user, "A person?", "m1")) == chat.resume("?wait=1", "999999999").status == 404
    file = {"type": "file", "mediaType": "image/png", "url": "data:,x"}
    assert ask({**good, "messages": [{"id": "m", "role": "user", "parts": [file]}]}) == 400
    assert chat.get("messages").document() == {"messages": [], "before": 0}


def test_a_page_of_another_origin_may_ask(chat: Chat) -> None:
    for path in ("/ai-chat", "/ai-chat/ag-ui", f"/ai-chat/{chat.id}/stream", f"/ai-chat/{chat.id}/stop"):
        connection = http.client.HTTPConnection(*chat.here.http, timeout=60)
        headers = {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"}
        connection.request("OPTIONS", path, headers=headers)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (204, "*"), path
        answer.read()
        connection.close()


def test_the_stream_of_a_producer_that_has_died_ends_as_interrupted(chat: Chat) -> None:
    stream = chat.bot.open(chat.there, chat.ann.user, text="half ")
    reader = chat.resume()
    chat.bot.bot.post("messages/stream/close", stream=stream, incomplete=True)
    end = list(reader)[-1]
    assert (end["finishReason"], end["messageMetadata"]["incomplete"]) == ("interrupted", True)
    eventually(lambda: chat.resume().status == 204)
