"""Common parts of the three push services: apps with their keys, pace, cached
values, and lengths."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from itertools import starmap
from time import monotonic, time
from typing import Any, Final, Generic, Literal, Protocol, TypeVar
from urllib.parse import urlencode, urlsplit

import gevent
import msgspec
from gevent.lock import BoundedSemaphore
from msgspec import Struct, field
from msgspec.structs import replace

from imserver.notifications import retry_after
from imserver.plugin.identity import BadKey, Tenant, Tenants
from imserver.plugin.runtime import Outgoing, RateLimitedLog, Service, Unreachable
from imserver.plugin.wire import PushNotice, PushResult

from .settings import MobilePush, of_app

T = TypeVar("T")

CONTENT_BYTES: Final = 4000
"""Limit of the content in bytes. Google and Huawei accept 4,096 bytes of texts
and data."""
MOST_CONNECTIONS: Final = 16
"""The most requests of an app at a time over HTTP/1.1. More would negotiate TLS
in one turn of the loop."""
AGAIN_SECONDS: Final = 60.0
"""The pause after an answer that an operator must mend. Also the shortest pause
that quotas require."""
WAIT_SECONDS: Final = 1.5
"""The longest wait for the pace of an app. A notification that must wait longer
is sent later."""
_SHORT: Final = 200
"""How many characters of an answer a log line shows."""
_TEMPORARY_STATUSES: Final = (408, 425, 429)
_FAILED_SECONDS: Final = 1.0
"""How long after a failure a value is not made again."""
_USUAL_LIFE_SECONDS: Final = 3600
_EARLY_SHARE: Final = 10
_MOST_EARLY_SECONDS: Final = 300.0
"""How long before its end an access token is renewed, at most. It is a tenth of
its life."""
NO_HEADERS: Final[Mapping[str, str]] = {}

_bad_keys = RateLimitedLog(
    logging.getLogger(__name__), "apps.%s.%s; nothing is sent by %s"
)


class Rule(Struct, frozen=True):
    """The reaction to an answer of a service.

    ``outcome``: the notification was taken; the device is gone; try later; or
    refused for good. ``pause``: for how many seconds the app sends nothing
    through this service, unless the answer names more. ``renew``: first send
    the request once more, with a new access token.
    """

    outcome: Literal["taken", "gone", "later", "refused"]
    pause: float = 0.0
    renew: bool = False

    def result(
        self, status: int, problem: str, headers: Mapping[str, str] = NO_HEADERS
    ) -> PushResult:
        """The result of a notification for an answer with this rule.

        ``problem`` describes the answer for log lines. The header
        ``retry-after`` may ask for a longer pause.
        """
        if self.outcome == "taken":
            return PushResult("taken", status, None, "")
        if self.outcome != "later":
            return PushResult(self.outcome, status, None, problem)
        pause = max(retry_after(headers, time()) or 0.0, self.pause)
        return PushResult("later", status, pause or None, problem)


TAKEN: Final = Rule("taken")
REFUSED: Final = Rule("refused")
LATER: Final = Rule("later")
GONE: Final = Rule("gone")
MEND: Final = Rule("later", AGAIN_SECONDS)
"""Somebody must change a setting, or something at the service. Until then
notifications wait."""
RENEW: Final = Rule("later", AGAIN_SECONDS, renew=True)


def rules(*rows: tuple[Rule, str]) -> Mapping[str, Rule]:
    """A table of rules by the codes of a service, made from rows of a rule and
    its codes."""
    table = {}
    for rule, codes in rows:
        for code in codes.split():
            table[code] = rule
    return table


def rule_of_status(status: int) -> Rule:
    """The rule for an answer whose code is not documented, by its status of
    HTTP."""
    if status in (401, 403):
        return MEND
    if status >= 500 or status in _TEMPORARY_STATUSES:
        return LATER
    return REFUSED


def described(code: str, message: str = "") -> str:
    """The description of an answer for log lines: ``it answered 400: 'no
    title'``."""
    if message:
        return f"it answered {code}: {message[:_SHORT]!r}"
    return f"it answered {code}"


def _new_lock() -> BoundedSemaphore:
    """A lock for one greenlet at a time."""
    return BoundedSemaphore(1)


