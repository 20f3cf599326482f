"""The tools: what an agent does in conversations. Each is routes of ``/api/v1``, in another form."""

from __future__ import annotations

from time import time
from typing import Any, Final

import msgspec

from imserver.plugin.identity import Buckets, Rate
from imserver.plugin.wire import id_of

from .offers import Tool
from .settings import rules_of
from .turn import InputRequired, Turn

WAIT_SECONDS: Final = 20
"""How long one look waits for an answer. It ends earlier, when there is one."""
HOLD_SECONDS: Final = 50
"""After so long a client of 2026-07-28 has to come again, since proxies end requests that take long."""
YES: Final = "yes"
_PERMISSION: Final = "permission"
USED: Final = Rate("mcp_yeses", "uses of the yes of a person", "question", "1", "")
MOST: Final = 20
_SHOWN: Final = 1500


def read(turn: Turn, given: dict[str, Any]) -> dict[str, Any]:
    """List what the user has not read, and mark it as read."""
    one, limit = given.get("conversation"), given.get("limit", 50)
    page = turn.run("GET", "/conversations", limit=200 if one else MOST)["conversations"]
    found = [each for each in page if each["conversation"] == one or (not one and each["unread"])]
    for each in found:
        del each["last"]
        if each["unread"]:
            where = {"conversation": each["conversation"]}
            answer = turn.run("GET", "/messages", **where, limit=min(each["unread"], limit, 200))
            each["messages"] = answer["messages"]
            if given.get("mark", True) and each["messages"]:
                turn.run("POST", "/messages/read", **where, id=each["messages"][-1]["id"])
    return {"conversations": found}


def who_is_online(turn: Turn, given: dict[str, Any]) -> dict[str, Any]:
    """Show who is online."""
    users = given.get("users") or []
    if group := given.get("group"):
        members = turn.run("GET", "/groups/members", group=str(group), limit=100)["members"]
        users = [each["user"] for each in members]
    elif not users:
        page = turn.run("GET", "/conversations", limit=100)["conversations"]
        users = [each["peer"] for each in page if each["peer"]]
    users = [user for user in dict.fromkeys(users) if user != turn.user][:100]
    if not users:
        people = []
    elif turn.principal.user and turn.has_route("POST", "/accounts/cards"):
        cards = turn.run("POST", "/accounts/cards", users=users)["cards"]
        people = [(each["user"], each["nickname"], each["presence"] or "hidden") for each in cards]
    else:
        found = turn.run("POST", "/presence", users=users, user=None)["users"]
        people = [(each["user"], "", "online" if each["online"] else "offline") for each in found]
    shown = [{"user": user, "name": name, "presence": presence} for user, name, presence in people]
    return {"people": sorted(shown, key=lambda each: each["presence"] != "online")}


def ask(turn: Turn, given: dict[str, Any]) -> Any:
    """Ask, and wait for the answer."""
    return put_question(turn, {"free_text": not given.get("options"), "seconds": 300, **given}, turn.state)


def put_question(turn: Turn, question: dict[str, Any], id: int | None) -> Any:
    """Ask, and wait until the question is closed or the client has gone; `InputRequired`: it has to come
    again. ``id``: of the question, if it came again. Switches. Raises RouteRefused.

    A question without an id of the client is cancelled if the client goes: nobody would hear the answer.
    """
    if id is not None:
        shown = turn.run("POST", "/asks/get", id=id)
    else:
        shown = turn.run("POST", "/asks/create", **question)
    turn.begin()
    began = time()
    end = began + question["seconds"] + WAIT_SECONDS
    while shown["state"] == "open" and turn.stream.is_open and time() < end:
        if turn.message.is_modern and time() > began + HOLD_SECONDS:
            return InputRequired(state=shown["id"])
        turn.progress(int(time() - began), question["seconds"])
        shown = turn.run("POST", "/asks/get", id=shown["id"], wait=WAIT_SECONDS, seen=len(shown["answers"]))
    if shown["state"] == "open" and not turn.stream.is_open and not question.get("client_msg_id"):
        turn.run("POST", "/asks/cancel", id=shown["id"])
    return shown


