"""The tools for conversations. Each calls routes of ``/api/v1``."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from contextlib import suppress
from time import time
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from imserver.plugin.errors import Unavailable
from imserver.plugin.messages import MessageLog
from imserver.plugin.wire import Limit, id_of

from .offers import Tool
from .receipts import receipt_of
from .tasks import Later
from .turn import MOST_CARDS, InputRequired, RouteRefused, Turn

WAIT_SECONDS: Final = 20
"""How long one look waits for an answer. It ends earlier if an answer comes."""
HOLD_SECONDS: Final = 50
"""The time after which a client of 2026-07-28 must come again, because proxies
end requests that take long."""
MOST: Final = 20
"""The most conversations in one answer of ``read``."""
PAGES: Final = 10
"""The most pages of conversations that one ``read`` searches."""
CONVERSATIONS: Final = 200
"""Number of conversations on such a page."""
ANSWER_BYTES: Final = 128 << 10
"""Limit of the messages in an answer, in bytes. The answer has them as text and
as JSON. A single message may be longer."""
KNOWN_CONVERSATIONS: Final = 100
"""The most conversations whose members count as known to the user."""
ASK_SECONDS: Final = 300
"""How long a question is open if the agent names no time, in seconds."""


class ReadArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """What ``read`` gets."""

    conversation: Annotated[
        int,
        Meta(
            description="Only this conversation; 0: all conversations.",
            ge=0,
            le=Limit.ID,
        ),
    ] = 0
    limit: Annotated[
        int, Meta(description="The maximum number of messages.", ge=1, le=200)
    ] = 50
    cursor: Annotated[
        str, Meta(description="`cursor` of the previous answer.", max_length=4096)
    ] = ""
    mark: Annotated[
        bool,
        Meta(description="False: mark nothing as read; the answer has no `cursor`."),
    ] = True


class ReadCursor(Struct, frozen=True, array_like=True):
    """The position of a reader, which the agent sends back.

    ``last``: conversation → the last entry that the reader has. ``before``: the
    page of conversations that is being searched.
    """

    last: Annotated[dict[int, int], Meta(max_length=MOST)] = {}
    before: int = 0

    @classmethod
    def of(cls, text: str) -> ReadCursor:
        """Decode a cursor; ``""`` is the beginning. Raises RouteRefused."""
        if not text:
            return cls()
        try:
            return msgspec.json.decode(base64.b64decode(text, b"-_", True), type=cls)
        except ValueError:
            raise RouteRefused(
                "invalid_request", "`cursor`: it is not that of an answer"
            ) from None

    @property
    def text(self) -> str:
        """The cursor as a text, which clients keep."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()


def read(turn: Turn, arguments: ReadArguments) -> dict[str, Any]:
    """List the unread messages of the user, in each conversation the oldest
    first.

    They are marked as read when the client comes again with the cursor,
    because only then it surely has the answer. If a node or a client dies
    before, the same messages are listed again. May switch greenlets. Raises
    RouteRefused.
    """
    cursor = ReadCursor.of(arguments.cursor)
    _mark_as_read(turn, cursor)

    conversations: list[dict[str, Any]] = []
    last: dict[int, int] = {}
    messages_left = arguments.limit
    bytes_left = ANSWER_BYTES
    next_before = cursor.before
    for header, before in _unread(turn, arguments.conversation, cursor.before):
        if not messages_left or len(last) == MOST or bytes_left < 0:
            break
        if header is None:  # the end of a page of conversations
            next_before = before
            continue
        number = header["conversation"]
        messages = []
        for message in _unread_messages(turn, header, messages_left):
            messages_left -= 1
            bytes_left -= len(msgspec.json.encode(message))
            # A single message may be longer.
            if bytes_left < 0 and last:
                break
            # Own messages are not listed, but the cursor moves over them.
            last[number] = message["id"]
            if message["from"] != turn.user:
                messages.append(message)
        if messages:
            conversations.append({**header, "messages": messages})

    # A page of conversations is searched again until nothing is unread.
    if last:
        cursor = ReadCursor(last, cursor.before)
    else:
        cursor = ReadCursor(before=next_before)
    return _read_answer(conversations, cursor, has_cursor=arguments.mark)


def _read_answer(
    conversations: list[dict[str, Any]], cursor: ReadCursor, has_cursor: bool
) -> dict[str, Any]:
    """The answer with unread messages. Its cursor is left out if nothing was
    read, or if nothing shall be marked as read."""
    answer: dict[str, Any] = {"conversations": conversations}
    if has_cursor and cursor != ReadCursor():
        answer["cursor"] = cursor.text
    return answer


def _mark_as_read(turn: Turn, cursor: ReadCursor) -> None:
    """Mark the conversations as read up to where the agent has read them."""
    for conversation, id in cursor.last.items():
        with suppress(RouteRefused):  # the conversation has gone
            turn.run("POST", "/messages/read", conversation=conversation, id=id)


