"""Messages of ntfy, and the reading of requests that publish one
(https://docs.ntfy.sh/publish/)."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from email.errors import MessageError
from email.header import decode_header, make_header
from secrets import token_urlsafe
from time import time
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from imserver.plugin.errors import HttpProblem
from imserver.plugin.http import PROBLEM, ApiProblem, HttpRequest, HttpResponse
from imserver.plugin.wire import base64url

MAX_ACTIONS: Final = 3
MAX_PARAMETERS: Final = 64
MAX_CHARACTERS: Final = 4096
"""Limit of the actions, and of a value that is decoded as in RFC 2047, in
characters. Their parsers take 2 µs for each."""
DEFAULT_PRIORITY: Final = 3
PRIORITIES: Final = {
    "min": 1,
    "low": 2,
    "default": DEFAULT_PRIORITY,
    "high": 4,
    "max": 5,
    "urgent": 5,
    "1": 1,
    "2": 2,
    "3": 3,
    "4": 4,
    "5": 5,
}
ACTIONS: Final = {"view": "url", "http": "url", "copy": "value", "broadcast": ""}
"""Kind of an action → the field that it needs. This field may stand third,
without its name."""
_ID_BYTES: Final = 9
_ACTION_ID_BYTES: Final = 7
"""Number of random bytes in the id of an action."""
_CODES_OF_STATUS: Final = 100
"""How many codes of ntfy each HTTP status has."""

# Codes of ntfy,
# https://github.com/binwiederhier/ntfy/blob/main/server/errors.go
INVALID: Final = 40000
INVALID_PRIORITY: Final = 40007
INVALID_SINCE: Final = 40008
INVALID_TOPIC: Final = 40009
INVALID_ATTACHMENT: Final = 40013
NO_FILES: Final = 40014
INVALID_JSON: Final = 40017
INVALID_ACTIONS: Final = 40018
INVALID_ICON: Final = 40021
UNAUTHORIZED: Final = 40101
NOT_FOUND: Final = 40401
REFUSED: Final = {
    ("delay", "at", "in"): (40004, "this server delivers no message later"),
    ("email", "e-mail", "mail", "e"): (40001, "this server sends no e-mail"),
    ("call",): (40032, "this server makes no calls"),
    ("template", "tpl"): (40043, "this server has no templates"),
    ("sequence-id", "sid"): (40049, "this server does not replace messages"),
    ("poll-id",): (40000, "this server sends no requests to poll"),
}
"""Parameters of ntfy that are refused → the code, and the reason."""
_YES: Final = ("1", "yes", "true", "on")


class Action(Struct, omit_defaults=True):
    """A button of a message, with what it does: open a URL, send a request,
    send a broadcast of Android, or copy a text."""

    action: str
    label: str
    id: str = ""
    clear: bool = False
    url: str = ""
    method: str = ""
    headers: dict[str, str] = {}
    body: str = ""
    intent: str = ""
    extras: dict[str, str] = {}
    value: str = ""


class NtfyMessage(Struct, omit_defaults=True):
    """A message, or another event of a stream, such as a sign of life.

    ``event``: ``message``, ``open`` or ``keepalive``. ``time``, ``expires``:
    Unix seconds.
    """

    id: str
    time: int
    event: str
    topic: str
    expires: int = 0
    title: str = ""
    message: str = ""
    priority: int = 0
    tags: tuple[str, ...] = ()
    click: str = ""
    icon: str = ""
    actions: tuple[Action, ...] = ()
    attachment: dict[str, str] = {}
    content_type: str = ""
    encoding: str = ""


def new_message(event: str, topic: str) -> NtfyMessage:
    """A message without content. ``event``: ``message``, ``open`` or
    ``keepalive``."""
    return NtfyMessage(token_urlsafe(_ID_BYTES), int(time()), event, topic)


def bad(code: int, text: str) -> ApiProblem:
    """The refusal with a code of ntfy, such as 40009. Its first three digits
    are the status of HTTP."""
    return ApiProblem(HttpProblem(code // _CODES_OF_STATUS, str(code), text))


def code_of(status: int) -> int:
    """The code of ntfy for a refusal that has only a status: 40401 for 404."""
    return status * _CODES_OF_STATUS + 1


def _refuse(
    problem: HttpProblem, _request: HttpRequest, detail: str = ""
) -> HttpResponse:
    """Refuse a request in ntfy's form: ``{"code": 40009, "http": 400, "error":
    "…"}``."""
    if problem.code.isdecimal():
        code = int(problem.code)
    else:
        code = code_of(problem.status)
    about = {"code": code, "http": problem.status, "error": detail or problem.message}
    return HttpResponse(problem.status, msgspec.json.encode(about))


STYLE: Final = replace(PROBLEM, refuse=_refuse)


class Parameters:
    """The parameters of a request.

    They may be in JSON (``json_fields``), in headers with or without ``X-``, or
    in the query. The first of these that has a parameter counts.
    """

    @classmethod
    def of(
        cls, request: HttpRequest, json_fields: Mapping[str, str] | None = None
    ) -> Parameters:
        """The parameters of a request to a route. Raises ApiProblem."""
        return cls(request.headers, request.query.decode("latin-1"), json_fields)

    def __init__(
        self,
        headers: Mapping[str, str],
        query: str,
        json_fields: Mapping[str, str] | None = None,
    ) -> None:
        """Decode the headers and the query. Raises ApiProblem if there are too
        many parameters."""
        try:
            pairs = parse_qsl(
                query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS
            )
        except ValueError as error:
            raise bad(INVALID, f"the parameters cannot be read: {error}") from None
        text = {name: _decoded_header(value) for name, value in headers.items()}
        # If the query has several values with one name, the first one counts.
        fields = {name.lower(): value for name, value in reversed(pairs)}
        self._sources = (json_fields or {}, text, fields)

    def get(self, *names: str) -> str:
        """The value of the parameter with one of these names; ``""`` if it is
        not given.

        A value may have encoded words, such as ``=?UTF-8?B?w7Y=?=``.
        """
        value = self._first_value((f"x-{names[0]}", *names))
        if "=?" in value and len(value) <= MAX_CHARACTERS:
            value = _ENCODED.sub(_decoded_words, value)
        return value.strip()

    def _first_value(self, keys: Sequence[str]) -> str:
        """The first value with one of these names; ``""`` if no source has a
        value."""
        for source in self._sources:
            for key in keys:
                if source.get(key):
                    return source[key]
        return ""

    def credential(self) -> str:
        """The key or token of a request; ``""`` without a credential.

        It stands behind ``Bearer``, or is the password of ``Basic``. This is in
        the header ``Authorization``, or in Base64 in the parameter ``auth``.
        Raises ApiProblem.
        """
        _, headers, query = self._sources
        try:
            header = (
                headers.get("authorization")
                or base64url.decode_any_form(query.get("auth", "")).decode()
            )
            scheme, _, credential = header.partition(" ")
            # The user name before the colon does not matter here.
            if scheme.lower() == "basic":
                return b64decode(credential).decode().partition(":")[2]
            return credential.strip()
        except ValueError:
            raise bad(UNAUTHORIZED, "the key or token cannot be read") from None

    def has(self, *names: str) -> bool:
        """Whether the parameter with one of these names means yes."""
        return self.get(*names).lower() in _YES

    def tags(self) -> tuple[str, ...]:
        """The tags of a message, or of a filter."""
        words = self.get("tags", "tag", "ta").split(",")
        return tuple(filter(None, map(str.strip, words)))

    def priorities(self) -> frozenset[int]:
        """The priorities of a message, which has at most one, or of a filter.

        They are numbers from 1 to 5. The result is empty if none is named.
        Raises ApiProblem.
        """
        words = [
            word.strip().lower()
            for word in self.get("priority", "prio", "p").split(",")
        ]
        # Browsers send the header "priority: u=…" of RFC 9218, which is another
        # one.
        if words[0] == "" or words[0].startswith("u="):
            return frozenset()
        if not PRIORITIES.keys() >= set(words):
            raise bad(
                INVALID_PRIORITY,
                "a priority is 1 to 5, or min, low, default, high, max",
            )
        return frozenset(PRIORITIES[word] for word in words)


def _decoded_header(header: str) -> str:
    """The text in a header, which is UTF-8, or Latin-1 as `fetch` sends it."""
    try:
        if header.isascii():
            return header
        # The server reads headers as Latin-1.
        return header.encode("latin-1").decode()
    except ValueError:
        return header


_ENCODED: Final = re.compile(
    r"=\?[^?\s]+\?[BbQq]\?[^?\s]*\?=(?:\s+=\?[^?\s]+\?[BbQq]\?[^?\s]*\?=)*"
)


def _decoded_words(words: re.Match[str]) -> str:
    """The text of encoded words (RFC 2047). Words that cannot be decoded stay
    unchanged, as in ntfy."""
    try:
        return str(make_header(decode_header(words[0])))
    except (LookupError, ValueError, MessageError):
        return words[0]


def read_json(body: bytes) -> dict[str, str]:
    """The fields of a request to ``/`` as parameters. Names have dashes in
    place of underscores. Raises ApiProblem."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise bad(INVALID_JSON, f"the body is no message in JSON: {error}") from None

    texts = {}
    for name, value in fields.items():
        texts[name.replace("_", "-")] = _parameter_of_field(name, value)
    return texts