class Cached(Service, Generic[T]):
    """A value that is used as long as it is valid, such as a token or a
    connection.

    One greenlet at a time makes it. ``make`` may switch greenlets, and raise
    Unreachable; after an error it is not called again for a second.
    ``is_good``: whether a value is still valid.
    """

    make: Callable[[], T]
    is_good: Callable[[T], bool]
    _lock: BoundedSemaphore = field(default_factory=_new_lock)
    value: T | None = None
    """The present value. None if none was made yet."""
    _problem: str = ""
    _until: float = 0.0

    def get(self) -> T:
        """The value, which is made if necessary. Switches greenlets. Raises
        Unreachable."""
        if self.value is not None and self.is_good(self.value):
            return self.value
        # Checked again below, because another greenlet may have made it
        # meanwhile.
        with self._lock:
            if self.value is not None and self.is_good(self.value):
                return self.value
            if monotonic() < self._until:
                raise Unreachable(self._problem)
            try:
                self.value = self.make()
            except Unreachable as error:
                self._problem = str(error)
                self._until = monotonic() + _FAILED_SECONDS
                raise
            return self.value

    def drop(self, value: T) -> None:
        """Forget a value that has turned out to be not valid.

        If a new one exists by now, it stays. Never switches greenlets.
        """
        if self.value is value:
            self.value = None


class AccessToken(Struct, frozen=True):
    """An access token of ours, which is used until ``until`` (Unix seconds)."""

    text: str
    until: float


def ask_for_token(
    requests: Outgoing, url: str, fields: Mapping[str, str], seconds: float
) -> AccessToken:
    """Request an access token (RFC 6749, section 5.1).

    It counts as ended a while before its end, so that no request comes too
    late: by a tenth of its life, at most five minutes. Switches greenlets.
    Raises Unreachable with the error of the service, and never with a token.
    """
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, body, _ = requests.exchange(
        "POST", url, urlencode(fields).encode(), headers, seconds
    )
    answer = json_object(body)
    text = answer.get("access_token")
    # The life may be missing, and then it is an hour.
    life = answer.get("expires_in", _USUAL_LIFE_SECONDS)
    if status != 200 or not isinstance(text, str) or not isinstance(life, int):
        raise _no_token(url, status, answer)
    early_seconds = min(_MOST_EARLY_SECONDS, life / _EARLY_SHARE)
    return AccessToken(text, time() + life - early_seconds)


def _no_token(url: str, status: int, answer: dict[str, Any]) -> Unreachable:
    """The error for an answer without an access token. RFC 6749 has the fields
    ``error`` and ``error_description``; Huawei also has numbers in them."""
    names = ("error", "error_description")
    error = " ".join(str(answer[name]) for name in names if name in answer)
    problem = f"no access token from {urlsplit(url).netloc}: it answered {status} {error[:_SHORT]}"
    return Unreachable(problem.rstrip())


def json_object(body: bytes) -> dict[str, Any]:
    """The JSON object in an answer; empty if the answer is not one."""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError):
        return {}
    if isinstance(answer, dict):
        return answer
    return {}


# --- content ------------------------------------------------------------------


def facts_of(notice: PushNotice, with_text: bool) -> dict[str, Any]:
    """The data about a notification that the application on the phone reads.

    ``with_text``: the application shows the notification itself, and needs its
    texts. Fields without a value are left out.
    """
    facts: dict[str, Any] = {"kind": notice.kind, "id": notice.id, "tag": notice.tag}
    facts |= _optional_facts(notice)
    if with_text and notice.title:
        facts["title"] = notice.title
    if with_text and notice.body:
        facts["body"] = notice.body
    # A badge of 0 means something: it takes the number away.
    if notice.badge is not None:
        facts["badge"] = notice.badge
    if notice.actions:
        facts["actions"] = list(starmap(_fields_of_button, notice.actions))
    if notice.data:
        facts["data"] = msgspec.Raw(notice.data)
    return facts


def _optional_facts(notice: PushNotice) -> dict[str, Any]:
    """The facts about a notification that have a value."""
    optional: dict[str, Any] = {
        "conversation": notice.conversation,
        "entry": notice.entry,
        "count": notice.count,
        "time": notice.time_ms,
        "url": notice.url,
        "icon": notice.icon,
        "token": notice.token,
    }
    return {name: value for name, value in optional.items() if value}


