"""Messengers against a real server: what is sent is stored once, what is missed
comes."""

import asyncio
import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from time import monotonic
from typing import Any, TypeVar

import pytest
from websockets.sync.server import ServerConnection, serve

import imserver_client as im
from tests.conftest import StartServer
from tests.integration.receiver import Receiver, rejecting
from tests.support import Server
from tests.users import User

SECONDS = 40.0
QUICK = im.Backoff(0.01, 0.05)


Event = TypeVar("Event", im.Entry, im.Signal)


def next_of(messenger: im.Messenger, kind: type[Event]) -> Event:
    while True:
        event = messenger.receive(SECONDS)
        assert event is not None, "nothing came"
        if isinstance(event, kind):
            return event


def next_entry(messenger: im.Messenger) -> im.Entry:
    return next_of(messenger, im.Entry)


def next_signal(messenger: im.Messenger) -> im.Signal:
    return next_of(messenger, im.Signal)


def test_a_sent_message_is_stored_and_delivered(server: Server) -> None:
    with (
        im.Messenger(server.ws_url, "102", "ann1") as ann,
        im.Messenger(server.ws_url, "102", "bob1") as bob,
    ):
        sent = ann.send("bob1", "hello", mentions=["bob1"])
        entry = next_entry(bob)
        assert (entry.id, entry.conversation, entry.seq) == (
            sent.id,
            sent.conversation,
            sent.seq,
        )
        content = (entry.kind, entry.sender, entry.to, entry.type, entry.text)
        assert content == ("message", "ann1", "bob1", "text", "hello")
        assert entry.meta == {"mentions": ["bob1"]}
        answer = bob.send(
            conversation=entry.conversation,
            data={"url": "/p/1"},
            type="picture",
            reply_to=entry.id,
        )
        heard = next_entry(ann)
        assert (heard.id, heard.data, heard.type) == (
            answer.id,
            {"url": "/p/1"},
            "picture",
        )
        assert heard.about == sent.id
        assert bob.cursor == sent.id
        assert ann.cursor == answer.id
        assert ann.send("bob1", "hello!", client_msg_id="m-1").repeated is False
        assert ann.send("bob1", "hello!", client_msg_id="m-1").repeated is True


