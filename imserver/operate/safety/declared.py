"""The settings, problems and tables that the feature declares."""

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from imserver.plugin import SettingsRow
from imserver.plugin.errors import HttpProblem
from imserver.plugin.http import about
from imserver.plugin.identity import Rate, Tenant
from imserver.plugin.settings import TenantSettings, app_settings_of
from imserver.plugin.storage import Reason, Table

REPORTS: Final = 20
REPORT_SECONDS: Final = 3600.0
USER_REPORTS: Final = Rate(
    "reports", "reports", "user", f"{REPORTS} an hour", "1008, over HTTP 429"
)
APPEALS: Final = 3
APPEAL_SECONDS: Final = 86_400.0
USER_APPEALS: Final = Rate("appeals", "appeals", "user", f"{APPEALS} a day")
APPEALS_OF_ADDRESS: Final = 20
ADDRESS_APPEALS: Final = Rate(
    "appeals_of_address",
    "appeals",
    "address",
    f"{APPEALS_OF_ADDRESS} within accounts.rate_seconds",
)
LOOKS: Final = 10_000_000
LOOK_SECONDS: Final = 60.0
MESSAGES_LOOKED_AT: Final = Rate(
    "looks",
    "messages that a count or a removal of one user's messages looks at",
    "who asks, in the app",
    "10,000,000 a minute",
)
REASON_BYTES: Final = 64
Outcome = Literal[
    "dismissed",
    "hidden",
    "deleted",
    "warned",
    "muted",
    "removed",
    "banned",
    "unbanned",
    "other",
]
"""The acts with which a report can be closed."""

APPEAL: Final = "appeal"
"""The reason of an appeal. No app has a reason for reports of this name."""

_Reason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=REASON_BYTES,
        pattern="^[a-z0-9_]+$",
        extra={"api": {"pattern": "^[a-z0-9_]+$"}},
    ),
]


class SafetySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The reasons for reports, and how long the server keeps reports."""

    reasons: Annotated[
        tuple[_Reason, ...],
        about("The reasons that a reporter can choose for a message or a person."),
    ] = ("spam", "harassment", "hate", "violence", "sexual", "scam", "other")
    retention_days: Annotated[
        int,
        about(
            "The number of days for which the server keeps closed reports.",
            ge=1,
            le=3660,
        ),
    ] = 90


class SafetyOfApp(Struct, frozen=True):
    """The keys of an app."""

    safety: Annotated[SafetySettings, about("Reports of users.")] = SafetySettings()


SETTINGS: Final = SettingsRow({"apps.*": SafetyOfApp})


def rules_of(tenant: Tenant | TenantSettings | None) -> SafetySettings:
    """The rules of an app.

    None, for an app that does not exist, gives the default rules.
    """
    if tenant is None:
        return SafetySettings()
    return app_settings_of(tenant, SafetyOfApp).safety


HTTP_UNKNOWN_REPORT: Final = HttpProblem(404, "unknown_report", "No such report.")
HTTP_UNKNOWN_ACT: Final = HttpProblem(
    404, "unknown_act", "No such removal of messages, or it can no longer be undone."
)
HTTP_NOT_BANNED: Final = HttpProblem(409, "not_banned", "The user is not banned.")
HTTP_APPEAL_OPEN: Final = HttpProblem(
    409, "appeal_open", "Moderators have not answered the last appeal yet."
)
HTTP_TOO_MANY_REPORTS: Final = HttpProblem(
    409, "too_many_reports", "The app has as many open reports as the server keeps."
)

_DECIDED: Final = Reason("moderators decide it on the server where it was reported")

TABLES: Final = (
    Table(
        name="reporter",
        types="""app name500*, report name32* out, member name255* out user, created big out,
            reason name64 out, text name4000 out""",
        erase_user=(
            "DELETE FROM reporter WHERE app = %s AND member = %s",
            "DELETE FROM reporter WHERE app = %s AND report IN (SELECT id FROM report WHERE member = %s)",
        ),
        imported=_DECIDED,
        scan=True,
    ),
    Table(
        name="report",
        types="""app name500*, id name32* out, message big out, conversation big out, member name255 out user,
            subject name300 user, reporters big, opened big out, changed big, closed big out,
            closed_by name400 user, outcome name64 out, note name2000 words, evidence name4000='' out""",
        erase_user=(
            "DELETE FROM report WHERE app = %s AND member = %s",
            # As Principal.label names who acts by a role. Engines join texts in
            # different ways.
            "UPDATE report SET closed_by = '', note = '' WHERE app = %s "
            "AND closed_by = REPLACE(REPLACE('staff:@/#', '#', %s), '@', app)",
        ),
        # Not who has closed it, and what moderators wrote for each other.
        imported=_DECIDED,
        scan=True,
    ),
    Table(
        name="house_rules",
        types="app name500*, text name16000 out, changed big out",
        of_user=Reason("they are of the app"),
        imported=Reason("an owner of the new app writes them"),
    ),
    Table(
        name="mute",
        types="app name500*, member name255* out user, until big out, changed big out, reason name1000 out",
    ),
    Table(
        name="removal",
        types="""app name500*, id name32* out, member name255 out user, state small out, since big out,
            until big out, reached big out, last big out, messages big out, created big out, ends big out,
            leased big out""",
        imported=Reason("what was removed stays removed"),
        scan=True,
    ),
)
