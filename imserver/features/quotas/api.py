"""What apps have used of their quotas."""

from __future__ import annotations

from time import gmtime, strftime, time
from typing import Annotated

from msgspec import Struct

from imserver.features.quotas.quotas import STORED_DAYS, Quotas
from imserver.plugin.http import Call, Resource, about
from imserver.plugin.identity import Needs

_DAY = 86_400


class AppUsageOfDay(Struct):
    """What an app has used on a day, on all nodes together."""

    day: Annotated[str, about("The day in UTC, as in `2026-11-26`.")]
    pushes: Annotated[int, about("Pushes that were sent: one for each user that it reached.")]
    messages: Annotated[int, about("Messages that were stored.")]


class AppUsageAnswer(Struct):
    """The quotas of an app, and what it has used, the last day first. Days without anything are left out."""

    app: str
    pushes_per_day: Annotated[int, about("The most pushes of a day; 0: any number.")]
    messages_per_day: Annotated[int, about("The most stored messages of a day; 0: any number.")]
    ends: Annotated[int, about("When the day ends, in Unix seconds.")]
    days: list[AppUsageOfDay]


routes = Resource(
    "usage",
    service=lambda core, _: core.service(Quotas),
    chapter="Quotas of apps, and what they have used of them.",
    hot=False,
)


@routes.get("/apps/usage", Needs.OPERATE)
def usage(
    quotas: Quotas,
    call: Call,
    app: Annotated[str, about("The app.", min_length=1, max_length=191)],
    days: Annotated[int, about("The number of days, today among them.", ge=1, le=STORED_DAYS)] = 7,
) -> AppUsageAnswer:
    """Show the quotas of an app, and what it has used of them.

    Only apps with quotas are counted. Other nodes add what they have counted every 5 seconds.
    """
    own, today = quotas.of(call.app), int(time()) // _DAY
    used = [
        AppUsageOfDay(strftime("%Y-%m-%d", gmtime(each.day * _DAY)), each.pushes, each.messages)
        for each in quotas.days(call.app, today - days + 1)
    ]
    return AppUsageAnswer(call.app, own.pushes_per_day, own.messages_per_day, (today + 1) * _DAY, used)