def _parameter_of_field(name: str, value: Any) -> str:
    """The value of a field of JSON, in the form that it has as a parameter.

    A list has commas, true is a word, and actions are JSON.
    """
    if isinstance(value, str) and name != "actions":
        return value
    if isinstance(value, list) and name != "actions":
        return ",".join(map(str, value))
    if not value:
        return ""
    if name == "actions":
        return msgspec.json.encode(value).decode()
    return str(value).lower()


def read_message(
    topic: str, parameters: Parameters, body: bytes, most_bytes: int
) -> NtfyMessage:
    """The message that a request publishes to a topic.

    ``most_bytes``: the longest text. Raises ApiProblem, also for abilities of
    ntfy that this server does not have.
    """
    get = parameters.get
    message = new_message("message", topic)
    for names, (code, text) in REFUSED.items():
        if get(*names):
            raise bad(code, text)
    message.title = get("title", "t")
    message.click = get("click")
    message.tags = parameters.tags()
    _read_text(message, parameters, body, most_bytes)

    message.priority = max(parameters.priorities(), default=0)
    message.icon = _checked_url(get("icon"), INVALID_ICON, "icon")
    # Markdown may be asked for in two ways.
    is_markdown = get("content-type").startswith("text/markdown")
    if is_markdown or parameters.has("markdown", "md"):
        message.content_type = "text/markdown"
    _read_attachment(message, parameters)
    message.actions = _read_actions(get("actions", "action"))
    message.message = message.message or "triggered"
    return message