def _unread_messages(
    turn: Turn, header: dict[str, Any], limit: int
) -> list[dict[str, Any]]:
    """The first messages of a conversation after the user's read mark. Raises
    RouteRefused."""
    page = turn.run(
        "GET",
        "/messages",
        conversation=header["conversation"],
        after=header["read"],
        limit=limit,
    )
    messages: list[dict[str, Any]] = page["messages"]
    return messages


def _unread(
    turn: Turn, one: int, before: int
) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """Yield the conversations with unread messages, with where the next page
    begins.

    ``one``: only this conversation; 0 means all. ``before``: where to begin.
    Each result is the header of a conversation, or None at the end of a page;
    with it comes the beginning of the next page (0 after the last one). May
    switch greenlets. Raises RouteRefused.
    """
    limit = CONVERSATIONS
    if one:
        limit = 1
        before = _position_behind(turn, one)
    for _ in range(PAGES):
        page = turn.run("GET", "/conversations", before=before, limit=limit)
        headers = _wanted_headers(page, one)
        before = page["before"]
        if one:
            before = 0  # there are no further pages
        for header in headers:
            del header["last"]
            if header["unread"]:
                yield header, before
        yield None, before
        if not before:
            return


def _wanted_headers(page: dict[str, Any], one: int) -> list[dict[str, Any]]:
    """The conversations of a page, or only the conversation ``one``. Raises
    RouteRefused if it is not on the page."""
    headers = [
        header for header in page["conversations"] if one in (0, header["conversation"])
    ]
    if one and not headers:
        raise RouteRefused(
            "unknown_conversation", "There is no such conversation of yours"
        )
    return headers


def _position_behind(turn: Turn, conversation: int) -> int:
    """The position from which the list of conversations begins with this one.
    The list is in the order of the last entries."""
    row = turn.core.store.part(MessageLog).conversations.get(turn.app, conversation)
    if row is None:
        return 1
    return row.last_id + 1


def _acquaintances(turn: Turn) -> list[str]:
    """The users whom the user knows.

    They are the owner of a bot, the users with whom the user talks, and the
    members of the user's groups. May switch greenlets.
    """
    page = turn.run("GET", "/conversations", limit=KNOWN_CONVERSATIONS)
    headers = page["conversations"]
    users = [owner_of(turn), *(header["peer"] for header in headers)]
    for header in headers:
        # Two pages of cards are enough to search in.
        if header["kind"] == "group" and len(users) < 2 * MOST_CARDS:
            users += _members(turn, header["conversation"])
    return [user for user in dict.fromkeys(users) if user not in ("", turn.user)]


def owner_of(turn: Turn) -> str:
    """The account that manages a bot; ``""`` if the user is not a bot, or if no
    account manages it."""
    if not turn.has_route("GET", "/bots/show"):
        return ""
    # The feature for bots may be missing.
    from imserver.people.bots import BotStore

    rows = BotStore(turn.core.store).get(turn.app, [id_of(turn.user)])
    if rows and rows[0].owner:
        return str(rows[0].owner)
    return ""


def _members(turn: Turn, group: int) -> list[str]:
    """The ids of the members of a group, up to :data:`MOST_CARDS`."""
    page = turn.run("GET", "/groups/members", group=str(group), limit=MOST_CARDS)
    return [member["user"] for member in page["members"]]


class FindArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom ``find_people`` looks for."""

    text: Annotated[
        str,
        Meta(description="A name, or words of a name.", min_length=1, max_length=100),
    ]


def find_people(turn: Turn, arguments: FindArguments) -> dict[str, Any]:
    """Find people by their names: users with whom the user talks, and users
    whom the app lets the user find.

    May switch greenlets.
    """
    matches = _matching_acquaintances(turn, arguments.text)
    for route in ("/accounts/search", "/accounts/find"):
        matches += _cards_of_route(turn, route, arguments.text)

    # A person may be found in several ways.
    people = {card["user"]: card for card in matches if card["user"] != turn.user}
    return {"people": list(map(_person_of, people.values()))}


def _matching_acquaintances(turn: Turn, text: str) -> list[dict[str, Any]]:
    """The cards of the users with whom the user talks, and whose names have all
    words of a text."""
    words = text.casefold().split()
    matches = []
    for card in turn.cards(_acquaintances(turn)):
        name = f"{card['nickname']} {card['name']}".casefold()
        if all(word in name for word in words):
            matches.append(card)
    return matches


def _cards_of_route(turn: Turn, route: str, text: str) -> list[dict[str, Any]]:
    """The cards of the people whom a route finds.

    They are none if the route does not exist or finds nobody, or if the app or
    the role does not permit it.
    """
    if not turn.has_route("POST", route):
        return []
    try:
        answer = turn.run("POST", route, text=text)
    except RouteRefused:
        return []
    cards: list[dict[str, Any]] = answer.get("cards", [answer])
    return cards


def _person_of(card: dict[str, Any]) -> dict[str, Any]:
    """A person as agents see one, from a card."""
    return {
        "user": card["user"],
        "name": card["nickname"],
        "user_name": card["name"],
        "bot": card["bot"],
    }


class OnlineArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Whom ``who_is_online`` shows."""

    users: Annotated[
        tuple[str, ...], Meta(description="Ids of users.", max_length=100)
    ] = ()
    group: Annotated[int, Meta(description="The id of a group.", ge=0, le=Limit.ID)] = 0