def test_everything_that_may_be_asked(server: Server) -> None:
    with im.Api(server.http_url) as api:
        api.create_app("9104", {"login_policy": "multi"})
    with (
        im.Messenger(server.ws_url, "9104", "ann4") as ann,
        im.Messenger(server.ws_url, "9104", "bob4", device="phone") as bob,
        im.Messenger(server.ws_url, "9104", "bob4", device="desk", cursor=None) as desk,
    ):
        sent = ann.send("bob4", "tea at five")
        entry = next_entry(bob)
        bob.received(entry.conversation, entry.id)
        assert next_signal(ann).received == entry.id
        bob.read(entry.conversation, entry.id)
        assert next_signal(ann).read == entry.id
        assert [
            (each.user, each.read) for each in ann.receipts(entry.conversation).receipts
        ] == [("bob4", entry.id)]
        bob.typing("ann4")
        typing = next_signal(ann)
        assert (typing.kind, typing.sender, typing.to) == ("typing", "bob4", "ann4")
        assert ann.react(sent.id, "+1").id == sent.id + 1
        assert ann.react(sent.id, "+1") == im.Annotation(sent.conversation)
        for one in (ann, bob):
            reaction = next_entry(one)
            assert (reaction.kind, reaction.type, reaction.text) == (
                "reaction",
                "add",
                "+1",
            )
            assert (reaction.about, reaction.meta) == (sent.id, {"count": 1})
        ann.pin(sent.id)
        assert [next_entry(one).kind for one in (ann, bob)] == ["pin", "pin"]
        (pinned,) = ann.pins(sent.conversation).messages
        assert (pinned.id, pinned.reactions) == (
            sent.id,
            (im.Reaction("+1", 1, ("ann4",), True),),
        )
        copy = bob.forward(sent.id, "cid4")
        (copied,) = bob.history(copy.conversation, after=0).messages
        assert copied.meta == {"forwarded": {"from": "ann4", "id": sent.id}}
        assert bob.history(sent.conversation, types=["picture"]).messages == ()
        assert ann.edit(sent.id, "tea at six").conversation == sent.conversation
        edited = next_entry(bob)
        assert (edited.kind, edited.about, edited.text) == (
            "edit",
            sent.id,
            "tea at six",
        )
        chat, _forwarded = bob.conversations().conversations
        assert (chat.peer, chat.read) == ("ann4", entry.id)
        assert sent.id in [each.id for each in bob.history(entry.conversation).messages]
        assert sent.id in [each.id for each in bob.search("TEA").messages]
        assert sent.id in [
            each.id
            for each in bob.search("", sender="ann4", types=["text"], since=1).messages
        ]
        assert (
            bob.search("TEA", link=True).messages
            == bob.search("TEA", until=1).messages
            == ()
        )
        ann.recall(sent.id)
        recalled = next_entry(bob)
        assert (recalled.kind, recalled.about) == ("recall", sent.id)
        bob.hide([recalled.id])
        event = next_signal(desk)
        while event.kind != "hidden":
            event = next_signal(desk)
        assert event.ids == (recalled.id,)
        assert recalled.id in bob.marks().hidden
        draft = im.UnsentText("tea @Ann", sent.id, (im.DraftMention("Ann", "ann4"),))
        arrangement = bob.arrange(sent.conversation, pinned=5, draft=draft)
        assert arrangement == im.Arrangement(
            conversation=sent.conversation, version=1, pinned=5, draft=draft
        )
        assert desk.receive(SECONDS) == arrangement
        assert bob.arrangements().arrangements == (arrangement,)
        wished = {
            "app": "9104",
            "user": "bob4",
            "conversation": sent.conversation,
            "mute_until": 9,
        }
        im.Api(server.http_url).call("POST", "notifications/conversations", wished)
        wish = im.ConversationWish(conversation=sent.conversation, mute_until=9)
        assert desk.receive(SECONDS) == wish
        assert (
            bob.arrange(sent.conversation, archived=9, draft=im.UnsentText()).draft
            is None
        )
        desk.receive(SECONDS)
        folders = bob.set_folders([im.Folder(7, "Team")])
        assert (
            desk.receive(SECONDS)
            == folders
            == im.FolderList(3, (im.Folder(7, "Team"),))
        )
        assert bob.arrangements(2).folders == folders
        assert bob.arrange(sent.conversation, folders=[7]).folders == (7,)


def test_a_thread_beside_its_conversation(server: Server) -> None:
    with im.Api(server.http_url) as api:
        api.create_app("9106", {"login_policy": "multi"})
    with (
        im.Messenger(server.ws_url, "9106", "ann6") as ann,
        im.Messenger(server.ws_url, "9106", "bob6", device="phone") as bob,
        im.Messenger(server.ws_url, "9106", "bob6", device="desk", cursor=None) as desk,
    ):
        root = ann.send("bob6", "tea?")
        reply = bob.send(conversation=root.conversation, text="yes", thread=root.id)
        both = ann.send(
            conversation=root.conversation, text="now", thread=reply.id, also=True
        )
        shown = [next_entry(bob), next_entry(ann), next_entry(bob)]
        assert [
            (entry.id, entry.thread, entry.is_beside, entry.about) for entry in shown
        ] == [
            (root.id, 0, False, 0),
            (reply.id, root.id, True, root.id),
            (both.id, root.id, False, root.id),
        ]
        page = bob.thread(root.id, limit=1)
        assert ([entry.id for entry in page.messages], page.more, page.before) == (
            [both.id],
            True,
            both.id,
        )
        assert [entry.id for entry in bob.thread(root.id, page.before).messages] == [
            reply.id
        ]
        (thread,) = bob.threads().threads
        assert (thread.thread, thread.last, thread.unread, thread.follows) == (
            root.id,
            both.id,
            1,
            True,
        )
        assert thread.message is not None
        assert thread.message.meta["replies"]["count"] == 2
        assert bob.read_thread(root.id, both.id).unread == 0
        mark = im.ThreadMark(
            thread=root.id,
            conversation=root.conversation,
            last=both.id,
            read=both.id,
            follows=True,
        )
        while (event := desk.receive(SECONDS)) != mark:
            assert event is not None
        assert not bob.follow_thread(root.id, remove=True).follows
        assert bob.threads().threads == ()
        with pytest.raises(im.CommandRefused):
            ann.send("bob6", "to nothing", thread=10**9)