def _read_attachment(message: NtfyMessage, parameters: Parameters) -> None:
    """Set the attachment of a message, which is the URL of a file elsewhere.
    Raises ApiProblem if the request has a file itself."""
    name = parameters.get("filename", "file", "f")
    url = parameters.get("attach", "a")
    url = _checked_url(url, INVALID_ATTACHMENT, "attachment")
    if url:
        name = name or urlsplit(url).path.rpartition("/")[2] or "attachment"
        message.attachment = {"name": name, "url": url}
        message.message = message.message or f"You received a file: {name}"
    elif name:
        # A name without a URL belongs to a file in the body.
        raise bad(NO_FILES, "this server stores no files; name the URL of one (attach)")


def _read_text(
    message: NtfyMessage, parameters: Parameters, body: bytes, most_bytes: int
) -> None:
    """Set the text of a message to the parameter ``message`` or, without it, to
    the body. Raises ApiProblem if it is too long."""
    # In a header, a line end is written as "\n".
    message.message = parameters.get("message", "m").replace("\\n", "\n")
    if not message.message:
        _read_body(message, body, parameters.has("unifiedpush", "up"))
    if len(message.message.encode()) > most_bytes:
        raise bad(
            NO_FILES,
            f"a message has at most {most_bytes} bytes, and this server stores no files",
        )


def _read_body(message: NtfyMessage, body: bytes, as_base64: bool) -> None:
    """Set the text of a message to a body.

    With ``as_base64`` the body may also be other bytes than text, as
    UnifiedPush sends them. Raises ApiProblem.
    """
    try:
        message.message = body.decode().strip()
    except UnicodeDecodeError:
        if not as_base64:
            raise bad(
                NO_FILES, "the body is not UTF-8, and this server stores no files"
            ) from None
        message.message = b64encode(body).decode()
        message.encoding = "base64"