def who_is_online(turn: Turn, arguments: OnlineArguments) -> dict[str, Any]:
    """Show who is online: some users, the members of a group, or the people
    whom the user knows.

    May switch greenlets.
    """
    if arguments.group:
        users = _members(turn, arguments.group)
    else:
        users = list(arguments.users) or _acquaintances(turn)
    others = [user for user in dict.fromkeys(users) if user != turn.user]
    users = others[:MOST_CARDS]
    cards = turn.cards(users)
    people = list(map(_online_of_card, cards))
    if users and not cards:  # the app has no accounts
        people += _online_without_accounts(turn, users)
    # Those who are online come first.
    return {"people": sorted(people, key=lambda person: person["presence"] != "online")}


def _online_of_card(card: dict[str, Any]) -> dict[str, Any]:
    """The person of a card, and whether they are online."""
    return _online(card["user"], card["nickname"], card["presence"] or "hidden")


def _online_without_accounts(turn: Turn, users: list[str]) -> list[dict[str, Any]]:
    """The people of an app without accounts, and whether they are online."""
    people = []
    for row in turn.run("POST", "/presence", users=users, user=None)["users"]:
        presence = "offline"
        if row["online"]:
            presence = "online"
        people.append(_online(row["user"], "", presence))
    return people


def _online(user: str, name: str, presence: str) -> dict[str, Any]:
    """A person and their presence, as agents see them."""
    return {"user": user, "name": name, "presence": presence}


def ask(turn: Turn, arguments: dict[str, Any]) -> Any:
    """Ask people, and wait for the answer.

    A client that accepts tasks gets ``Later``. In a task, or when the client
    comes again, the question was asked before. Switches greenlets. Raises
    RouteRefused.
    """
    if turn.task is not None:
        return turn.run("POST", "/asks/get", id=turn.task.question)
    question = {
        "free_text": not arguments.get("options"),
        "seconds": ASK_SECONDS,
        **arguments,
    }
    if turn.state is not None:
        # The state of the round is the id of the question.
        answer = turn.run("POST", "/asks/get", id=turn.state)
    else:
        answer = turn.run("POST", "/asks/create", **question)
    if turn.takes_tasks and answer["state"] == "open":
        return Later(answer["id"], seconds=question["seconds"])
    return await_answer(turn, answer, question)


def await_answer(turn: Turn, answer: dict[str, Any], question: dict[str, Any]) -> Any:
    """Wait until a question is closed, or the client has gone.

    ``answer``: the question as it is now. ``question``: how it was asked.
    Returns the question with its answers, or `InputRequired` if the client
    must come again to wait on. If nobody will get the answer, the question is
    cancelled. Switches greenlets. Raises RouteRefused.
    """
    turn.begin()
    began_at = time()
    # Whether the client gets the answer, or will come again.
    is_awaited = False
    end = began_at + question["seconds"] + WAIT_SECONDS
    try:
        proof = turn.proof()
        while answer["state"] == "open" and turn.stream.is_open and time() < end:
            if turn.message.is_modern and time() > began_at + HOLD_SECONDS:
                is_awaited = True
                return InputRequired(state=answer["id"])
            if not turn.core.still_holds(turn.app, turn.user, proof):
                raise RouteRefused("token_invalid", "The token has ended")
            turn.progress(int(time() - began_at), question["seconds"])
            answer = _wait_for_news(turn, answer)
            # Notices whether the client has gone. Nobody else reads the
            # connection.
            turn.stream.on_readable()
        is_awaited = turn.stream.is_open
        return answer
    finally:
        # With an id of its own, the client can ask again and get the answer.
        if not is_awaited and not question.get("client_msg_id"):
            _cancel_if_open(turn, answer)


def _wait_for_news(turn: Turn, answer: dict[str, Any]) -> Any:
    """Wait a while until a question has more answers, and return it as it is
    then."""
    seen = len(answer["answers"])
    return turn.run("POST", "/asks/get", id=answer["id"], wait=WAIT_SECONDS, seen=seen)


