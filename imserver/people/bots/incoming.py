"""Routes of incoming webhooks: make, list and revoke them, and post to them. A
request of a program to ``POST /hooks/<token>`` becomes a message. It may have
the form of Slack (Grafana, Alertmanager, GitLab, slack_sdk)."""

import re
from collections.abc import Iterable, Mapping
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
from imserver.people.bots.rows import IncomingHook
from imserver.plugin.errors import Problems
from imserver.plugin.http import (
    PROBLEM,
    Acting,
    Api,
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
"""The fields of a message that a request may set. Other fields are ignored."""
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
"""A link or a mention: its address, or its kind and name; and its label."""
_EVERYBODY: Final = ("here", "channel", "everyone")
_SEPARATORS: Final = {
    "rich_text_section": "",
    "rich_text_preformatted": "",
    "context": " ",
    "actions": " ",
}
"""Kind of a block → the separator between its elements, if it is no new
line."""
_WRAPPED: Final = {
    "emoji": (":", "name", ":"),
    "user": ("<@", "user_id", ">"),
    "broadcast": ("<!", "range", ">"),
}
"""Kind of an element → the text before it, the field with its content, and the
text behind it. So a user is written as in a text, for example ``<@U123>``."""


def text_of(given: dict[str, Any]) -> tuple[str, bool]:
    """The text of a message of Slack in our Markdown.

    ``given`` has the fields ``text``, ``blocks`` and ``attachments`` of the
    message. Returns also whether it mentions everybody. For example,
    ``{"text": "<!here> see <https://a.example|the log>"}`` becomes ``("@all see
    [the log](https://a.example)", True)``.
    """
    # If the message has blocks, its ``text`` is only for notifications.
    parts = [_block_text(given.get("blocks"), 0) or _string(given.get("text"))]
    attachments = given.get("attachments")
    if isinstance(attachments, list):
        parts += map(_attachment_text, attachments)
    raw = _lines(parts)
    text = _unescaped(_TAG.sub(_tag_text, raw))
    return text, _mentions_everybody(raw)


def _unescaped(text: str) -> str:
    """A text of Slack without its three escapes, such as ``&lt;`` for ``<``."""
    # The ampersand comes last: `&amp;lt;` means `&lt;`.
    for escape, sign in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        text = text.replace(escape, sign)
    return text


def _mentions_everybody(raw: str) -> bool:
    """Whether a text with tags of Slack has ``<!here>`` or a similar tag."""
    for tag in _TAG.finditer(raw):
        _url, kind, name, _label = tag.groups("")
        if kind == "!" and name in _EVERYBODY:
            return True
    return False


def _lines(parts: Iterable[str]) -> str:
    """The non-empty parts, each in a line of its own."""
    return "\n".join(part for part in parts if part)


def _tag_text(tag: re.Match[str]) -> str:
    """The Markdown of a tag of Slack.

    ``<https://a.example|label>`` becomes a link, ``<!here>`` becomes ``@all``,
    and ``<@U123|ann>`` becomes ``@ann``.
    """
    url, kind, name, label = tag.groups("")
    if url:
        if label in ("", url):
            return url
        # A label with brackets would end the link of Markdown.
        if re.search(r"[][()]", label + url):
            return f"{label} {url}"
        return f"[{label}]({url})"
    return _mention_text(kind, name, label)


def _mention_text(kind: str, name: str, label: str) -> str:
    """The text of a tag that is no link; ``kind`` is its sign, such as ``@``."""
    if kind == "!":
        if name in _EVERYBODY:
            return "@all"
        # Such as <!subteam^S123|@team> or <!date^1790000000^…|tomorrow>.
        return label or f"@{name.partition('^')[0]}"
    if kind.endswith(":"):  # an e-mail address or a phone number
        return label or name
    # A user or a channel. The label may begin with the same sign, @ or #.
    return kind + (label or name).removeprefix(kind)


def _string(value: Any) -> str:
    """The value if it is a text, else ``""``."""
    if isinstance(value, str):
        return value
    return ""


def _link(url: Any, label: str) -> str:
    """A link in the form of Slack, ``<url|label>``.

    Returns the label alone if ``url`` is no address.
    """
    label = label.replace("|", " ").replace("\n", " ")
    if label and isinstance(url, str) and url.startswith("http"):
        return f"<{url}|{label}>"
    return label


def _attachment_text(given: Any) -> str:
    """The text of an attachment, still with the tags of Slack.

    An attachment has a title, a text, fields, blocks and a picture, all of them
    optional. Returns ``""`` if it has no text.
    """
    if not isinstance(given, dict):
        return ""
    parts = _texts_before_blocks(given)
    parts.append(_block_text(given.get("blocks"), depth=0))
    # A picture becomes a link to it.
    image = _string(given.get("image_url"))
    if image:
        parts.append(f"<{image}>")
    return _lines(parts) or _string(given.get("fallback"))


def _field_text(field: Any) -> str:
    """A field of an attachment as ``title: value``; ``""`` if it is no field."""
    if not isinstance(field, dict):
        return ""
    title = _string(field.get("title"))
    value = _string(field.get("value"))
    return f"{title}: {value}".strip(": ")


def _texts_before_blocks(attachment: dict[str, Any]) -> list[str]:
    """The title, the text and the fields of an attachment."""
    texts = [
        _string(attachment.get("pretext")),
        _link(attachment.get("title_link"), _string(attachment.get("title"))),
        _string(attachment.get("text")),
    ]
    fields = attachment.get("fields")
    if isinstance(fields, list):
        texts += map(_field_text, fields)
    return texts


def _wrapped_text(element: dict[str, Any], kind: str) -> str:
    """The text of an element that has one field between signs, such as
    ``<@U123>``."""
    before, name, behind = _WRAPPED[kind]
    return f"{before}{_string(element.get(name))}{behind}"


def _block_text(value: Any, depth: int) -> str:
    """The text of a block of Slack, of an element, or of a list of them.

    The text still has the tags of Slack. Blocks are nested; ``depth`` is the
    level of this block. Blocks that are deeper than :data:`MOST_DEPTH` are left
    out. Returns ``""`` if there is no text.
    """
    if depth > MOST_DEPTH:
        return ""
    if isinstance(value, list):
        return _lines([_block_text(each, depth + 1) for each in value])
    if not isinstance(value, dict):
        return ""

    kind = _string(value.get("type"))
    text = value.get("text")
    if kind in ("mrkdwn", "plain_text", "text"):
        return _string(text)
    if kind in _WRAPPED:
        return _wrapped_text(value, kind)
    if kind in ("link", "button", "image"):
        return _link_text(value, depth)
    return _container_text(value, kind, depth)


def _link_text(block: Mapping[str, Any], depth: int) -> str:
    """A link, button or picture as a link in the form of Slack."""
    text = block.get("text")
    # The label is a text, or an object with a text.
    label = (
        _string(text) or _block_text(text, depth + 1) or _string(block.get("alt_text"))
    )
    url = _string(block.get("url") or block.get("image_url"))
    return _link(url, label or url)


def _container_text(block: Mapping[str, Any], kind: str, depth: int) -> str:
    """The text of a block that contains other blocks, such as a section.

    The kind of block decides whether the texts of its parts are in separate
    lines or in one line.
    """
    parts = [_block_text(block.get(name), depth + 1) for name in ("text", "fields")]
    elements = block.get("elements")
    if isinstance(elements, list):
        separator = _SEPARATORS.get(kind, "\n")
        texts = [_block_text(element, depth + 1) for element in elements]
        parts.append(separator.join(filter(None, texts)))
    return _lines(parts)


# --- the route ----------------------------------------------------------------


class HookApi(Struct, frozen=True):
    """The services of the route that takes messages."""

    core: Core
    messages: MessageApi


def _read(api: HookApi, call: Call) -> None:
    """Find the webhook of a request, and read its message into ``call.input``.

    The bot of the webhook becomes the acting user. Raises ApiProblem,
    UnknownHook and TooManyRequests.
    """
    hook = _hook_of(api, call)
    fields = call.decode_json(_fields, _json_of(call))
    message: dict[str, Any] = {name: fields[name] for name in _TAKEN if name in fields}
    if not ("type" in fields or "data" in fields):
        # The message may have the form of Slack.
        _translate_slack(call, fields, message)
    # From here on it is checked as a message of any other back end.
    call.input = call.decode_json(_message, msgspec.json.encode(message))
    call.input.conversation = hook.group
    _act_as_bot(api, call, hook)


def _hook_of(api: HookApi, call: Call) -> IncomingHook:
    """The webhook in the path of a request. Raises UnknownHook and
    TooManyRequests."""
    request = call.request
    token = request.path.removeprefix(PATH)
    return bots_of(api.core).incoming.with_token(token, request.host)


def _act_as_bot(api: HookApi, call: Call, hook: IncomingHook) -> None:
    """Make the bot of a webhook the acting user of a request."""
    call.app = api.core.tenants.resolve(hook.app)
    call.user = str(hook.id)
    accounts_of(api.core).tokens.know_bot(call.app, call.user)
    call.act_as(Principal("bot", apps=frozenset({call.app}), user=call.user))


def _translate_slack(
    call: Call, fields: Mapping[str, Any], message: dict[str, Any]
) -> None:
    """Write the text of a message of Slack into ``message``, in our Markdown.

    ``fields`` has the JSON texts of its fields. Raises ApiProblem.
    """
    slack_fields: dict[str, Any] = {}
    for name in ("text", "blocks", "attachments"):
        if name in fields:
            value = bytes(fields[name])
            slack_fields[name] = call.decode_json(_anything, value)
    text, mentions_all = text_of(slack_fields)
    if text:
        message["text"] = text
    if mentions_all:
        message.setdefault("mentions", ["all"])


def _json_of(call: Call) -> bytes:
    """The JSON of a request: its body, or the field ``payload`` of a form.

    Raises ApiProblem if it has neither.
    """
    body = call.body
    kind = call.request.headers.get("content-type", "")
    is_form = kind.startswith("application/x-www-form-urlencoded")
    # curl calls JSON a form, too.
    if is_form and not body.lstrip().startswith(b"{"):
        body = call.form().get("payload", "").encode("utf-8", "surrogatepass")
    if not body or kind.startswith("multipart/"):
        raise ApiProblem.invalid(
            "Send a JSON object, or a form with the JSON in the field payload"
        )
    return body


def post(api: HookApi, call: Call) -> HttpResponse:
    """Answer ``POST /hooks/<token>``: store the message.

    Grafana and Alertmanager look for ``ok`` in the answer.
    """
    answer = msgspec.structs.asdict(api.messages.send(call, call.input))
    answer["ok"] = True
    return call.reply(answer)


def _services(core: Core, api: Api) -> HookApi:
    """The services that the route uses."""
    return HookApi(core, MessageApi.of(core, api))


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
        service=_services,
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
            "The URL of the webhook on this server, relative to the server's address. "
            "Save the URL, because no other answer shows it."
        ),
    ]


