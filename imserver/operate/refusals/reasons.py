"""The meaning of each reason of a refusal, and how to lift it. API, command and
page show these rows."""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from imserver.plugin.errors import Problems


class ReasonRow(Struct, frozen=True):
    """A reason of a refusal.

    ``meaning`` says why something was refused. ``lift`` says how to get it
    allowed; ``""`` if nothing helps.
    """

    meaning: str
    lift: str = ""


_LIFT: Final = "It ends by itself. To lift it at once: imserver why APP/USER --lift."
_AGAIN: Final = "The client tries again; see the log for what does not answer."

LOGINS: Final[Mapping[str, ReasonRow]] = {
    "again": ReasonRow(
        "The connection has logged in already.", "The client opens a new connection."
    ),
    "app": ReasonRow(
        "There is no app of this name.",
        "Correct the client's app, or create it: imserver app create.",
    ),
    "attempts": ReasonRow("Too many logins, or too many wrong passwords.", _LIFT),
    "back end": ReasonRow(
        "The back end of the app has refused the user.",
        "Ask its developers: it decides.",
    ),
    "banned": ReasonRow(
        "The user is banned.", "Lift the ban: imserver why APP/USER --lift."
    ),
    "busy": ReasonRow(
        "Too many passwords are being checked at this moment.",
        "The client tries again.",
    ),
    "closed": ReasonRow(
        "The app lets nobody log in like this: it has no login rule, or its accounts have no passwords.",
        "Set jwt, account_tokens, webhook.authorise_url or open of the app.",
    ),
    "deleted": ReasonRow("The app was deleted during the login."),
    "dialect": ReasonRow(
        "The app does not allow this dialect.", "Add it to dialects of the app."
    ),
    "factor": ReasonRow(
        "The password is right, and the code of the second factor is missing, wrong or used.",
        "The user takes the next code or a recovery code; who has lost both: imserver account remove-factor.",
    ),
    "gone": ReasonRow(
        "The connection closed during the login.", "The client connects again."
    ),
    "key": ReasonRow(
        "The keys of the app cannot be used, or its back end cannot be asked.",
        "Correct jwt or webhook of the app; the log names the mistake.",
    ),
    "kicked": ReasonRow(
        "The user was disconnected during the login.", "The user logs in again."
    ),
    "limit": ReasonRow(
        "A limit of connections is reached.", "Raise the setting, or end connections."
    ),
    "locked": ReasonRow(
        "The account is locked.", "Unlock it: imserver why APP/USER --lift."
    ),
    "origin": ReasonRow(
        "The page that connects is not of an allowed host.",
        "Add the host of the page to this setting.",
    ),
    "password": ReasonRow(
        "The password is wrong, or no account has this login.",
        "The user types it again, or resets it.",
    ),
    "policy": ReasonRow(
        "The user is online on another connection, and the login policy is refuse.",
        "End the other session, or change login_policy of the app.",
    ),
    "provider": ReasonRow(
        "The login provider or the user has refused.", "The user starts a new login."
    ),
    "rate": ReasonRow(
        "The connection changes its user too often.", "It ends within seconds."
    ),
    "registry": ReasonRow("Redis did not answer, or too many logins wait.", _AGAIN),
    "token": ReasonRow(
        "The token is missing, wrong, expired, or of another user.",
        "Check it with imserver token check; the user logs in again.",
    ),
    "undecided": ReasonRow(
        "The back end, the database or an issuer did not answer.", _AGAIN
    ),
    "user": ReasonRow(
        "The user id is too long, or is not the id of an account.",
        "Correct the id in the client.",
    ),
    "version": ReasonRow(
        "The client speaks a version of the protocol that is not served.",
        "Update the client.",
    ),
}
"""Reason of a refused login (:data:`imserver.gateway.errors.LoginRefusal`) →
its row."""