def _fields_of_button(action: str, title: str, url: str) -> dict[str, str]:
    """A button of a notification, as the application reads it."""
    button = {"action": action, "title": title}
    if url:
        button["url"] = url
    return button


def is_silent(notice: PushNotice) -> bool:
    """Whether nothing is shown, because the application gets only data.

    A notification of the kind ``close`` takes earlier ones away.
    """
    return notice.silent or notice.kind == "close"


def fitted(
    notice: PushNotice, most: int, size: Callable[[PushNotice], int]
) -> PushNotice:
    """The notification, shortened until its ``size`` is at most ``most`` bytes.

    Fields are emptied one after the other. Texts are cut only as far as needed.
    """
    # The field that a person can spare most comes first.
    for name in ("body", "data", "icon", "actions", "url", "title"):
        if size(notice) <= most:
            break
        value = getattr(notice, name)
        if name in ("body", "title"):
            notice = _with_short_text(notice, name, value, most, size)
        else:
            notice = replace(notice, **{name: type(value)()})  # an empty value
    return notice


def _with_short_text(
    notice: PushNotice,
    name: str,
    text: str,
    most: int,
    size: Callable[[PushNotice], int],
) -> PushNotice:
    """The notification with as much of a text as fits into ``most`` bytes.

    ``name``: the field of the text. The text is empty if not even one character
    fits.
    """
    shortened = replace(notice, **{name: ""})
    # A binary search for the number of characters.
    low = 0
    high = len(text)
    while low < high:
        middle = (low + high + 1) // 2
        attempt = replace(notice, **{name: f"{text[:middle]}…"})
        if size(attempt) <= most:
            low = middle
            shortened = attempt
        else:
            high = middle - 1
    return shortened


# --- apps ---------------------------------------------------------------------


class Client(Protocol):
    """Sends notifications through one service, with the keys of one app."""

    def send(self, token: str, notice: PushNotice) -> PushResult:
        """Hand over a notification. Switches greenlets. May raise
        Unreachable."""

    def close(self) -> None:
        """End idle connections."""


class JsonClient(Service, dict=True):
    """Sends notifications of one app as JSON over HTTP/1.1, with access tokens.

    ``renew`` asks for a token; it may switch greenlets, and raises Unreachable.
    ``message_of``: (token of a device, notice) → the field ``message``.
    ``size``: the bytes of the message that count. ``judge``: (token of a
    device, status, body) → the rule for an answer, and its description for log
    lines.
    """

    requests: Outgoing
    url: str
    seconds: float
    renew: Callable[[], AccessToken]
    message_of: Callable[[str, PushNotice], dict[str, Any]]
    size: Callable[[dict[str, Any]], int]
    judge: Callable[[str, int, bytes], tuple[Rule, str]]

    def __post_init__(self) -> None:
        """Get the first access token only with the first notification."""
        self._token: Cached[AccessToken] = Cached(
            self.renew, lambda token: time() < token.until
        )
        self._permits = BoundedSemaphore(MOST_CONNECTIONS)

    def send(self, token: str, notice: PushNotice) -> PushResult:
        """Hand over a notification for the device with this token.

        If the answer tells that the access token is not valid, it is sent once
        more with a new token. Switches greenlets. Raises Unreachable.
        """
        short = fitted(notice, CONTENT_BYTES, self._content_size)
        body = msgspec.json.encode({"message": self.message_of(token, short)})
        for is_last in (False, True):
            access_token = self._token.get()
            status, content, received = self._post(body, access_token)
            rule, problem = self.judge(token, status, content)
            if not rule.renew or is_last:
                break
            self._token.drop(access_token)
        return rule.result(status, problem, received)

    def _post(
        self, body: bytes, access_token: AccessToken
    ) -> tuple[int, bytes, Mapping[str, str]]:
        """Send a body, and return status, body and headers of the answer.

        Only some requests are sent at a time. Switches greenlets. Raises
        Unreachable.
        """
        headers = {
            "Authorization": f"Bearer {access_token.text}",
            "Content-Type": "application/json",
        }
        with self._permits:
            return self.requests.exchange("POST", self.url, body, headers, self.seconds)

    def _content_size(self, notice: PushNotice) -> int:
        """The size of a notification as the service counts it, in bytes."""
        return self.size(self.message_of("", notice))

    def close(self) -> None:
        """End the idle connections, including connections of other apps."""
        self.requests.close()