def permission(turn: Turn, tool: Tool, arguments: dict[str, Any], yeses: Buckets) -> str | InputRequired:
    """Why a tool may not run now; ``""``: it may. Asks a person if the app wants that. ``yeses``: the yeses
    of people that were used. Switches. Raises RouteRefused."""
    tenant, state = turn.core.identity.tenants.find(turn.app), turn.state
    rules = None if tenant is None else rules_of(tenant)
    if rules is None or tool.name not in rules.confirm:
        return ""
    if state is not None and not (isinstance(state, dict) and _PERMISSION in state):
        return ""  # a later round of the tool, which has got the yes before its first one
    person = rules.confirm_by or _owner_of(turn)
    if not person or person == turn.user or not turn.has_route("POST", "/asks/create"):
        return f"`{tool.name}` needs the yes of a person, and there is nobody who can be asked."
    shown = msgspec.json.format(msgspec.json.encode(arguments), indent=2).decode()[:_SHOWN]
    text = f"May I use `{tool.name}`?\n\n```json\n{shown}\n```"
    options = [{"text": "Yes", "value": YES}, {"text": "No", "value": "no"}]
    question = {"text": text, "to": person, "options": options, "seconds": rules.confirm_seconds}
    asked = put_question(turn, question, None if state is None else state[_PERMISSION])
    turn.state = None
    if isinstance(asked, InputRequired):
        return InputRequired(state={_PERMISSION: asked.state})
    if [each.get("value") for each in asked["answers"]] == [YES]:
        return "" if yeses.take((turn.app, str(asked["id"]))) else "This yes was used before."
    return f"{person} said no." if asked["answers"] else f"{person} has not answered."


def _owner_of(turn: Turn) -> str:
    """The account that manages a bot; ``""``: there is none, or it is no bot."""
    if not turn.has_route("GET", "/bots/show"):
        return ""
    from imserver.features.bots.rows import BotStore

    rows = BotStore(turn.core.storage.store).get(turn.app, [id_of(turn.user)])
    return str(rows[0].owner) if rows and rows[0].owner else ""


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _text(description: str) -> dict[str, Any]:
    return {"type": "string", "description": description}


_ONE: Final = {"type": "integer", "minimum": 1}
_LIST: Final = {"type": "array", "items": {"type": "object"}}
TOOLS: Final = (
    Tool(
        name="send",
        title="Send a message",
        description="Send a message to a user (`to`), or to a conversation or group. A call that is repeated "
        "with the same `client_msg_id` of yours stores nothing twice.",
        route=("POST", "/messages/send"),
        fields=("text", "to", "conversation", "reply_to", "thread", "mentions", "client_msg_id"),
    ),
    Tool(
        name="read",
        title="Read what is new",
        description="List the unread messages of all your conversations, or of one, and mark them as read.",
        run=read,
        route=("GET", "/conversations"),
        input=_object(
            conversation={**_ONE, "description": "Only this one."},
            limit={**_ONE, "description": "How many messages of each at most. The default is 50."},
            mark={"type": "boolean", "description": "Mark them as read. The default is true."},
        ),
        output=_object(conversations=_LIST),
    ),
    Tool(
        name="history",
        title="Read a conversation",
        description="List the messages of a conversation, the newest page first.",
        route=("GET", "/messages"),
        fields=("conversation", "before", "after", "limit"),
        kind="reads",
    ),
    Tool(
        name="search",
        title="Search messages",
        description="Search the messages that you may read, by words or sender.",
        route=("GET", "/messages/search"),
        fields=("text", "conversation", "from", "since", "until", "before", "limit"),
        kind="reads",
    ),
    Tool(
        name="who_is_online",
        title="See who is online",
        description="Show who of these users, of a group, or of those with whom you talk is online.",
        run=who_is_online,
        route=("GET", "/conversations"),
        input=_object(
            users={"type": "array", "items": _text("The id of a user."), "maxItems": 100},
            group={**_ONE, "description": "The id of a group."},
        ),
        output=_object(people=_LIST),
        kind="reads",
    ),
    Tool(
        name="react",
        title="React to a message",
        description="Put an emoji under a message, or take it back.",
        route=("POST", "/messages/react"),
        fields=("id", "emoji", "remove"),
    ),
    Tool(
        name="ask",
        title="Ask people and wait",
        description="Ask a user (`to`), or the members of a conversation or group, and wait for the answer. "
        "They get buttons and a notification, and the first answer counts. Without `options` they answer in "
        "their own words.",
        run=ask,
        route=("POST", "/asks/create"),
        fields=("text", "to", "conversation", "options", "of", "need", "seconds", "client_msg_id"),
        output=_object(
            id=_ONE,
            state=_text("`answered`, `expired`, `cancelled`, `recalled`, or still `open`."),
            answers=_LIST,
        ),
    ),
)