def _checked_url(url: str, code: int, what: str) -> str:
    """The URL itself, which may be empty.

    Raises ApiProblem with the ``code`` if it is not valid; ``what`` names it
    there.
    """
    if url and not url.lower().startswith(("http://", "https://")):
        raise bad(code, f"the {what} is no URL of http or https")
    if len(url) > MAX_CHARACTERS:
        raise bad(
            code, f"the URL of the {what} has more than {MAX_CHARACTERS} characters"
        )
    return url


_PART: Final = re.compile(
    r"""\s*(?:([A-Za-z0-9_.-]+)\s*=\s*)?(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|([^,;\n]*?))"""
    r"[ \t\r]*([,;\n]|$)"
)
"""A part of an action: its name, its value (quoted or not), and the character
after it."""


def _read_actions(text: str) -> tuple[Action, ...]:
    """The actions of a message, from a JSON array or a short text.

    For example: ``view, Open, https://…; http, Close, https://…``. Raises
    ApiProblem.
    """
    if len(text) > MAX_CHARACTERS:
        raise bad(
            INVALID_ACTIONS, f"the actions have more than {MAX_CHARACTERS} characters"
        )
    actions = _decoded_actions(text)
    for action in actions:
        if not _is_complete(action):
            raise bad(
                INVALID_ACTIONS,
                f"an action is one of {', '.join(ACTIONS)}, with a label, and a url or value",
            )
        action.id = token_urlsafe(_ACTION_ID_BYTES)
    if len(actions) > MAX_ACTIONS:
        raise bad(INVALID_ACTIONS, f"a message has at most {MAX_ACTIONS} actions")
    return actions


def _decoded_actions(text: str) -> tuple[Action, ...]:
    """The actions in a text, which are not checked yet. Raises ApiProblem."""
    try:
        # Libraries send JSON, and people the short form.
        if text.startswith("["):
            rows = msgspec.json.decode(text)
        else:
            rows = list(_simple_actions(text))
        return msgspec.convert(rows, tuple[Action, ...])
    except (ValueError, RecursionError) as error:
        raise bad(INVALID_ACTIONS, f"the actions cannot be read: {error}") from None


def _is_complete(action: Action) -> bool:
    """Whether an action has a known kind, a label, and the field that its kind
    needs."""
    field = ACTIONS.get(action.action)
    if field is None or not action.label:
        return False
    return not field or bool(getattr(action, field))


def _simple_actions(text: str) -> Iterator[dict[str, Any]]:
    """Yield the actions of a short text, as fields of :class:`Action`.

    For example: ``view, Open, https://…, clear=true; http, Close, https://…``.
    The first parts may leave out their names. Raises ValueError.
    """
    row: dict[str, Any] = {}
    for part in _PART.finditer(text):
        name, in_double_quotes, in_single_quotes, bare, end = part.groups(default="")
        quoted = in_double_quotes or in_single_quotes
        value = bare or re.sub(r"\\(.)", r"\1", quoted)
        if not name:
            name = _next_name(row)
        _set_field(row, name, value)
        if end != "," and any(row.values()):
            yield row
            row = {}


def _next_name(row: dict[str, Any]) -> str:
    """The name of a part without a name; ``""`` if no name is left.

    The name ``action``, the name ``label`` and the name of the needed field
    may be left out, in this order.
    """
    unnamed = ("action", "label", ACTIONS.get(row.get("action", ""), ""))
    return next((field for field in unnamed if field not in row), "")


def _set_field(row: dict[str, Any], name: str, value: str) -> None:
    """Set a field of an action in a short text.

    ``headers.Accept`` as name sets one header. Raises ValueError for a value
    without a name.
    """
    field, _, key = name.partition(".")
    if key:
        row.setdefault(field, {})[key] = value
    elif field == "clear":
        row[field] = value.lower() in _YES
    elif field:
        row[field] = value
    elif value:
        raise ValueError(f"`{value}` has no name")
