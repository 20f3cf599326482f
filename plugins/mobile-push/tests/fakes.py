"""Push services that check what the real ones check: Google's, Apple's and
Huawei's, each in its threads.

A test says by ``behave`` what a device gets: an error, a late answer, none, a
reset, the end.
"""

import json
import re
import socket
import ssl
import struct
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import h2.errors
import h2.events
import h2.exceptions
import jwt
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings

FORMS = {"fcm": "f:{:060d}", "apns": "{:064x}", "hms": "h{:060d}"}
"""Service → tokens of devices by number."""
SCOPES = {
    f"https://www.googleapis.com/auth/{name}"
    for name in ("firebase.messaging", "cloud-platform")
}
GOOGLE_TOKEN_URL = "https://oauth2.googleapis.com/token"
GOOGLE_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
}
GOOGLE_STATUS |= {
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
GOOGLE_ITSELF = (
    "UNAUTHENTICATED",
    "PERMISSION_DENIED",
    "NOT_FOUND",
    "RESOURCE_EXHAUSTED",
)
"""Errors that come before FCM: they have no code of FCM."""


def rows(title: str) -> list[tuple[str, ...]]:
    """The rows of the table in README.md whose header begins with ``title``."""
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    table = re.search(rf"^\| {title} \|.*\n\|[ |-]+\n((\|.*\n)+)", text, re.MULTILINE)
    assert table is not None, title
    return [
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in table[1].splitlines()
    ]


STATUSES = {
    name: {
        answer.split()[0]: int(status)
        for answer, status, _ in rows(f"answer of {name}")
    }
    for name in ("FCM", "APNs", "HMS")
}
"""Service → code of an answer → status of HTTP."""


class Notification(NamedTuple):
    """What a service has taken. ``id``: that of the notification, the same for
    each attempt."""

    token: str
    collapse: str
    id: str
    content: dict[str, Any]
    headers: dict[str, str]


class Do(NamedTuple):
    """What happens to one request: ``error``, a code of the service; else
    ``hang``, ``reset``, ``close``, ``goaway`` or ``refuse``. ``seconds``: the
    answer comes so late. ``headers`` of the answer."""

    error: str = ""
    what: str = ""
    seconds: float = 0.0
    headers: Mapping[str, str] = {}
    more: Mapping[str, Any] = {}


class Fake:
    """What all have: devices with what they get, and what was taken."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.taken: list[Notification] = []
        self.requests: Counter[str] = Counter()
        self.problems: list[str] = []
        """What a real service would have refused, or could not have read."""
        self.always: Do | None = None
        """What every request gets that has nothing of its own."""
        self._next: dict[str, list[Do]] = defaultdict(list)
        self.ended = threading.Event()
        self.clock = time.time

    def behave(self, token: str, *what: Do) -> None:
        """What the next requests for a device get, one after the other; then
        they are taken."""
        self._next[token].extend(what)

    def next_for(self, token: str) -> Do | None:
        with self.lock:
            self.requests[token] += 1
            return self._next[token].pop(0) if self._next[token] else self.always

    def take(self, notification: Notification) -> None:
        with self.lock:
            self.taken.append(notification)

    def twice(self) -> list[tuple[str, str, str]]:
        """Device, collapse id and id of what was taken more than once."""
        counts = Counter((each.token, each.collapse, each.id) for each in self.taken)
        return [key for key, count in counts.items() if count > 1]


# --- HTTP/1.1: Google and Huawei ----------------------------------------------


class Refusal(Exception):
    def __init__(self, code: str, text: str = "", field: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.field = field


def refuse(*rows: tuple[Any, *tuple[str, ...]]) -> None:
    """Raise the first refusal that applies: whether it does, code, text,
    field."""
    for applies, *refusal in rows:
        if applies:
            raise Refusal(*refusal)


def size(value: Any) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode())


class HttpFake(Fake):
    """A service with access tokens, over HTTP/1.1 with or without TLS.

    Its class has ``new_token``, ``check_head``, ``token_in``, ``check``,
    ``accepted`` and ``refused``.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.issued: dict[str, float] = {}
        """Access token → its end."""
        self.token_requests = 0
        self.token_seconds = 3600
        self.token_answer: tuple[int, dict[str, Any]] | None = None
        """In place of a token."""
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                fake.serve(self)

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: object) -> None: ...

        self.server = Server(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True
            )
        self.port = self.server.server_address[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(
            target=self.server.serve_forever, args=(0.05,), daemon=True
        ).start()

    def close(self) -> None:
        self.ended.set()
        self.server.shutdown()
        self.server.server_close()

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        if handler.headers.get_content_type() == "application/x-www-form-urlencoded":
            status, answer = self.token_answer or self.new_token(
                parse_qs(body.decode())
            )
            self.token_requests += 1
            send(handler, status, answer)
            return
        do = None
        token = ""
        try:
            self.check_head(handler)
            content = json.loads(body)
            token = self.token_in(content)
            do = self.next_for(token)
            if do is not None:
                self.ended.wait(1e6 if do.what == "hang" else do.seconds)
                if do.what in ("hang", "reset", "close"):
                    end(handler, do.what == "reset")
                    return
                if do.error:
                    raise Refusal(do.error, "as the test wants it")
            notification = self.check(handler, content)
        except Refusal as refusal:
            if do is None or not do.error:
                self.problems.append(f"{refusal.code}: {refusal}")
            status, answer = self.refused(refusal, token, do)
            send(handler, status, answer, do.headers if do else {})
            return
        self.take(notification)
        send(handler, *self.accepted(notification))

    def give_token(self) -> dict[str, Any]:
        token = uuid.uuid4().hex
        self.issued[token] = time.time() + self.token_seconds
        return {
            "access_token": token,
            "expires_in": self.token_seconds,
            "token_type": "Bearer",
        }

    def has_token(self, handler: BaseHTTPRequestHandler) -> bool:
        scheme, _, token = handler.headers.get("authorization", "").partition(" ")
        return scheme == "Bearer" and self.issued.get(token, 0) > time.time()


def send(
    handler: BaseHTTPRequestHandler,
    status: int,
    answer: dict[str, Any],
    headers: Mapping[str, str] | None = None,
) -> None:
    body = json.dumps(answer).encode()
    with suppress(OSError):
        handler.send_response(status)
        for name, value in {
            **(headers or {}),
            "Content-Type": "application/json",
        }.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


def end(handler: BaseHTTPRequestHandler, with_reset: bool) -> None:
    handler.close_connection = True
    if with_reset:
        handler.connection.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
    handler.connection.close()


def check_fields(value: Any, allowed: Mapping[str, Any], path: str) -> None:
    """Raise for what the reference does not have: names, and types of
    values."""
    if not isinstance(value, dict):
        raise Refusal("INVALID_ARGUMENT", f"{path}: expected an object", path)
    for name, inner in value.items():
        kind = allowed.get(name)
        where = f"{path}.{name}"
        if kind is None:
            raise Refusal(
                "INVALID_ARGUMENT", f"Unknown name \"{name}\" at '{path}'", where
            )
        if isinstance(kind, dict):
            check_fields(inner, kind, where)
        elif kind is TEXTS:
            if not isinstance(inner, dict) or not all(
                isinstance(each, str) for each in inner.values()
            ):
                raise Refusal(
                    "INVALID_ARGUMENT",
                    f"Invalid value at '{where}' (TYPE_STRING)",
                    where,
                )
        elif not isinstance(inner, kind) or (kind is int and isinstance(inner, bool)):
            raise Refusal("INVALID_ARGUMENT", f"Invalid value at '{where}'", where)


TEXTS = object()
"""An object whose values are texts."""
SHOWN = dict.fromkeys(
    ("title", "body", "icon", "color", "sound", "tag", "channel_id", "image"), str
)
FCM_MESSAGE = {
    "token": str,
    "data": TEXTS,
    "notification": dict.fromkeys(("title", "body", "image"), str),
    "android": {
        **dict.fromkeys(("collapse_key", "priority", "ttl"), str),
        "data": TEXTS,
        "notification": {**SHOWN, "click_action": str, "notification_count": int},
    },
    "webpush": {
        "headers": TEXTS,
        "data": TEXTS,
        "notification": dict,
        "fcm_options": {"link": str},
    },
    "apns": {"headers": TEXTS, "payload": dict},
}
HMS_MESSAGE = {
    "token": list,
    "data": str,
    "android": {
        **dict.fromkeys(("urgency", "category", "ttl"), str),
        "collapse_key": int,
        "notification": {**SHOWN, "click_action": dict, "badge": dict},
    },
}
"""The fields of the references that senders use."""


class Fcm(HttpFake):
    """Google: tokens for service accounts, and messages of one project."""

    def __init__(
        self,
        public_key: Any,
        email: str,
        project: str,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.public_key = public_key
        self.email = email
        self.project = project
        super().__init__(context)

    def new_token(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        problem = self.check_assertion(form)
        if problem:
            self.problems.append(problem)
            return 400, {"error": "invalid_grant", "error_description": problem}
        return 200, self.give_token()

    def check_assertion(self, form: dict[str, list[str]]) -> str:
        if form.get("grant_type") != ["urn:ietf:params:oauth:grant-type:jwt-bearer"]:
            return "unsupported grant type"
        audiences = [GOOGLE_TOKEN_URL, f"{self.url}/token"]
        needed = {"require": ["iss", "aud", "exp", "iat"]}
        checks = {"audience": audiences, "issuer": self.email, "options": needed}
        try:
            claims = jwt.decode(
                form["assertion"][0], self.public_key, ["RS256"], **checks
            )
        except (jwt.InvalidTokenError, KeyError) as error:
            return f"Invalid JWT: {error}"
        if (
            claims["exp"] - claims["iat"] > 3600
            or abs(time.time() - claims["iat"]) > 300
        ):
            return "Invalid JWT: it must be short-lived (60 minutes) and in a reasonable timeframe"
        return "" if {*claims.get("scope", "").split()} & SCOPES else "invalid scope"

    def check_head(self, handler: BaseHTTPRequestHandler) -> None:
        other = handler.path != f"/v1/projects/{self.project}/messages:send"
        refuse(
            (other, "NOT_FOUND", "Requested entity was not found."),
            (
                not self.has_token(handler),
                "UNAUTHENTICATED",
                "Request had invalid credentials.",
            ),
            (
                handler.headers.get_content_type() != "application/json",
                "INVALID_ARGUMENT",
                "content type",
            ),
        )

    def token_in(self, content: dict[str, Any]) -> str:
        return str(content.get("message", {}).get("token", ""))

    def check(
        self, _handler: BaseHTTPRequestHandler, content: dict[str, Any]
    ) -> Notification:
        check_fields(content, {"message": FCM_MESSAGE, "validate_only": bool}, "")
        message = content["message"]
        token, android, apns = (
            message.get(name, {}) for name in ("token", "android", "apns")
        )
        counted = {
            "data": message.get("data"),
            "notification": message.get("notification"),
        }
        ttl = re.fullmatch(r"(\d+)(\.\d{1,9})?s", android.get("ttl", "0s"))
        link = message.get("webpush", {}).get("fcm_options", {}).get("link", "https://")
        collapse = apns.get("headers", {}).get("apns-collapse-id", "")
        reserved = re.compile(r"from$|message_type$|google\.|gcm\.")
        for wrong, text, field in (
            (not token, "Recipient of the message is not set.", ""),
            (
                not re.fullmatch(r"[A-Za-z0-9_:%.~-]{20,4096}", token or ""),
                "The registration token is not a valid FCM registration token",
                ".token",
            ),
            (
                any(map(reserved.match, message.get("data", {}))),
                "Invalid data payload key",
                ".data",
            ),
            (size(counted) > 4096, "Message is too big", ""),
            (ttl is None or int(ttl[1]) > 2_419_200, "Invalid ttl", ".android.ttl"),
            (
                android.get("priority", "NORMAL").upper() not in ("NORMAL", "HIGH"),
                "Invalid",
                ".priority",
            ),
            (
                not link.startswith("https://"),
                "WebpushFcmOptions.link must be a HTTPS URL",
                ".webpush",
            ),
            (
                len(collapse.encode()) > 64,
                "apns-collapse-id is too long",
                ".apns.headers",
            ),
            (
                apns and size([apns.get("payload"), counted]) > 4096 + 100,
                "APNs payload is too big",
                ".apns.payload",
            ),
        ):
            refuse((wrong, "INVALID_ARGUMENT", text, f"message{field}"))
        facts = json.loads(message.get("data", {}).get("imserver", "{}"))
        return Notification(
            token, android.get("collapse_key", ""), facts.get("id", ""), message, {}
        )

    def accepted(self, _notification: Notification) -> tuple[int, dict[str, Any]]:
        return 200, {"name": f"projects/{self.project}/messages/{uuid.uuid4().hex}"}

    def refused(
        self, refusal: Refusal, _token: str, do: Do | None
    ) -> tuple[int, dict[str, Any]]:
        # the front end of Google: no JSON that anybody documents
        if refusal.code.isdigit():
            return int(refusal.code), {}
        status = STATUSES["FCM"][refusal.code]
        details: list[dict[str, Any]] = []
        if refusal.code not in GOOGLE_ITSELF:
            kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
            details.append({"@type": kind, "errorCode": refusal.code})
        if refusal.field:
            violation = {"field": refusal.field, "description": str(refusal)}
            kind = "type.googleapis.com/google.rpc.BadRequest"
            details.append({"@type": kind, "fieldViolations": [violation]})
        message = str((do.more if do else {}).get("message", refusal))
        return status, {
            "error": {
                "code": status,
                "message": message,
                "status": GOOGLE_STATUS[status],
                "details": details,
            }
        }


class Hms(HttpFake):
    """Huawei: tokens for one application, and its messages."""

    def __init__(
        self, app_id: str, secret: str, context: ssl.SSLContext | None = None
    ) -> None:
        self.app_id = app_id
        self.secret = secret
        super().__init__(context)

    def new_token(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        expected = {"client_id": self.app_id, "client_secret": self.secret}
        expected["grant_type"] = "client_credentials"
        if form != {name: [value] for name, value in expected.items()}:
            self.problems.append("the application or its secret is wrong")
            return 400, {
                "error": 1101,
                "sub_error": 20001,
                "error_description": "invalid request",
            }
        return 200, self.give_token()

    def check_head(self, handler: BaseHTTPRequestHandler) -> None:
        refuse(
            (
                handler.path != f"/v1/{self.app_id}/messages:send",
                "404",
                "there is no such service",
            ),
            (
                not handler.headers.get("authorization"),
                "80200001",
                "OAuth authentication error.",
            ),
            (not self.has_token(handler), "80200003", "OAuth token expired."),
        )

    def token_in(self, content: dict[str, Any]) -> str:
        tokens = content.get("message", {}).get("token", [])
        if not isinstance(tokens, list) or not 1 <= len(tokens) <= 1000:
            raise Refusal(
                "80300010",
                "The number of tokens in the message body exceeds the default value.",
            )
        return str(tokens[0])

    def check(
        self, handler: BaseHTTPRequestHandler, content: dict[str, Any]
    ) -> Notification:
        try:
            check_fields(content, {"validate_only": bool, "message": HMS_MESSAGE}, "")
        except Refusal as refusal:
            raise Refusal(
                "80100003", f"Incorrect message structure: {refusal}"
            ) from None
        message = content["message"]
        token = self.token_in(content)
        without = {name: value for name, value in message.items() if name != "token"}
        android = message.get("android", {})
        shown = android.get("notification")
        ttl = re.fullmatch(r"(\d+)s", android.get("ttl", "1s"))
        badge, click = (
            (shown or {}).get(name) or {} for name in ("badge", "click_action")
        )
        json_type = handler.headers.get_content_type() == "application/json"
        refuse(
            (not json_type, "80100003", "Incorrect message structure."),
            (
                size(without) > 4096,
                "80300008",
                "The message body (excluding the token) exceeds the default.",
            ),
            (ttl is None or not 0 < int(ttl[1]) <= 1_296_000, "80100001", "ttl"),
            (
                android.get("urgency", "NORMAL") not in ("NORMAL", "HIGH"),
                "80100001",
                "urgency",
            ),
            (
                not -1 <= android.get("collapse_key", -1) <= 100,
                "80100013",
                "collapse_key",
            ),
            (
                shown and not (shown.get("title") and shown.get("body")),
                "80100003",
                "title and body",
            ),
            (
                shown and click.get("type") not in (1, 2, 3),
                "80100003",
                "click_action is mandatory",
            ),
            (badge and not badge.get("class"), "80100003", "badge: class is mandatory"),
            (
                not shown and not message.get("data"),
                "80100003",
                "neither data nor notification",
            ),
        )
        facts = json.loads(message.get("data") or "{}")
        return Notification(
            token, (shown or {}).get("tag", ""), facts.get("id", ""), message, {}
        )

    def accepted(self, _notification: Notification) -> tuple[int, dict[str, Any]]:
        return 200, {
            "code": "80000000",
            "msg": "Success",
            "requestId": uuid.uuid4().hex,
        }

    def refused(
        self, refusal: Refusal, token: str, _do: Do | None
    ) -> tuple[int, dict[str, Any]]:
        if refusal.code not in STATUSES["HMS"]:
            return int(refusal.code), {}
        text = str(refusal)
        if refusal.code == "80100000":
            text = json.dumps({"success": 0, "failure": 1, "illegal_tokens": [token]})
        request = {"requestId": uuid.uuid4().hex}
        return STATUSES["HMS"][refusal.code], {
            "code": refusal.code,
            "msg": text,
            **request,
        }


# --- HTTP/2: Apple ------------------------------------------------------------


class Apns(Fake):
    """Apple: notifications to one application, with tokens of one key.

    ``streams``: requests at a time on a connection; like Apple, 1 before the
    first with a good token. ``window``: bytes of a body before the server takes
    more. ``table``: bytes of headers that it remembers.
    """

    def __init__(
        self,
        public_key: Any,
        key_id: str,
        team_id: str,
        topic: str,
        context: ssl.SSLContext | None = None,
        streams: int = 100,
        window: int = 65535,
        table: int = 4096,
    ) -> None:
        super().__init__()
        self.public_key = public_key
        self.key_id = key_id
        self.team_id = team_id
        self.topic = topic
        self.streams = streams
        self.window = window
        self.table = table
        self.context = context
        self.update_seconds = 1200.0
        """A second new token within so many seconds is refused."""
        self.tokens: dict[str, float] = {}
        """Token of a provider → when it came first."""
        self.claims: dict[str, dict[str, Any]] = {}
        """Token whose signature was verified → what it says."""
        self.connections: list[ApnsConnection] = []
        self.most_streams = 0
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self.ended.is_set():
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            connection = ApnsConnection(self, sock)
            self.connections.append(connection)
            threading.Thread(target=connection.run, daemon=True).start()

    def close(self) -> None:
        self.ended.set()
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for connection in self.connections:
            connection.end()

    def check_token(self, header: str) -> None:
        """Raise for what Apple does not take as a token of a provider."""
        scheme, _, token = header.partition(" ")
        refuse((scheme.lower() != "bearer" or not token, "MissingProviderToken"))
        needed = {"require": ["iss", "iat"], "verify_iat": False}
        try:
            key_id = jwt.get_unverified_header(token).get("kid")
            claims = self.claims.get(token) or jwt.decode(
                token, self.public_key, ["ES256"], options=needed
            )
        except jwt.InvalidTokenError as error:
            raise Refusal("InvalidProviderToken", str(error)) from None
        self.claims[token] = claims
        is_ours = claims["iss"] == self.team_id and claims.keys() == {"iss", "iat"}
        age = self.clock() - claims["iat"]
        refuse(
            (key_id != self.key_id or not is_ours or age < -60, "InvalidProviderToken"),
            (age > 3600, "ExpiredProviderToken", "it is older than an hour"),
        )
        with self.lock:
            now = self.clock()
            if token not in self.tokens:
                if any(
                    now - since < self.update_seconds for since in self.tokens.values()
                ):
                    raise Refusal("TooManyProviderTokenUpdates", "")
                self.tokens[token] = now

    def check(self, fields: list[tuple[str, str]], body: bytes) -> Notification:
        headers = dict(fields)
        path = re.fullmatch(r"/3/device/(.*)", headers[":path"])
        refuse(
            (len(headers) < len(fields), "DuplicateHeaders"),
            (headers[":method"] != "POST", "MethodNotAllowed"),
            (path is None, "BadPath"),
        )
        assert path is not None
        refuse((not path[1], "MissingDeviceToken"))
        self.check_token(headers.get("authorization", ""))
        topic, kind, priority, until, collapse, id = (
            headers.get(f"apns-{name}", absent)
            for name, absent in (
                ("topic", ""),
                ("push-type", "alert"),
                ("priority", "10"),
                ("expiration", "0"),
                ("collapse-id", ""),
                ("id", str(uuid.uuid4())),
            )
        )
        kinds = "alert background location voip complication fileprovider mdm liveactivity pushtotalk"
        is_background = kind == "background"
        refuse(
            (
                not re.fullmatch(r"([0-9a-fA-F]{2}){32,100}", path[1]),
                "BadDeviceToken",
                path[1],
            ),
            (not topic, "MissingTopic"),
            (topic != self.topic, "DeviceTokenNotForTopic", topic),
            (kind not in kinds.split(), "InvalidPushType"),
            (
                priority not in (("5",) if is_background else ("1", "5", "10")),
                "BadPriority",
            ),
            (
                not until.isdigit() or 0 < int(until) < self.clock() - 60,
                "BadExpirationDate",
            ),
            (len(collapse.encode()) > 64, "BadCollapseId"),
            (
                not re.fullmatch(
                    r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", id
                ),
                "BadMessageId",
            ),
            (not body, "PayloadEmpty"),
            (len(body) > 4096, "PayloadTooLarge"),
        )
        content: dict[str, Any] = json.loads(body)
        aps = content["aps"]
        known = "alert badge sound thread-id category content-available mutable-content interruption-level"
        assert aps.keys() <= {*known.split()}, aps
        assert (
            aps == {"content-available": 1}
            if is_background
            else {"alert", "badge", "sound"} & aps.keys()
        )
        assert aps.get("interruption-level", "active") in (
            "passive",
            "active",
            "time-sensitive",
            "critical",
        )
        return Notification(
            path[1],
            collapse,
            content.get("imserver", {}).get("id", id),
            content,
            headers,
        )


class ApnsConnection:
    """One connection of a provider: a thread that reads; late answers come from
    timers."""

    def __init__(self, fake: Apns, sock: socket.socket) -> None:
        self.fake = fake
        self.sock = sock
        self.lock = threading.RLock()
        self.h2 = H2Connection(
            H2Configuration(client_side=False, header_encoding="utf-8")
        )
        self.requests: dict[int, tuple[list[tuple[str, str]], bytearray]] = {}
        self.is_known = False
        self.pings = 0
        self.last = 2**31
        """The last request that is answered."""

    def run(self) -> None:
        try:
            if self.fake.context is not None:
                self.sock = self.fake.context.wrap_socket(self.sock, server_side=True)
                # aioapns names none
                if self.sock.selected_alpn_protocol() not in ("h2", None):
                    return
            with self.lock:
                values = {
                    SettingCodes.MAX_CONCURRENT_STREAMS: min(1, self.fake.streams),
                    SettingCodes.INITIAL_WINDOW_SIZE: self.fake.window,
                    SettingCodes.HEADER_TABLE_SIZE: self.fake.table,
                }
                self.h2.local_settings = Settings(client=False, initial_values=values)
                self.h2.decoder.max_allowed_table_size = self.fake.table
                self.h2.initiate_connection()
                self.flush()
            while data := self.sock.recv(65536):
                with self.lock:
                    for event in self.h2.receive_data(data):
                        self.happened(event)
                    self.flush()
        except (OSError, h2.exceptions.H2Error) as error:
            if isinstance(error, h2.exceptions.H2Error):
                self.fake.problems.append(f"HTTP/2: {type(error).__name__} {error}")
        finally:
            self.end()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.sock.sendall(data)

    def end(self, with_reset: bool = False) -> None:
        with suppress(OSError):
            if with_reset:
                self.sock.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
            else:
                self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def happened(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            fields = [(str(name), str(value)) for name, value in event.headers]
            self.requests[event.stream_id] = fields, bytearray()
            self.fake.most_streams = max(self.fake.most_streams, len(self.requests))
            if len(self.requests) > (self.fake.streams if self.is_known else 1):
                self.fake.problems.append("more streams than the settings allow")
        elif isinstance(event, h2.events.DataReceived):
            self.requests[event.stream_id][1].extend(event.data)
            self.h2.acknowledge_received_data(
                event.flow_controlled_length, event.stream_id
            )
        elif isinstance(event, h2.events.StreamEnded):
            self.answer(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.requests.pop(event.stream_id, None)
        elif isinstance(event, h2.events.PingReceived):
            self.pings += 1

    def answer(self, number: int) -> None:
        if number > self.last:
            return
        fields, body = self.requests[number]
        token = dict(fields)[":path"].rpartition("/")[2]
        do = self.fake.next_for(token) or Do()
        if do.what in ("close", "reset-connection"):
            self.end(do.what == "reset-connection")
        elif do.what in ("refuse", "reset"):
            codes = h2.errors.ErrorCodes
            self.requests.pop(number)
            self.h2.reset_stream(
                number,
                codes.REFUSED_STREAM if do.what == "refuse" else codes.INTERNAL_ERROR,
            )
        # the answer to this request comes; what came after it was not looked at
        elif do.what == "goaway":
            self.go_away(number, do.more.get("reason", ""))
            self.finish(number, fields, bytes(body), do)
        elif do.what == "goaway-before":
            self.go_away(max(0, number - 2), do.more.get("reason", "Shutdown"))
        elif do.seconds:
            timer = threading.Timer(
                do.seconds, self.finish_late, (number, fields, bytes(body), do)
            )
            timer.daemon = True
            timer.start()
        elif do.what != "hang":
            self.finish(number, fields, bytes(body), do)

    def go_away(self, last: int, reason: str) -> None:
        """GOAWAY without the end of h2's state: the requests before are
        answered."""
        more = json.dumps({"reason": reason}).encode() if reason else b""
        self.last = last
        frame = (
            struct.pack(">I", 8 + len(more))[1:]
            + b"\x07\x00"
            + bytes(4)
            + struct.pack(">II", last, 0)
            + more
        )
        self.flush()
        self.sock.sendall(frame)

    def finish_late(
        self, number: int, fields: list[tuple[str, str]], body: bytes, do: Do
    ) -> None:
        with self.lock, suppress(OSError, h2.exceptions.H2Error):
            self.finish(number, fields, body, do)
            self.flush()

    def finish(
        self, number: int, fields: list[tuple[str, str]], body: bytes, do: Do
    ) -> None:
        self.requests.pop(number, None)
        head = {"apns-id": dict(fields).get("apns-id", str(uuid.uuid4()))}
        try:
            if do.error:
                raise Refusal(do.error, "as the test wants it")
            notification = self.fake.check(fields, body)
        except Refusal as refusal:
            if not do.error:
                self.fake.problems.append(f"{refusal.code}: {refusal}")
            status = STATUSES["APNs"].get(refusal.code) or int(refusal.code)
            answer: dict[str, Any] = {"reason": refusal.code, **do.more}
            if status == 410:
                answer.setdefault("timestamp", int(time.time() * 1000))
            head |= {":status": str(status), **do.headers}
            self.h2.send_headers(
                number, [(":status", head.pop(":status")), *head.items()]
            )
            self.h2.send_data(number, json.dumps(answer).encode(), end_stream=True)
            return
        except (AssertionError, KeyError, ValueError) as error:
            self.fake.problems.append(f"the payload is wrong: {error!r}")
            self.h2.send_headers(
                number, [(":status", "400"), *head.items()], end_stream=True
            )
            return
        self.fake.take(notification)
        if not self.is_known:
            self.is_known = True
            self.h2.update_settings(
                {SettingCodes.MAX_CONCURRENT_STREAMS: self.fake.streams}
            )
        self.h2.send_headers(
            number, [(":status", "200"), *head.items()], end_stream=True
        )
