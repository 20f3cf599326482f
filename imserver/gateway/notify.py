"""The notification of a push or a stored message, and the interface of push
services.

The core checks ``notify`` and passes it on: a push has it in its event, a
stored message in ``meta``. A feature shows it on devices that push services
reach. Other features provide the push services.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, Protocol, runtime_checkable

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

MAX_NOTIFY_BYTES: Final = 2048
"""Limit of all fields together, as JSON. Push services accept 4096 bytes of
encrypted content."""
MAX_TTL_SECONDS: Final = 28 * 86_400
"""The longest time for which common push services hold a notification."""
_LABEL: Final = r"^[^\x00-\x1f\x7f]*$"


def _about(text: str, **limits: Any) -> Meta:
    """Describe a field, with its limits."""
    return Meta(description=text, **limits)


Address = Annotated[str, Meta(max_length=1000, pattern=r"^((https?://|/)[!-~]*)?$")]

TtlSeconds = Annotated[
    int,
    _about(
        "The number of seconds for which push services keep the notification while a "
        "device is offline.",
        ge=0,
        le=MAX_TTL_SECONDS,
    ),
]


class Action(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A button of a notification."""

    action: Annotated[
        str,
        _about(
            "The name of the action. `read` marks the conversation as read. `reply` "
            "asks for a text and sends it.",
            min_length=1,
            max_length=64,
            pattern=_LABEL,
        ),
    ]
    title: Annotated[
        str,
        _about("The text on the button.", min_length=1, max_length=64, pattern=_LABEL),
    ]
    url: Annotated[
        Address,
        _about("The page that a click opens; empty: the `url` of the notification."),
    ] = ""


