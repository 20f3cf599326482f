"""The JSON beside a stored message or another entry: its ``meta``."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final, Literal

import msgspec
from msgspec import Struct

from imserver.gateway.config.declared import about


class AskOption(Struct, frozen=True):
    """An option of a question: what it shows, and its value."""

    text: str
    value: str


class AskAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An answer to a question. An erased user's free text is gone."""

    user: Annotated[str, about("Who has answered.")]
    value: Annotated[str, about("The value of an option.")] = ""
    text: Annotated[str, about("A free text.")] = ""
    time: Annotated[int, about("When it came, in Unix milliseconds.")]


AskState = Literal["", "answered", "cancelled", "expired"]


class Ask(Struct, frozen=True, omit_defaults=True):
    """What makes a message a question: ``ask`` in its ``meta``.

    ``options``: the answers to choose from. ``text``: free text is an answer,
    too. ``of``: who may answer; None: every reader but the author. ``need``: so
    many different users answer before it is closed. ``until``: its deadline in
    Unix milliseconds (0: none). ``state`` ``""``: it is open. ``answers``:
    those that count, in their order. ``poll``: every reader votes, and may
    change that until it is closed; ``of`` is empty then, so that nodes and
    clients that know no polls let nobody answer. ``mine``: the options that the
    reader has chosen, by their index; None: nobody has looked. ``fixed``: the
    text is never edited, since an answer permits what it says.
    """

    class Poll(Struct, frozen=True, omit_defaults=True):
        """What makes a question a poll, with the totals of the last count."""

        MOST_OPTIONS: ClassVar[int] = 12

        many: Annotated[bool, about("Whether users may choose several options.")] = (
            False
        )
        anonymous: Annotated[
            bool, about("Whether nobody sees who has voted for what.")
        ] = False
        voters: Annotated[int, about("How many users have voted.")] = 0
        counts: Annotated[tuple[int, ...], about("The votes for each option.")] = ()
        users: Annotated[
            tuple[tuple[str, ...], ...],
            about(
                "For each option at most 3 users, those who chose it last. Not in an anonymous poll."
            ),
        ] = ()
        time: Annotated[
            int, about("When the votes were counted, in Unix milliseconds.")
        ] = 0

    options: tuple[AskOption, ...] = ()
    text: bool = False
    of: tuple[str, ...] | None = None
    need: int = 1
    until: int = 0
    state: AskState = ""
    answers: tuple[AskAnswer, ...] = ()
    poll: Poll | None = None
    mine: tuple[int, ...] | None = None
    fixed: bool = False

    @property
    def count(self) -> int:
        """How many users have answered, or voted."""
        return len(self.answers) if self.poll is None else self.poll.voters

    def answer_of(self, user: str) -> AskAnswer | None:
        """The answer of a user, if it counts."""
        return next((each for each in self.answers if each.user == user), None)

    def may_answer(self, user: str) -> bool:
        """Whether a receiver of the message may answer it now."""
        return (
            not self.state
            and self.answer_of(user) is None
            and (self.of is None or user in self.of)
        )


def ask_in(meta: bytes) -> Ask | None:
    """The question of a message with this ``meta``; None: it is none."""
    if b'"ask":' not in meta:
        return None
    try:
        return _decode_ask(meta).ask
    except (ValueError, RecursionError):
        return None


class _WithAsk(Struct):
    ask: Ask | None = None


_decode_ask: Final = msgspec.json.Decoder(_WithAsk).decode


class InThread(Struct, frozen=True):
    """Which thread a reply is in (0: in none), and whether its conversation
    shows it, too."""

    thread: int = 0
    also: bool = False


NOT_IN_THREAD: Final = InThread()
_decode_thread: Final = msgspec.json.Decoder(InThread).decode


def in_thread(meta: bytes) -> InThread:
    """The thread of a message with this ``meta``."""
    if b'"thread":' not in meta:
        return NOT_IN_THREAD
    try:
        return _decode_thread(meta)
    except (ValueError, RecursionError):
        return NOT_IN_THREAD