COMMANDS: Final[Mapping[str, ReasonRow]] = {
    # of channels
    "name": ReasonRow(
        "No channel can have this name.", "Correct the name in the client."
    ),
    "unknown": ReasonRow(
        "The app has no channels of this namespace.", "Add it to channels of the app."
    ),
    "denied": ReasonRow(
        "The user may not do this in the channel.",
        "Change subscribe or publish of its namespace, or the token.",
    ),
    "expired": ReasonRow(
        "The token of the subscription has expired.", "The client gets a new one."
    ),
    "full": ReasonRow(
        "The channel, connection or app has as many as it may have.", "Raise the limit."
    ),
    "limit": ReasonRow(
        "A limit is reached, or what was sent is too large.",
        "Raise the limit, or send less.",
    ),
    "rate": ReasonRow(
        "Too many messages, publications or subscriptions in a second.",
        "It ends within seconds.",
    ),
    "exists": ReasonRow("The client is subscribed already."),
    "ended": ReasonRow(
        "The connection or subscription ended meanwhile.", "The client connects again."
    ),
    "unavailable": ReasonRow(
        "The history, the nodes or the back end did not answer.", _AGAIN
    ),
    "not_available": ReasonRow(
        "The channel has no history or no presence.", "Set history or presence of it."
    ),
    "unrecoverable": ReasonRow(
        "The history has not all that was missed.", "The client reads it anew."
    ),
    # of stored messages
    "unknown_conversation": ReasonRow(
        "There is no such conversation, or the user is not part of it."
    ),
    "unknown_message": ReasonRow(
        "There is no such message, or the user cannot read it."
    ),
    "unknown_account": ReasonRow("The receiver has no account."),
    "not_member": ReasonRow(
        "The user is no member of the group.", "Add the user to the group."
    ),
    "muted": ReasonRow(
        "The user is muted in the group, or in the whole app.",
        "See what refuses now: imserver why APP/USER.",
    ),
    "read_only": ReasonRow(
        "Only the owner and admins write in this group.",
        "Make the user an admin, or change the option `write` of the group.",
    ),
    "blocked": ReasonRow(
        "The receiver has blocked the user.", "The receiver can unblock them."
    ),
    "rejected": ReasonRow(
        "The back end of the app has rejected it.", "Ask its developers: it decides."
    ),
    "not_bot": ReasonRow("Only bots send buttons."),
    "fixed": ReasonRow(
        "The question was answered, or is fixed: its text stays.",
        "Ask another question.",
    ),
    "superseded": ReasonRow(
        "The user has a newer session.", "The client connects again."
    ),
    "recalled": ReasonRow("The message was recalled."),
    "invalid": ReasonRow("What the client sent is not valid.", "Correct the client."),
    "not_allowed": ReasonRow(
        "The role of the member does not permit this.", "Change the role."
    ),
    # codes of replies
    "not_logged_in": ReasonRow(
        "The connection has not logged in.", "The client logs in first."
    ),
    "bad_parameter": ReasonRow(
        "A field is missing or has a wrong value.", "Correct the client."
    ),
    "bad_user": ReasonRow("The user id is not valid.", "Correct the client."),
    "unauthorized": ReasonRow(
        "The user may not do this.", "Look at the role, and at the settings of the app."
    ),
    "system": ReasonRow("The server has failed; its log says why."),
    "no_data": ReasonRow(
        "What the command names does not exist, or not for this user."
    ),
    "not_added": ReasonRow("It was not added."),
    "not_deleted": ReasonRow("It was not deleted."),
    "not_stored": ReasonRow(
        "The database did not answer, or there were too many requests.", _LIFT
    ),
    "failed": ReasonRow("It cannot be done in this state of the connection."),
    "no_route": ReasonRow(
        "There is no such command, or this node has not its feature.",
        "Add the feature to features.",
    ),
    "no_app": ReasonRow("There is no app of this name.", "Correct the client's app."),
    # ends of sessions
    "slow reader": ReasonRow(
        "The client did not read fast enough, and was disconnected.",
        "It connects again.",
    ),
    "rate limit": ReasonRow(
        "The client sent too many messages per second, and was disconnected.",
        "Raise messages_per_second, or correct the client.",
    ),
    "too big": ReasonRow(
        "The client sent too large a message, and was disconnected.",
        "Send files as uploads.",
    ),
    "banned": ReasonRow(
        "The user was banned, and disconnected.",
        "Lift the ban: imserver why APP/USER --lift.",
    ),
    "token invalid": ReasonRow(
        "The token of the session has expired.", "The client logs in with a new one."
    ),
}
"""Reason of a refused command → its row."""

REQUESTS: Final[Mapping[str, str]] = {
    Problems.UNAUTHORIZED.code: "Send an API key with the scope of the route: imserver key list has them.",
    Problems.TOKEN_INVALID.code: "The client logs in again.",
    Problems.FORBIDDEN.code: "Use a key that reaches the app, or an account with the role.",
    Problems.BANNED.code: "Lift the ban: imserver why APP/USER --lift.",
    Problems.MUTED.code: "See what refuses now: imserver why APP/USER.",
    Problems.TOO_MANY_REQUESTS.code: f"{_LIFT} A quota is raised: imserver app set.",
    Problems.BUSY.code: "The client tries again; raise limits.http_requests if it stays.",
    Problems.NODE_FULL.code: "Raise the limit of connections, or start another node.",
}
"""Code of a problem → how to lift it."""


def reason_of(kind: str, reason: str, detail: str) -> tuple[ReasonRow, str]:
    """The row of a reason, and the detail to show with it.

    ``kind`` is ``login``, ``command`` or ``request``. The detail of a request
    is such as ``POST /api/v1/push: The app is unknown.``; the text after the
    colon becomes the meaning, and the text before it stays the detail.
    """
    if kind == "request":
        request, _, meaning = detail.partition(": ")
        row = ReasonRow(meaning=meaning or f"{reason}.", lift=REQUESTS.get(reason, ""))
        return row, request
    rows = LOGINS if kind == "login" else COMMANDS
    unknown = ReasonRow(f"It was refused: {reason}.")
    return rows.get(reason, unknown), detail
