"""The bots of examples/ do what their guide says, with the Python client in
place of a page."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from imserver_client import Entry, Messenger, Signal
from tests.bots import ExampleBot, LanguageModel
from tests.docs.markdown import blocks
from tests.support import ROOT, Server
from tests.users import User

GUIDE = ROOT / "docs" / "guides" / "bots.md"
EXAMPLES = ROOT / "examples"
BUTTONS = ["Louder", "Enough"]
_names = count(1)


def test_the_program_of_the_guide_is_the_example() -> None:
    (block,) = (
        block for block in blocks(GUIDE, "python") if block.words == ("bot.py",)
    )
    assert block.text == (EXAMPLES / "echo-bot" / "bot.py").read_text(encoding="utf-8")


class Conversation:
    """An account with a bot, and the conversation of the two."""

    def __init__(self, server: Server) -> None:
        number = next(_names)
        self.owner = User.register(server, login=f"owner{number}.bots", nickname="Ann")
        bot = self.owner.bot(f"robo{number}", nickname="Robo")
        self.user, self.bot, self.token = self.owner.user, bot.user, bot.token
        address = f"ws://{server.http.host}:{server.http.port}/acc"
        self.messenger = Messenger(address, "gochat", self.user, self.owner.token)

    def say(self, text: str) -> int:
        return self.messenger.send(self.bot, text).id

    def friends(self, change: str) -> None:
        """``block`` or ``unblock`` the bot."""
        self.owner.post(f"friends/{change}", friend=self.bot)

    def entry(self, kind: str) -> Entry:
        """The next entry of the bot."""
        while True:
            event = self.messenger.receive(60)
            assert event is not None, f"no {kind}"
            if isinstance(event, Entry) and event.sender == self.bot:
                assert event.kind == kind, event
                return event

    def piece(self) -> Signal:
        """The next piece of an answer."""
        while True:
            event = self.messenger.receive(60)
            assert event is not None, "no piece"
            if isinstance(event, Signal) and event.kind == "piece":
                return event


@contextmanager
def person(server: Server) -> Iterator[Conversation]:
    one = Conversation(server)
    with one.messenger:
        yield one


def test_the_echo_bot_answers_once_and_edits_when_a_button_is_pressed(
    server: Server, tmp_path: Path
) -> None:
    with person(server) as ann:
        bot = ExampleBot(server, "echo-bot", ann.token, tmp_path)
        output = ann.say("/echo tea")
        answer = ann.entry("message")
        assert (answer.text, answer.about) == ("You said: tea", output)
        assert [button.text for button in answer.buttons[0]] == BUTTONS
        bot.kill()
        ann.say("are you there?")
        ann.messenger.press(answer.id, answer.buttons[0][0].value)
        bot.start()
        assert ann.entry("message").text == "You said: are you there?"
        edit = ann.entry("edit")
        assert (edit.about, edit.text, edit.buttons) == (answer.id, "YOU SAID: TEA", ())
        ann.friends("block")
        refused = ann.say("does this end you?")
        bot.wait_for(f"entry {refused}: ")
        ann.friends("unblock")
        ann.say("still there?")
        assert ann.entry("message").text == "You said: still there?"
        bot.kill()


@pytest.mark.full("programs")
def test_the_reminder_bot_reminds(server: Server, tmp_path: Path) -> None:
    with person(server) as ann:
        bot = ExampleBot(server, "reminder-bot", ann.token, tmp_path)
        ann.say("/remind tea")
        assert "/remind 10m tea" in (ann.entry("message").text or "")
        ann.say("/remind 1s tea")
        assert ann.entry("message").text == "I will remind you in 1 s."
        due = ann.entry("message")
        assert (due.text, due.meta["mentions"]) == ("⏰ tea", [ann.user])
        bot.kill()
        ann.messenger.press(due.id, "snooze")
        bot.start()
        assert ann.entry("edit").text == "⏰ tea (snooze)"
        ann.say("/list")
        assert (ann.entry("message").text or "").endswith(" min: tea")
        ann.friends("block")
        command = ann.say("/remind 1s milk")
        bot.wait_for(f"entry {command}: ")
        bot.wait_for(f"reminder {command}: ")
        ann.friends("unblock")
        ann.say("/list")
        assert (ann.entry("message").text or "").endswith(" min: tea"), (
            "the other one is left out"
        )
        bot.kill()


@pytest.fixture
def model() -> Iterator[LanguageModel]:
    model = LanguageModel(["Tea ", "is ", "ready."])
    yield model
    model.stop()


@pytest.mark.full("programs")
def test_the_answers_of_a_language_model_are_streamed(
    server: Server, model: LanguageModel, tmp_path: Path
) -> None:
    with person(server) as ann:
        bot = ExampleBot(server, "llm-bot", ann.token, tmp_path, LLM_URL=model.url)
        ann.say("/ask Is the tea ready?")
        text = ""
        while text != "Tea is ":
            text += (piece := ann.piece()).text
        model.gate.set()
        answer = ann.entry("message")
        assert (answer.text, answer.client_msg_id) == ("Tea is ready.", piece.stream)
        assert model.requests[0]["messages"][-1] == {
            "role": "user",
            "content": "Is the tea ready?",
        }
        model.breaks_after = 2
        ann.say("And now?")
        answer = ann.entry("message")
        assert (answer.text, answer.meta["incomplete"]) == ("Tea is ", True)
        assert "does not answer" in (ann.entry("message").text or "")
        roles = [each["role"] for each in model.requests[1]["messages"]]
        assert roles == ["system", "user", "assistant", "user"]
        model.breaks_after = None
        model.gate.clear()
        ann.say("A long story, please")
        while (piece := ann.piece()).text != "is ":
            pass
        assert ann.messenger.stream_stop(piece.stream).status == "closed"
        assert ann.entry("message").meta["stopped"] == ann.user
        model.gate.set()
        ann.say("Another one")
        assert ann.entry("message").text == "Tea is ready."
        bot.kill()