class Pace:
    """The pace of an app's notifications to one service: at most
    ``per_second``; 0 means no limit."""

    def __init__(self, per_second: int) -> None:
        self._gap = 0.0
        if per_second:
            self._gap = 1.0 / per_second
        self._next = 0.0

    def wait(self) -> float:
        """Wait until the next notification of the app may be sent.

        Returns 0.0 after the wait. If the wait would be too long, returns its
        seconds at once, and the notification may not be sent. Switches
        greenlets.
        """
        now = monotonic()
        wait = self._next - now
        if wait > WAIT_SECONDS:
            return wait
        # Taken before the wait, so that other greenlets wait behind it.
        self._next = max(self._next, now) + self._gap
        if wait > 0:
            gevent.sleep(wait)
        return 0.0


class _App(Struct, frozen=True):
    """An app in its state when ``client`` was made from its keys.

    ``problem``: the reason why it has no client.
    """

    tenant: Tenant
    client: Client | None
    problem: str
    pace: Pace


class MobileService(Service):
    """One push service for all apps.

    ``make``: settings of an app → its client, or None if the app has no keys;
    it raises BadKey. ``form``: the form of device tokens.
    """

    name: str
    tenants: Tenants
    make: Callable[[MobilePush], Client | None]
    form: re.Pattern[str]
    _apps: dict[str, _App] = field(default_factory=dict)

    def _app(self, name: str) -> _App | None:
        """An app with its client, or None if the app does not exist.

        The client is made again after a change of the settings, which makes
        another tenant object. Never switches greenlets.
        """
        tenant = self.tenants.get(name)
        if tenant is None:
            return None
        app = self._apps.get(name)
        if app is not None and app.tenant is tenant:
            return app
        new_app = self._make_app(name, tenant)
        if app is not None and app.client is not None:
            # The old keys may be wrong, so their connection is not used any
            # more.
            app.client.close()
        self._apps[name] = new_app
        return new_app

    def _make_app(self, name: str, tenant: Tenant) -> _App:
        """An app with a client for its present keys. A wrong key is logged, and
        the app then has no client."""
        settings = of_app(tenant)
        client = None
        problem = f"the app has no keys for {self.name}"
        try:
            client = self.make(settings)
        except BadKey as bad:
            problem = str(bad)
            _bad_keys(name, bad, self.name)
        return _App(tenant, client, problem, Pace(settings.per_second))

    def objection(self, app: str, token: str) -> str:
        """The reason why an app cannot have a device with this token; ``""`` if
        it can.

        Never switches greenlets.
        """
        row = self._app(app)
        if row is None or row.client is None:
            return (
                f"the app has no keys for {self.name} (setting mobile_push.{self.name})"
            )
        if self.form.fullmatch(token):
            return ""
        return f"this is no token of {self.name}"

    def host(self, app: str, _token: str) -> str:
        """The name under which sends are paced. Each app has its own, because
        each has its own pace, and its own errors in its keys."""
        return f"{self.name}/{app}"

    def send(self, app: str, token: str, notice: PushNotice) -> PushResult:
        """Hand over a notification for the device with this token, at the pace
        of the app.

        Errors become results: notifications are then sent later. Switches
        greenlets.
        """
        row = self._app(app)
        if row is None:
            return MEND.result(0, "there is no such app")
        if row.client is None:
            return MEND.result(0, row.problem)
        wait = row.pace.wait()
        if wait:
            # The caller sends it after this time.
            per_second = of_app(row.tenant).per_second
            return PushResult("later", 0, wait, f"the app sends {per_second} a second")
        try:
            return row.client.send(token, notice)
        except Unreachable as error:
            return LATER.result(0, str(error))

    def close(self) -> None:
        """End idle connections."""
        for app in self._apps.values():
            if app.client is not None:
                app.client.close()
