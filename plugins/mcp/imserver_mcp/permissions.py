"""Permissions: if the app wants it, a person must say yes before a tool
runs."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from .declared import Rules, Task, rules_of
from .offers import Tool, users_in
from .tasks import Later, Tasks
from .tools import await_answer, owner_of
from .turn import InputRequired, Turn
from .verify_receipt import digest

YES: Final = "yes"
_OPTIONS: Final = ({"text": "Yes", "value": YES}, {"text": "No", "value": "no"})
_PERMISSION: Final = "permission"
"""The key under which the state of a round that waits for a yes has the
task."""
_MISLEADING: Final = re.compile(
    "[\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)
"""Characters that are invisible, or change the order of others. With them a
call could look like another one."""
_OTHER_QUESTION: Final = (
    "The text of the question was changed: a yes to it does not permit this call."
)


class Permissions:
    """Asks persons for a yes to the calls of agents, and uses the yes.

    Each yes can be used once, because the row of a task takes it. A client that
    waits itself has such a row, too.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    def check(
        self, turn: Turn, tool: Tool, arguments: dict[str, Any]
    ) -> str | InputRequired | Later:
        """Decide whether a tool may run now.

        Returns ``""`` if it may, or the reason why it may not. If the app wants
        it, a person is asked first; then returns ``Later`` or ``InputRequired``
        for the wait. Switches greenlets. Raises RouteRefused and McpError.
        """
        if turn.task is not None:
            return self._check_task(turn, turn.task)

        tenant = turn.core.tenants.find(turn.app)
        if tenant is None:
            return ""
        rules = rules_of(tenant)
        if tool.name not in rules.confirm:
            return ""
        if turn.state is None:
            return self._ask(turn, tool, arguments, rules)
        if isinstance(turn.state, dict) and _PERMISSION in turn.state:
            return self._continue_wait(turn, rules.confirm_seconds)
        # A later round of the tool. The yes was given before its first round.
        return ""

    def _check_task(self, turn: Turn, task: Task) -> str:
        """Decide whether the tool of a task may run, which has waited for the
        yes of a person. Returns the reason why it may not; else ``""``."""
        # ``audit`` is not 0 if an earlier run of the task has used the yes.
        if not task.what.needs_yes or task.audit:
            return ""
        question = turn.run("POST", "/asks/get", id=task.question)
        return self._use_answer(turn, task, question)

    def _ask(
        self, turn: Turn, tool: Tool, arguments: dict[str, Any], rules: Rules
    ) -> str | InputRequired | Later:
        """Ask a person for a yes to a call.

        Returns the reason why the tool may not run, or ``Later`` if a task
        waits for the answer. A client that takes no tasks waits here, and may
        have to come again (``InputRequired``). Switches greenlets. Raises
        RouteRefused and McpError.
        """
        person = rules.confirm_by or owner_of(turn)
        if not _can_permit(turn, person):
            return f"`{tool.name}` needs the yes of a person, and there is nobody who can be asked."
        text = _question(turn, tool, arguments)
        seconds = rules.confirm_seconds
        question = _create_question(turn, text, person, seconds)
        if question is None:
            return _OTHER_QUESTION

        later = Later(
            question["id"],
            seconds=seconds,
            needs_yes=True,
            question_digest=digest(text),
        )
        if turn.takes_tasks:
            return later
        task = self._tasks.add(turn, tool.name, arguments, later)
        return self._wait_for_yes(turn, task, question, seconds)

    def _continue_wait(self, turn: Turn, seconds: int) -> str | InputRequired:
        """Continue to wait for a yes, for a client that has come again.

        Returns what :meth:`_wait_for_yes` returns. Switches greenlets.
        """
        task = self._tasks.rows.get(turn.app, turn.state[_PERMISSION])
        if task is None:
            return "The yes was used, or the time for it is over."
        question = turn.run("POST", "/asks/get", id=task.question)
        return self._wait_for_yes(turn, task, question, seconds)

    def _wait_for_yes(
        self, turn: Turn, task: Task, question: dict[str, Any], seconds: int
    ) -> str | InputRequired:
        """Wait for the answer to a question, with an open stream.

        Returns ``""`` if the tool may run, the reason why it may not, or
        ``InputRequired`` if the client must come again to wait on. Switches
        greenlets.
        """
        answer = await_answer(turn, question, {"seconds": seconds})
        # The state was that of the wait. The tool itself begins without one.
        turn.state = None
        if isinstance(answer, InputRequired):
            return InputRequired(state={_PERMISSION: task.id})
        objection = self._use_answer(turn, task, answer)
        if objection:
            self._tasks.rows.end_waiting(task)
        return objection

    def _use_answer(self, turn: Turn, task: Task, question: dict[str, Any]) -> str:
        """Use the answer to a question.

        Returns ``""`` if it is a yes, which is used up now, or the reason why
        the tool may not run. A yes permits only the call in the text of the
        question. Switches greenlets.
        """
        # A question with another text is not about this call.
        if digest(question["text"]) != task.what.question_digest:
            return _OTHER_QUESTION
        answers = question["answers"]
        if [answer.get("value") for answer in answers] == [YES]:
            if not self._tasks.use(task, question):
                return "This yes was used before."
            turn.permitted_by = task.question
            return ""
        if answers:
            return f"{answers[0]['user']} said no."
        return "Nobody has answered."


def _can_permit(turn: Turn, person: str) -> bool:
    """Whether a person may permit a call. Nobody may permit their own call."""
    return person not in ("", turn.user) and turn.has_route("POST", "/asks/create")


def _create_question(
    turn: Turn, text: str, person: str, seconds: int
) -> dict[str, Any] | None:
    """Ask a person a question, and return it.

    If a review of messages has replaced its text, cancels it, and returns None.
    """
    question: dict[str, Any] = turn.run(
        "POST",
        "/asks/create",
        text=text,
        to=person,
        options=_OPTIONS,
        seconds=seconds,
        fixed=True,
    )
    if question["text"] != text:
        turn.run("POST", "/asks/cancel", id=question["id"])
        return None
    return question


def _question(turn: Turn, tool: Tool, arguments: dict[str, Any]) -> str:
    """The text of the question to a person, with the whole call.

    Nobody can confirm a call that does not fit into a message, so
    ``/asks/create`` refuses it.
    """
    call = msgspec.json.format(msgspec.json.encode(arguments), indent=2).decode()
    # Invisible characters are shown as escapes.
    call = _MISLEADING.sub(_escaped, call)
    cards = turn.cards([*users_in(arguments)])
    names = "".join(f"\n{card['user']}: {card['nickname']}" for card in cards)
    return f"May I use `{tool.name}`?\n\n```json\n{call}\n```{names}"


def _escaped(match: re.Match[str]) -> str:
    """The character as an escape of JSON, such as ``\\u200b``."""
    return f"\\u{ord(match[0]):04x}"
