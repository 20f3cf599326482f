"""Incoming webhooks: make, list, revoke them. What programs send to one (``POST
/hooks/<token>``) becomes a message, also in the form of Slack (Grafana,
Alertmanager, GitLab, slack_sdk)."""

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import Raw, Struct

from imserver.messenger.groups.api import GroupChange, GroupId
from imserver.messenger.groups.groups import TooManyMembers, UnknownGroup
from imserver.people.accounts.api import Avatar, Nickname
from imserver.people.accounts.parts import accounts_of
from imserver.people.bots.api import CHAPTER
from imserver.people.bots.bots import IncomingHooks, UnknownHook
from imserver.people.bots.declared import HTTP_TOO_MANY_BOTS
from imserver.people.bots.parts import bots_of
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    PROBLEM,
    Acting,
    ApiProblem,
    Call,
    HttpResponse,
    Resource,
    Route,
    about,
)
from imserver.plugin.identity import Needs, Principal
from imserver.plugin.messages import MessageApi, SendRequest
from imserver.plugin.services import Core
from imserver.plugin.wire import id_of

PATH: Final = "/hooks/"
_TAKEN: Final = (
    "type",
    "text",
    "data",
    "buttons",
    "mentions",
    "client_msg_id",
    "notify",
)
"""The fields of a message that a request may set. Others, which other programs
send, are ignored."""
_fields: Final = msgspec.json.Decoder(dict[str, Raw])
_message: Final = msgspec.json.Decoder(SendRequest)
_anything: Final = msgspec.json.Decoder(Any)

# --- the form of Slack --------------------------------------------------------

MOST_DEPTH: Final = 12
"""Levels of blocks that are read."""
_TAG: Final = re.compile(
    r"<(?:(https?://[^<>|\s]{1,2000})|(mailto:|tel:|!|[@#](?=[A-Z][A-Z0-9]))([^<>|\n]{1,200}))"
    r"(?:\|([^<>\n]{1,2000}))?>"
)
"""A link, or a mention: its address, or its kind and name; and its label."""
_EVERYBODY: Final = ("here", "channel", "everyone")
_APART: Final = {
    "rich_text_section": "",
    "rich_text_preformatted": "",
    "context": " ",
    "actions": " ",
}
"""Kind of a block → what stands between its elements, if it is no new line."""
_MARKS: Final = {
    "emoji": (":", "name", ":"),
    "user": ("<@", "user_id", ">"),
    "broadcast": ("<!", "range", ">"),
}


def text_of(given: dict[str, Any]) -> tuple[str, bool]:
    """The text of a message of Slack in our Markdown, and whether it mentions
    everybody. With blocks, the text is only what notifications show."""
    attachments = given.get("attachments")
    parts = [
        _of_block(given.get("blocks"), 0) or _string(given.get("text")),
        *map(_of_attachment, attachments if isinstance(attachments, list) else ()),
    ]
    raw = "\n".join(filter(None, parts))
    text = _TAG.sub(_of_tag, raw)
    for escape, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(escape, sign)
    return text, any(
        tag[2] == "!" and tag[3] in _EVERYBODY for tag in _TAG.finditer(raw)
    )


def _of_tag(tag: re.Match[str]) -> str:
    url, kind, name, label = tag.groups("")
    if url:
        if label in ("", url):
            return url
        # A label with brackets would end the link of Markdown.
        if re.search(r"[][()]", label + url):
            return f"{label} {url}"
        return f"[{label}]({url})"
    if kind == "!":
        if name in _EVERYBODY:
            return "@all"
        return label or f"@{name.partition('^')[0]}"
    if kind.endswith(":"):
        return label or name
    return kind + (label or name).removeprefix(kind)


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _link(url: Any, label: str) -> str:
    label = label.replace("|", " ").replace("\n", " ")
    if label and isinstance(url, str) and url.startswith("http"):
        return f"<{url}|{label}>"
    return label


def _of_attachment(given: Any) -> str:
    if not isinstance(given, dict):
        return ""
    fields = given.get("fields")
    if isinstance(fields, list):
        rows = [each for each in fields if isinstance(each, dict)]
    else:
        rows = []
    parts = [
        _string(given.get("pretext")),
        _link(given.get("title_link"), _string(given.get("title"))),
        _string(given.get("text")),
        *(
            f"{_string(each.get('title'))}: {_string(each.get('value'))}".strip(": ")
            for each in rows
        ),
        _of_block(given.get("blocks"), 0),
        *([f"<{given['image_url']}>"] if _string(given.get("image_url")) else ()),
    ]
    return "\n".join(filter(None, parts)) or _string(given.get("fallback"))


def _of_block(value: Any, depth: int) -> str:
    """The text of a block, of an element, or of a list of them."""
    if depth > MOST_DEPTH:
        return ""
    if isinstance(value, list):
        return "\n".join(filter(None, [_of_block(each, depth + 1) for each in value]))
    if not isinstance(value, dict):
        return ""
    kind = _string(value.get("type"))
    text = value.get("text")
    if kind in ("mrkdwn", "plain_text", "text"):
        return _string(text)
    if kind in _MARKS:
        before, name, behind = _MARKS[kind]
        return f"{before}{_string(value.get(name))}{behind}"
    if kind in ("link", "button", "image"):
        label = (
            _string(text)
            or _of_block(text, depth + 1)
            or _string(value.get("alt_text"))
        )
        url = _string(value.get("url") or value.get("image_url"))
        return _link(url, label or url)
    parts = [_of_block(value.get(name), depth + 1) for name in ("text", "fields")]
    if isinstance(elements := value.get("elements"), list):
        inner = [_of_block(each, depth + 1) for each in elements]
        parts.append(_APART.get(kind, "\n").join(filter(None, inner)))
    return "\n".join(filter(None, parts))