def test_the_error_of_a_rejected_message_says_why(start_server: StartServer) -> None:
    with Receiver() as receiver:
        receiver.reply = rejecting
        server = start_server(
            config={"apps": {"shop": {"open": True, "webhook": receiver.reviewing}}}
        )
        with (
            im.Messenger(server.ws_url, "shop", "ann") as ann,
            pytest.raises(im.CommandRefused) as caught,
        ):
            ann.send("bob", "buy now")
    assert (caught.value.code, caught.value.reason) == (1003, "No advertising")
    assert (
        str(caught.value)
        == "send refused: 1003 the back end rejected the message: No advertising"
    )
    assert caught.value.remedy == "Change the message."


def test_a_message_that_is_too_large_is_not_sent_again_and_others_are(
    server: Server,
) -> None:
    async def send() -> None:
        async with im.AsyncMessenger(server.ws_url, "102", "ann9") as ann:
            with pytest.raises(im.Closed) as caught:
                await ann.send("bob9", "x" * 70_000)
            assert caught.value.code == 1009
            assert (await ann.send("bob9", "short")).seq == 2

    with im.Messenger(server.ws_url, "102", "ann9", backoff=QUICK) as ann:
        with pytest.raises(
            im.Closed, match="1009 a message is larger than the server allows"
        ):
            ann.send("bob9", "x" * 70_000)
        assert ann.send("bob9", "short").seq == 1
    asyncio.run(send())


@pytest.mark.parametrize(
    "given",
    [
        {"to": "bob", "conversation": 1},
        {},
        {"to": "bob", "text": None},
        {"to": "bob", "data": 1},
    ],
)
def test_invalid_arguments_are_not_sent(given: dict[str, Any]) -> None:
    messenger = im.Messenger("ws://127.0.0.1:9/acc", "102", "ann")
    with pytest.raises(ValueError, match="either"):
        messenger.send(**{"text": "x", **given})


@pytest.mark.parametrize(
    "small_queue", [{"MAX_WAITING": 2, "PAGE_ENTRIES": 20}], indirect=True
)
@pytest.mark.usefixtures("small_queue")
def test_a_loop_that_makes_requests_goes_on_behind_a_backlog(server: Server) -> None:
    count = 210  # more than a login brings by itself
    with im.Messenger(server.ws_url, "102", "ann7") as sender:
        known = sender.send("bob7", "known", timeout_seconds=SECONDS)
        for number in range(count):
            sender.send("bob7", str(number), timeout_seconds=SECONDS)
    texts: list[str | None] = []
    with im.Messenger(server.ws_url, "102", "bob7", cursor=known.id) as one:
        while len(texts) < count:
            entry = next_entry(one)
            texts.append(entry.text)
            one.read(entry.conversation, entry.id)
    assert texts == [str(number) for number in range(count)]

    async def receive() -> None:
        async with im.AsyncMessenger(
            server.ws_url, "102", "bob7", cursor=known.id
        ) as one:
            async for entry in one:
                if isinstance(entry, im.Entry) and entry.sender == "ann7":
                    assert entry.text == texts.pop(0)
                    await one.send("ann7", "got it")
                    if not texts:
                        return

    asyncio.run(receive())


@contextmanager
def scripted(
    answer: Callable[[int, dict[str, Any], ServerConnection], object],
) -> Iterator[str]:
    """A server that accepts all logins, and answers other commands with what
    ``answer`` returns, if it is not None, for the number of the connection, the
    command, and the connection. Its address."""
    numbers = count()

    def handle(connection: ServerConnection) -> None:
        number = next(numbers)
        for frame in connection:
            request = json.loads(frame)
            login = request["cmd"] == "login"
            data = {"recovered": True} if login else answer(number, request, connection)
            if data is not None:
                head = {"seq": request["seq"], "cmd": request["cmd"]}
                connection.send(
                    json.dumps({**head, "response": {"code": 200, "data": data}})
                )

    options: dict[str, Any] = {
        "max_queue": 1,
        "ping_interval": None,
        "close_timeout": 1,
    }
    with serve(handle, "127.0.0.1", 0, **options) as listening:
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listening.socket.getsockname()[1]}/acc"
        finally:
            listening.shutdown()
            thread.join(SECONDS)


STORED = {"id": 1, "conversation": 1, "seq": 1}


