"""A history as the checker reads it: who sent what when, what everybody was
shown, and what else was done.

``checker/README.md`` has the format. A conversation is named by its members or
its group, since a dialect may leave out its number; a place is the ``seq`` of
an entry.
"""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

from bench.chat_dialects import Entry, text_of
from bench.figures import Figures
from checker.cli import check
from checker.history import read

FIRST_OF_DRIVER: Final = 1 << 30
"""The first number of an operation of the process that breaks things; marks of
messages are greater."""
MOST_TEXTS: Final = 20


class History:
    """Writes events to a file, from any thread. ``first``: number of the first
    operation without a mark."""

    def __init__(self, file: Path, first: int = 1) -> None:
        self._file = file.open("w", encoding="utf-8")
        self._conversations: dict[int, str] = {}
        """The mark of a message → its conversation."""
        self._names: dict[int, str] = {}
        """The number of a conversation → its name; known as soon as one of its
        messages has arrived."""
        self._numbers = count(first)
        self._lock = threading.Lock()

    def close(self) -> None:
        self._file.close()

    def sent(self, client: str, mark: int, conversation: str) -> None:
        """A client sends a message, and will send it again until it is
        acknowledged."""
        self._conversations[mark] = conversation
        self._write(
            "ask",
            number=mark,
            client=client,
            name="send",
            object=conversation,
            message=text_of(mark),
        )

    def acknowledged(self, entry: Entry) -> None:
        """The message of an entry is acknowledged for the first time."""
        self.answered(entry.mark, **({"place": entry.seq} if entry.seq else {}))

    def shown(self, client: str, entry: Entry) -> None:
        """A client has received an entry that it did not have. Entries that are
        no messages are left out until a message has told the name of their
        conversation."""
        conversation = self._name(entry)
        if conversation is not None:
            self.saw(client, conversation, _message(entry), entry.seq or None)

    def read(self, client: str, began: float, entries: list[Entry]) -> None:
        """A client has read all its conversations from the beginning to the
        end. ``began``: monotonic."""
        rows: dict[str, list[tuple[int, str | None]]] = defaultdict(list)
        for entry in entries:
            self._name(entry)
        for entry in entries:
            conversation = self._name(entry)
            if conversation is not None:
                rows[conversation].append((entry.seq, _message(entry)))
        for conversation, messages in rows.items():
            number = self.ask(client, "read", conversation, at=began, whole=True)
            self.answered(number, messages=messages)

    def saw(
        self,
        client: str,
        object: str,
        message: str | None,
        seq: int | None = None,
        **at: Any,
    ) -> None:
        """A client was shown a message of a conversation. ``at`` is now, if it
        is not given."""
        where = {} if seq is None else {"place": seq}
        self._write("see", client=client, object=object, message=message, **where, **at)

    def followed(self, client: str, conversation: str) -> None:
        """The client followed the conversation until all was quiet."""
        self._write("followed", client=client, object=conversation)

    def ask(self, client: str, name: str, object: str, **more: Any) -> int:
        """A client asks for an operation. Returns its number. ``at`` is now, if
        it is not given."""
        with self._lock:
            number = next(self._numbers)
        self._write(
            "ask", number=number, client=client, name=name, object=object, **more
        )
        return number

    def answered(self, number: int, **answer: Any) -> None:
        """An operation has happened."""
        self._write("ok", number=number, **answer)

    def refused(self, number: int) -> None:
        """An operation has not happened."""
        self._write("fail", number=number)

    def _name(self, entry: Entry) -> str | None:
        if not entry.mark:
            return self._names.get(entry.conversation)
        name = self._conversations.get(entry.mark, "unknown")
        if entry.conversation:
            self._names.setdefault(entry.conversation, name)
        return name

    def _write(self, event: str, **fields: Any) -> None:
        line = json.dumps({"event": event, "at": time.monotonic(), **fields}) + "\n"
        with self._lock:
            self._file.write(line)


def _message(entry: Entry) -> str | None:
    return text_of(entry.mark) if entry.mark else None


def judge(*parts: Iterable[str]) -> tuple[Figures, list[str]]:
    """What the checker says of the lines of a history: figures, and the first
    rules that were broken."""
    history = read(chain(*parts))
    broken = check(history)
    texts = [f"{each.rule}: {each.object}: {each.text}" for each in broken[:MOST_TEXTS]]
    return {"judged": len(history.operations), "chaos_broken": len(broken)}, texts