# --- the route ----------------------------------------------------------------


class HookApi(Struct, frozen=True):
    """The services of the route that takes messages."""

    core: Core
    messages: MessageApi


def _read(api: HookApi, call: Call) -> None:
    """Find the webhook of a request: its bot acts."""
    request = call.request
    hook = bots_of(api.core).incoming.with_token(
        request.path.removeprefix(PATH), request.host
    )
    body = call.body
    kind = request.headers.get("content-type", "")
    # curl calls JSON a form, too.
    if kind.startswith(
        "application/x-www-form-urlencoded"
    ) and not body.lstrip().startswith(b"{"):
        body = call.form().get("payload", "").encode("utf-8", "surrogatepass")
    if not body or kind.startswith("multipart/"):
        raise ApiProblem.invalid(
            "Send a JSON object, or a form with the JSON in the field payload"
        )
    fields = call.decode_json(_fields, body)
    taken: dict[str, Any] = {name: fields[name] for name in _TAKEN if name in fields}
    if not ("type" in fields or "data" in fields):
        names = [name for name in ("text", "blocks", "attachments") if name in fields]
        text, mentions_all = text_of(
            {name: call.decode_json(_anything, bytes(fields[name])) for name in names}
        )
        if text:
            taken["text"] = text
        if mentions_all:
            taken.setdefault("mentions", ["all"])
    call.input = call.decode_json(_message, msgspec.json.encode(taken))
    call.input.conversation = hook.group
    call.app, call.user = api.core.tenants.resolve(hook.app), str(hook.id)
    accounts_of(api.core).tokens.know_bot(call.app, call.user)
    call.act_as(Principal("bot", apps=frozenset({call.app}), user=call.user))


def post(api: HookApi, call: Call) -> HttpResponse:
    """``POST /hooks/<token>``: post a message. ``ok``: what Grafana and
    Alertmanager look for."""
    return call.reply(
        {**msgspec.structs.asdict(api.messages.send(call, call.input)), "ok": True}
    )


ROUTES: Final = (
    Route(
        "POST",
        f"{PATH}*",
        Needs.ANYONE,
        post,
        app="known",
        hot=True,
        read=_read,
        style=PROBLEM,
        service=lambda core, api: HookApi(core, MessageApi.of(core, api)),
    ),
)


# --- the routes that manage them ----------------------------------------------


HookId = Annotated[
    str,
    about(
        "The id of the webhook, which is the account of its bot.",
        pattern="^[1-9][0-9]{0,18}$",
    ),
]


class HookCreated(Struct):
    """The new webhook."""

    id: HookId
    url: Annotated[
        str,
        about(
            "Its URL on this server, relative to the server's address. It is shown only here, so save it."
        ),
    ]


class HookShown(Struct):
    """A webhook."""

    id: HookId
    group: GroupId
    nickname: Nickname
    avatar: Avatar
    created: Annotated[int, about("When it was created, in Unix seconds.")]


class HooksAnswer(Struct):
    """The webhooks of a group, ordered by id."""

    hooks: list[HookShown]


class HookRevoked(Struct):
    """The webhook and its bot are deleted."""

    id: HookId


routes = Resource(
    "bots",
    service=lambda core, _: bots_of(core).incoming,
    base=GroupChange,
    chapter=CHAPTER,
    hot=False,
)


@routes.post(
    "/hooks",
    Needs.ADMIN_OR_ACCOUNT,
    schema=("HookCreate", "A group, and how the sender of the messages is shown."),
    voice=True,
    act="hooks.create",
    status=201,
    problems=(
        UnknownGroup.problem,
        Problems.UNKNOWN_ACCOUNT,
        Problems.ROLE_TOO_LOW,
        HTTP_TOO_MANY_BOTS,
        TooManyMembers.problem,
        Problems.MEDIA_UNAVAILABLE,
    ),
    user="optional",
)
def create(
    incoming: IncomingHooks,
    call: Call,
    group: str,
    nickname: Annotated[Nickname, about("The nickname of the sender.", min_length=1)],
    avatar: Avatar = "",
) -> HookCreated:
    """Make an incoming webhook.

    For the owner and admins of a group. Each `POST` to its URL becomes a
    message in the group. The sender is a bot of the acting user, which is made
    with the webhook and joins the group.
    """
    hook, token = incoming.create(call.app, call.user, id_of(group), nickname, avatar)
    return HookCreated(str(hook.id), PATH + token)


@routes.get(
    "/hooks",
    Needs.ADMIN_OR_ACCOUNT,
    problems=(UnknownGroup.problem, Problems.ROLE_TOO_LOW),
    user="optional",
)
def hooks(incoming: IncomingHooks, call: Call, began: GroupChange) -> HooksAnswer:
    """List the incoming webhooks of a group.

    For the owner and admins.
    """
    rows = [
        HookShown(
            account.user,
            str(each.group),
            account.nickname,
            account.avatar,
            each.created,
        )
        for each, account in incoming.of_group(call.app, call.user, id_of(began.group))
    ]
    return HooksAnswer(rows)


@routes.post(
    "/hooks/revoke",
    Needs.ADMIN_OR_ACCOUNT,
    schema=("HookRevoke", "A webhook."),
    base=Acting,
    problems=(UnknownHook.problem, Problems.ROLE_TOO_LOW, Problems.MEDIA_UNAVAILABLE),
    user="optional",
)
def revoke(incoming: IncomingHooks, call: Call, hook: HookId) -> HookRevoked:
    """Revoke an incoming webhook.

    For the owner and admins of its group. Its bot is deleted; the messages
    stay.
    """
    incoming.revoke(call.app, call.user, id_of(hook))
    return HookRevoked(hook)