@pytest.mark.usefixtures("impatient")
def test_a_message_without_an_answer_is_sent_over_another_connection() -> None:
    silent: list[int] = []

    def answer(
        number: int, request: dict[str, Any], connection: ServerConnection
    ) -> object:
        if not silent:
            silent.append(number)
        return None if number in silent else STORED

    begun = monotonic()

    async def send(url: str) -> int:
        async with im.AsyncMessenger(url, "101", "ann", backoff=QUICK) as ann:
            return (await ann.send("bob", "hello", timeout_seconds=SECONDS)).id

    with scripted(answer) as url:
        with im.Messenger(url, "101", "ann", backoff=QUICK) as ann:
            assert ann.send("bob", "hello", timeout_seconds=SECONDS).id == 1
        silent.clear()
        assert asyncio.run(send(url)) == 1
    assert monotonic() - begun < 10, "the next regular heartbeat is later"


@pytest.fixture(params=[False, True], ids=["answer", "close"])
def closed(request: pytest.FixtureRequest) -> bool:
    """Whether a session is closed, or waits for an answer and is impatient."""
    if not request.param:
        request.getfixturevalue("impatient")
    return bool(request.param)


@contextmanager
def reading_nothing() -> Iterator[str]:
    """The address of a server that reads no command of its first connection;
    all must end in ten seconds."""
    go_on = threading.Event()
    begun = monotonic()

    def answer(
        number: int, request: dict[str, Any], connection: ServerConnection
    ) -> object:
        if number == 0:
            go_on.wait(SECONDS)
        return STORED

    with scripted(answer) as url:
        yield url
        assert monotonic() - begun < 10
        go_on.set()


def test_a_blocked_write_keeps_no_session_from_its_end(closed: bool) -> None:
    lost = threading.Event()

    def on_state(state: str) -> None:
        if state == "waiting":
            lost.set()

    def fill() -> None:
        while ann.state == "online" and not lost.is_set():
            with suppress(im.NotConnected):
                ann.request("send", {"text": "x" * 900_000}, 0.0)
            written.put(None)

    written: queue.Queue[None] = queue.Queue()
    with (
        reading_nothing() as url,
        im.Messenger(url, "101", "ann", backoff=QUICK, on_state=on_state) as ann,
    ):
        filling = threading.Thread(target=fill)
        filling.start()
        with suppress(queue.Empty):
            while True:
                written.get(timeout=0.3)
        if closed:
            ann.close()
        else:
            assert ann.send("bob", "hello", timeout_seconds=SECONDS).id == 1
        filling.join(SECONDS)


def test_a_blocked_write_of_asyncio_keeps_no_session(closed: bool) -> None:
    async def run(url: str) -> None:
        ended = asyncio.Event()

        def on_state(state: str) -> None:
            if state == "ended":
                ended.set()

        async with im.AsyncMessenger(
            url, "101", "ann", backoff=QUICK, on_state=on_state
        ) as ann:
            for _ in range(30):
                with pytest.raises(im.NotConnected):
                    await ann.request("send", {"text": "x" * 900_000}, 0.01)
            if closed:
                with suppress(TimeoutError):
                    await asyncio.wait_for(ann.close(), 0.1)
                await ended.wait()  # although its close was given up
            else:
                assert (await ann.send("bob", "hello", timeout_seconds=SECONDS)).id == 1

    with reading_nothing() as url:
        asyncio.run(run(url))


def test_asyncio_sends_messages_in_order_over_a_reconnect() -> None:
    texts: list[str] = []

    def answer(
        number: int, request: dict[str, Any], connection: ServerConnection
    ) -> object:
        if number == 0:
            if request["data"]["text"] == "9":
                connection.close(1001)
            return None
        texts.append(request["data"]["text"])
        return STORED

    async def send(url: str) -> None:
        sending: list[asyncio.Task[Any]] = []

        def on_state(state: str) -> None:
            if state == "waiting":
                sending.extend(
                    asyncio.create_task(ann.send("bob", str(n))) for n in range(10, 15)
                )

        async with im.AsyncMessenger(
            url, "101", "ann", backoff=QUICK, on_state=on_state
        ) as ann:
            await asyncio.gather(
                *(ann.send("bob", str(number)) for number in range(10))
            )
            await asyncio.gather(*sending)

    with scripted(answer) as url:
        asyncio.run(send(url))
    assert texts == [str(number) for number in range(15)]