class HookShown(Struct):
    """A webhook."""

    id: HookId
    group: GroupId
    nickname: Nickname
    avatar: Avatar
    created: Annotated[int, about("The time of creation, in Unix seconds.")]


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
    schema=(
        "HookCreate",
        "The group of the webhook, and how its messages show the sender.",
    ),
    voice=True,  # Other users see the nickname, so a muted user may not set it.
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

    For the owner and admins of a group. Each `POST` to the URL becomes a
    message in the group. The sender is a new bot of the acting user, which
    joins the group.
    """
    hook, token = incoming.create(
        call.app, call.user, id_of(group), nickname=nickname, avatar=avatar
    )
    return HookCreated(str(hook.id), PATH + token)


@routes.get(
    "/hooks",
    Needs.ADMIN_OR_ACCOUNT,
    problems=(UnknownGroup.problem, Problems.ROLE_TOO_LOW),
    user="optional",
)
def hooks(incoming: IncomingHooks, call: Call, request: GroupChange) -> HooksAnswer:
    """List the incoming webhooks of a group.

    For the owner and admins.
    """
    rows = incoming.of_group(call.app, call.user, id_of(request.group))
    hooks = [
        HookShown(
            id=account.user,
            group=str(hook.group),
            nickname=account.nickname,
            avatar=account.avatar,
            created=hook.created,
        )
        for hook, account in rows
    ]
    return HooksAnswer(hooks)


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

    For the owner and admins of the group. The bot of the webhook is deleted;
    its messages stay.
    """
    incoming.revoke(call.app, call.user, id_of(hook))
    return HookRevoked(hook)