class Notify(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The content of a notification. The server derives fields that you leave
    out from the message."""

    title: Annotated[
        str, _about("The first line of the notification.", max_length=200)
    ] = ""
    text: Annotated[str, _about("The text below the first line.", max_length=1000)] = ""
    url: Annotated[
        Address,
        _about(
            "The page that a click opens: an `https://` URL, or a path on your own "
            "site."
        ),
    ] = ""
    icon: Annotated[Address, _about("The URL of a picture.")] = ""
    actions: Annotated[
        tuple[Action, ...],
        _about(
            "The buttons of the notification. Browsers show at most two.", max_length=4
        ),
    ] = ()
    tag: Annotated[
        str,
        _about(
            "A later notification with the same tag replaces this one.",
            max_length=64,
            pattern=_LABEL,
        ),
    ] = ""
    ttl: TtlSeconds | UnsetType = UNSET
    silent: Annotated[
        bool,
        _about(
            "Whether to send the notification silently. An application receives it "
            "and shows nothing. A browser shows it without a sound."
        ),
    ] = False
    time_sensitive: Annotated[
        bool,
        _about(
            "Whether devices show the notification at once, even if they delay other "
            "notifications. Only back ends may set it."
        ),
    ] = False

    @staticmethod
    def of_event(notify: bytes) -> Notify | None:
        """Read the notification of an event. The result is None if the event
        has no notification."""
        if notify in (b"", b"false"):
            return None
        return msgspec.json.decode(notify, type=Notify)

    @staticmethod
    def is_path(address: str) -> bool:
        """Tell whether an address is a path of the page that shows it.

        An address with two slashes at its beginning names another host.
        """
        return address.startswith("/") and not address.startswith(("//", "/\\"))


Silent = Annotated[bool, Meta(extra_json_schema={"const": False})]
NotifyField = Annotated[
    Notify | Silent,
    _about(
        "The notification of the message; false: no notification. A push that is "
        "not stored notifies users who are offline only if it has this field. The "
        f"fields together have at most {MAX_NOTIFY_BYTES} bytes of JSON."
    ),
]


def encode_notify(notify: Notify | bool) -> bytes:
    """Encode the field ``notify`` as JSON.

    Raises ValueError, whose text says what is wrong.
    """
    if notify is True:
        raise ValueError("expected an object, or false")
    try:
        encoded = msgspec.json.encode(notify)
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode") from None
    if len(encoded) > MAX_NOTIFY_BYTES:
        raise ValueError(f"more than {MAX_NOTIFY_BYTES} bytes of JSON")
    return encoded


# --- push services ------------------------------------------------------------


class PushNotice(Struct, frozen=True):
    """A notification that a push service passes to a device, which shows it.

    - ``id``: unique to one delivery; all attempts of it have the same id.
    - ``kind``: ``message``: stored messages of a conversation. ``push``: a push
      of a back end or a bot. ``test``: a test. ``close`` removes the
      notification with this ``tag``, because its messages were read elsewhere.
    - ``tag``: a later notification with the same tag replaces this one on the
      device.
    - ``topic``: at most 32 characters of base64url. The notification replaces
      a notification with the same topic that waits at the service.
    - ``title``, ``body``, ``icon`` and ``url``: the first line, the lines
      below, the address of a picture, and the address that a click opens.
      ``""`` means that the notification has no such part.
    - ``actions``: the buttons, each as (name, text of the button, address that
      it opens).
    - ``conversation`` and ``entry``: the ids of the conversation and of the
      message; 0 for a push.
    - ``count``: the number of unread messages in the conversation.
    - ``badge``: the number of conversations with unread messages that the user
      was notified about; None if it is unknown.
    - ``token``: lets the device act (``POST /api/v1/notifications/act``).
    - ``data``: the JSON of a push. ``b""`` means that the push has no JSON.
    - ``silent``: whether the device shows nothing and plays no sound.
    - ``time_sensitive``: whether the device shows the notification even while
      it lets other notifications wait.
    - ``ttl``: the seconds for which the service may keep the notification.
    """

    id: str
    kind: Literal["message", "push", "close", "test"]
    tag: str
    topic: str
    title: str = ""
    body: str = ""
    icon: str = ""
    url: str = ""
    actions: tuple[tuple[str, str, str], ...] = ()
    conversation: int = 0
    entry: int = 0
    count: int = 0
    badge: int | None = None
    time_ms: int = 0
    token: str = ""
    data: bytes = b""
    silent: bool = False
    time_sensitive: bool = False
    ttl: int = 0


class PushResult(Struct, frozen=True):
    """The answer of a push service.

    - ``outcome``: ``taken``: the service has accepted the notification.
      ``gone``: the device no longer exists. ``later``: the notification may be
      sent again. ``refused``: it will never be accepted.
    - ``status``: the HTTP status, or 0 if there is no answer.
    - ``retry_after``: the seconds for which the service wants no request. None
      means that the service has named no time.
    - ``problem``: the reason, for log lines.
    - ``gone_since``: the Unix second at which the device ceased to exist. A
      device that was registered later stays. 0: the time is unknown, and the
      device is removed.
    """

    outcome: Literal["taken", "gone", "later", "refused"]
    status: int = 0
    retry_after: float | None = None
    problem: str = ""
    gone_since: int = 0


@runtime_checkable
class PushService(Protocol):
    """A service that reaches the devices of an application.

    A feature provides it among its answers, and in ``FeatureRow.offline``. A
    device is an endpoint with the address ``name:token``.
    """

    @property
    def name(self) -> str:
        """Its name in addresses: small letters and digits."""

    def objection(self, app: str, token: str) -> str:
        """Return why an app cannot have a device with this token.

        The result is ``""`` if the app can have the device. Never switches
        greenlets.
        """

    def host(self, app: str, token: str) -> str:
        """Return the name of the queue for a device. Never switches greenlets.

        All notifications in one queue share one pace and one pause. The name
        begins with the name of the service.
        """

    def send(self, app: str, token: str, notice: PushNotice) -> PushResult:
        """Send a notification. Switches greenlets.

        The method never raises because of an answer of the service.
        """

    def close(self) -> None:
        """End the connections. No notification is sent after it."""