def test_no_more_commands_of_asyncio_wait_for_an_answer_than_a_connection_may_have() -> (
    None
):
    texts: dict[int, list[int]] = {0: [], 1: []}
    late: list[im.NotConnected] = []

    def answer(
        number: int, request: dict[str, Any], connection: ServerConnection
    ) -> object:
        texts[number].append(int(request["data"]["text"]))
        if texts[number][-1] == 199 and number == 0:
            threading.Timer(0.5, connection.close, (1001,)).start()
        return None if number == 0 else STORED

    async def send_late(ann: im.AsyncMessenger) -> None:
        with pytest.raises(im.NotConnected, match="no answer") as caught:
            await ann.send("bob", "300", timeout_seconds=0.1)
        late.append(caught.value)

    async def send(url: str) -> None:
        async with im.AsyncMessenger(url, "101", "ann", backoff=QUICK) as ann:
            sending = [ann.send("bob", str(number)) for number in range(230)]
            await asyncio.gather(*sending, send_late(ann))

    with scripted(answer) as url:
        asyncio.run(send(url))
    assert (len(texts[0]), texts[1], len(late)) == (200, list(range(230)), 1)


def test_a_question_is_answered_once_and_bots_have_commands_buttons_and_streams(
    server: Server,
) -> None:
    person, other = (
        User.register(server, name=f"{name}-asks") for name in ("ann", "bob")
    )
    options = [{"text": "Yes", "value": "yes"}, {"text": "No", "value": "no"}]
    with (
        im.Messenger(server.ws_url, "gochat", person.user, person.token) as ann,
        im.Messenger(server.ws_url, "gochat", other.user, other.token) as bob,
    ):
        id = person.post("asks/create", to=other.user, text="Tea?", options=options)[
            "id"
        ]
        question = next_entry(bob)
        assert question.id == next_entry(ann).id == id
        assert question.ask is not None
        assert [each.value for each in question.ask.options] == ["yes", "no"]
        answer = bob.answer(id, "yes")
        entry = next_entry(ann)
        assert (entry.id, entry.kind, entry.type) == (answer.id, "press", "answer")
        assert (entry.about, entry.text) == (id, "yes")
        assert bob.answer(id, "yes").ask == answer.ask
        with pytest.raises(im.CommandRefused) as caught:
            bob.answer(id, "no")
        assert caught.value.refused == "answered"
    person = User.register(server, name="botuser")
    helper = person.bot("helper")
    helper.post("bots/commands", commands=[{"name": "ask", "description": "Ask"}])
    with (
        im.Messenger(server.ws_url, "gochat", person.user, person.token) as ann,
        im.Messenger(server.ws_url, "gochat", helper.user, helper.token) as bot,
    ):
        sent = ann.send(helper.user, "/ask the way")
        assert next_entry(bot).command == im.SlashCommand(helper.user, "ask", "the way")
        (command,) = ann.bot_commands(sent.conversation).commands
        assert (command.bot, command.command) == (helper.user, "ask")
        buttons = [[im.Button("Yes", "y"), im.Button("No", "n")]]
        question = bot.send(person.user, "Sure?", buttons=buttons)
        assert next_entry(ann).buttons == tuple(map(tuple, buttons))
        pressed = ann.press(question.id, "y")
        entry = next_entry(bot)
        assert (entry.id, entry.kind, entry.about, entry.text) == (
            pressed.id,
            "press",
            question.id,
            "y",
        )
        bot.edit(question.id, "Good", buttons=[buttons[0][:1]])
        assert next_entry(ann).buttons == ((im.Button("Yes", "y"),),)
        with pytest.raises(im.CommandRefused) as caught:
            ann.stream_open(helper.user)
        assert caught.value.refused == "not_bot"
        stream = bot.stream_open(person.user, text="Left").stream
        (result,) = bot.stream_append([(stream, 1, ", then right")]).results
        assert (result.status, result.piece) == ("appended", 1)
        first = next_signal(ann)
        second = next_signal(ann)
        assert (first.kind, first.stream, first.text, first.whole) == (
            "piece",
            stream,
            "Left",
            True,
        )
        assert (second.piece, second.text, second.whole) == (1, ", then right", False)
        closed = bot.stream_close(stream)
        entry = next_entry(ann)
        assert (entry.id, entry.client_msg_id, entry.text) == (
            closed.id,
            stream,
            "Left, then right",
        )