def _cancel_if_open(turn: Turn, question: dict[str, Any]) -> None:
    """Cancel a question that is still open, because nobody will get the
    answer."""
    if question["state"] == "open":
        with suppress(RouteRefused, Unavailable):
            turn.run("POST", "/asks/cancel", id=question["id"])


class ReceiptArguments(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose receipt is wanted."""

    question: Annotated[
        int,
        Meta(description="The id of the message with the question.", ge=1, le=Limit.ID),
    ]


def receipt(turn: Turn, arguments: ReceiptArguments) -> dict[str, Any]:
    """Show the receipt of a yes, which proves it, to a user who may read the
    question.

    May switch greenlets. Raises RouteRefused.
    """
    # Raises RouteRefused if the user may not read it.
    turn.run("POST", "/asks/get", id=arguments.question)
    document = receipt_of(turn.core, turn.app, arguments.question)
    if document is None:
        raise RouteRefused(
            "unknown_message", "No call was permitted by an answer to this question"
        )
    return document


def _object(**properties: Any) -> dict[str, Any]:
    """The JSON schema of an object with these properties."""
    return {"type": "object", "properties": properties}


def _text(description: str) -> dict[str, Any]:
    """The JSON schema of a text."""
    return {"type": "string", "description": description}


_LIST: Final = {"type": "array", "items": {"type": "object"}}
TOOLS: Final = (
    Tool(
        name="send",
        title="Send a message",
        description=(
            "Send a message to a user (`to`), or to a conversation or group. Give "
            "your own `client_msg_id`: if you repeat the call with the same value, "
            "the message is stored only once."
        ),
        route=("POST", "/messages/send"),
        fields=(
            "text",
            "to",
            "conversation",
            "reply_to",
            "thread",
            "mentions",
            "client_msg_id",
        ),
    ),
    Tool(
        name="find_people",
        title="Find people",
        description=(
            "Find the ids of people by their names. `send` and `ask` take such an "
            "id as `to`."
        ),
        run=find_people,
        route=("POST", "/accounts/cards"),
        input=FindArguments,
        output=_object(people=_LIST),
        kind="reads",
    ),
    Tool(
        name="read",
        title="Read what is new",
        description=(
            "List the unread messages of all your conversations, or of one "
            "conversation. When you have handled them, call this again with the "
            "`cursor` of the answer. This marks the messages as read and shows the "
            "next messages. Continue until an answer has no `cursor`. Without "
            "`cursor`, the same messages are shown again."
        ),
        run=read,
        route=("GET", "/conversations"),
        input=ReadArguments,
        output=_object(
            conversations=_LIST,
            cursor=_text(
                "The cursor for the next call; missing if no more messages exist."
            ),
        ),
        names=True,
    ),
    Tool(
        name="history",
        title="Read a conversation",
        description="List the messages of a conversation, the newest page first.",
        route=("GET", "/messages"),
        fields=("conversation", "before", "after", "limit"),
        kind="reads",
        names=True,
    ),
    Tool(
        name="search",
        title="Search messages",
        description="Search the messages that you may read, by words or sender.",
        route=("GET", "/messages/search"),
        fields=("text", "conversation", "from", "since", "until", "before", "limit"),
        kind="reads",
        names=True,
    ),
    Tool(
        name="who_is_online",
        title="See who is online",
        description=(
            "Show which users are online: of the given users, of a group, or of "
            "the people whom you know."
        ),
        run=who_is_online,
        route=("GET", "/conversations"),
        input=OnlineArguments,
        output=_object(people=_LIST),
        kind="reads",
    ),
    Tool(
        name="react",
        title="React to a message",
        description="Add an emoji to a message, or remove it.",
        route=("POST", "/messages/react"),
        fields=("id", "emoji", "remove"),
    ),
    Tool(
        name="ask",
        title="Ask people and wait",
        description=(
            "Ask a user (`to`), or the members of a conversation or group, and "
            "wait for the answer. The people get buttons and a notification, and "
            "the first answer counts. Without `options`, they answer in their own "
            "words."
        ),
        run=ask,
        route=("POST", "/asks/create"),
        fields=(
            "text",
            "to",
            "conversation",
            "options",
            "of",
            "need",
            "seconds",
            "client_msg_id",
        ),
        output=_object(
            id={"type": "integer", "minimum": 1},
            state=_text(
                "`answered`, `expired`, `cancelled`, `recalled`, or still `open`."
            ),
            answers=_LIST,
        ),
        names=True,
    ),
    Tool(
        name="receipt",
        title="Prove a yes",
        description=(
            "Show the receipt of a person's consent: the permitted call, the "
            "person, the time, and the position in the audit log. Keep the "
            "receipt, because `verify_receipt.py` verifies it without the server."
        ),
        run=receipt,
        route=("POST", "/asks/get"),
        input=ReceiptArguments,
        output=_object(question={}, row={"type": "object"}, names=_LIST),
        kind="reads",
    ),
)
