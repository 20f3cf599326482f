"""Counts the pushes and messages of apps with quotas on all nodes together, and
stops an app when a quota is spent.

The core counts pushes and stored messages anyway. Every :data:`LOOK_SECONDS`
each node adds to the database what it has counted for apps with quotas. It
reads the sum of all nodes, and sets the count at which an app has to stop here.
A single node stops exactly. If there are several, each may use the rest that it
saw last.
"""

import logging
from collections.abc import Mapping, Sequence
from time import gmtime, strftime, time
from typing import Annotated, Final

from gevent.event import Event as Flag
from gevent.lock import BoundedSemaphore
from msgspec import Struct
from msgspec.structs import asdict

from imserver.operate.quotas.declared import QuotaSettings, quotas_of
from imserver.plugin import Parts
from imserver.plugin.errors import StorageUnavailable
from imserver.plugin.http import Call, Resource, about
from imserver.plugin.identity import Needs, Tenant
from imserver.plugin.runtime import until_beat
from imserver.plugin.services import Core
from imserver.plugin.settings import Config
from imserver.plugin.storage import PooledStatements, RowsOf, Store, text_of

STORED_DAYS: Final = 35
_SHOWN_DAYS: Final = 7


class Used(Struct, frozen=True):
    """How many pushes and stored messages an app has used on a day.

    ``day`` is the number of days since 1970, in UTC.
    """

    day: int
    pushes: int = 0
    messages: int = 0


_USED: Final = RowsOf(Used, "app_usage")


class UsageRows(Store.Rows):
    """The counts of all nodes in the database: a row for each app and day."""

    @Store.writing
    def add(self, sql: PooledStatements, day: int, counts: Mapping[str, Used]) -> None:
        """Add counts of this node for a day.

        ``counts`` is app → the numbers to add. Rows of these apps that are too
        old are deleted.
        """
        # Sorted, so that two nodes lock the rows in one order.
        for app, used in sorted(counts.items()):
            # Nothing is inserted if the row exists.
            sql.insert_new("app_usage", f"{_USED.columns}, app", [(day, 0, 0, app)])
            sql.execute(
                "UPDATE app_usage SET pushes = pushes + %s, messages = messages + %s "
                "WHERE app = %s AND day = %s",
                (used.pushes, used.messages, app, day),
            )
            delete_old = "DELETE FROM app_usage WHERE app = %s AND day < %s"
            sql.execute(delete_old, (app, day - STORED_DAYS))

    def read(self, day: int, apps: Sequence[str]) -> dict[str, Used]:
        """App → the pushes and messages of all nodes on a day."""
        statement = (
            f"SELECT {_USED.columns}, app FROM app_usage WHERE day = %s AND app IN {{}}"
        )
        rows = self._store.rows_in(statement, (day,), apps)
        return {text_of(row[-1]): _USED.read(row) for row in rows}

    def days(self, app: str, since: int) -> list[Used]:
        """The usage of an app since a day, the last day first."""
        rest = "WHERE app = %s AND day >= %s ORDER BY day DESC"
        return _USED.find(self._store.rows, rest, app, since)


log = logging.getLogger(__name__)
LOOK_SECONDS: Final = 5.0
"""Time between two reads of the counts of all nodes."""
DAY: Final = 86_400


class Quotas:
    """The quotas of apps on a node.

    It owns the counts at which apps stop. Apps without quotas are not counted.
    """

    def __init__(self, core: Core) -> None:
        """Begin without quotas. :meth:`changed` adds the apps."""
        self.store = core.store
        self.rows = UsageRows(core.store)
        self._pushes = core.metrics.pushes
        self._messages = core.metrics.stored
        self._quotas: dict[str, QuotaSettings] = {}
        self._stored: dict[str, Used] = {}
        """App → how much this node has counted when it last wrote to the
        database. The counts begin with the start of the node, not of a day."""
        self._day = _today()
        """The day to which new counts are added."""
        self._changed = Flag()
        """Is set when quotas have changed, so that :meth:`run` looks at
        once."""
        self._turn = BoundedSemaphore()
        """Lets one greenlet at a time execute :meth:`look`."""

    def of(self, app: str) -> QuotaSettings:
        """The quotas of an app. Never switches greenlets."""
        return self._quotas.get(app, QuotaSettings())

    def days(self, app: str, since: int) -> list[Used]:
        """The counts of an app since a day, the last day first.

        Switches greenlets. Raises StorageUnavailable.
        """
        self.look()
        return self.rows.days(app, since)

    def changed(self, tenant: Tenant) -> None:
        """Note that an app is new or has other settings.

        Never switches greenlets.
        """
        app = tenant.name
        quotas = quotas_of(tenant)
        has_quotas = quotas.pushes_per_day or quotas.messages_per_day
        # Another name of an app shares the counts of that app.
        if tenant.same_as or not has_quotas:
            self.deleted(app)
            return
        if app not in self._quotas:
            # Only what the app uses from now on counts.
            self._stored[app] = self._counted(app)
        self._quotas[app] = quotas
        self._changed.set()

    def deleted(self, app: str) -> None:
        """Note that an app has no quotas any more, so that it never stops.

        Never switches greenlets.
        """
        self._quotas.pop(app, None)
        self._stored.pop(app, None)
        self._pushes.go_on(app)
        self._messages.go_on(app)

    def run(self) -> None:
        """Greenlet: call :meth:`look` every few seconds, until it is killed.

        If no app has a quota, the greenlet waits for the first app that gets a
        quota.
        """
        while True:
            try:
                self.look()
            except StorageUnavailable as error:
                log.debug("the usage of apps could not be counted: %s", error)
            except Exception:
                log.exception("the usage of apps could not be counted")
            self._changed.clear()
            pause = None
            if self._quotas:
                pause = until_beat(LOOK_SECONDS)
            self._changed.wait(pause)

    def look(self) -> None:
        """Count together with all other nodes, and set where apps stop.

        Adds the new counts of this node to the database, reads the sums of all
        nodes, and sets the counts at which apps stop on this node. Switches
        greenlets. Raises StorageUnavailable.
        """
        with self._turn:
            counted = {app: self._counted(app) for app in self._quotas}
            new_counts = self._new_counts(counted)
            if new_counts:
                self.rows.add(self._day, new_counts)
                # While the database worked, an app may have lost its quotas.
                for app in new_counts:
                    if app in self._quotas:
                        self._stored[app] = counted[app]

            # The day changes only here, so counts from before midnight belong
            # to the day before.
            self._day = _today()
            if counted:
                self._set_stops(self.rows.read(self._day, list(counted)))

    def _new_counts(self, counted: Mapping[str, Used]) -> dict[str, Used]:
        """The use of each app on this node since its counts were stored.

        Apps that have used nothing are left out.
        """
        new_counts = {}
        for app, now in counted.items():
            before = self._stored[app]
            if now != before:
                new_counts[app] = Used(
                    self._day,
                    pushes=now.pushes - before.pushes,
                    messages=now.messages - before.messages,
                )
        return new_counts

    def _set_stops(self, used: Mapping[str, Used]) -> None:
        """Set the count of this node at which each app stops.

        ``used`` is app → the counts of all nodes today. The rest of a quota is
        added to the count that this node has already written to the database.
        """
        ends = (self._day + 1) * DAY
        for app, quotas in self._quotas.items():
            everywhere = used.get(app, Used(self._day))
            here = self._stored[app]
            pushes = quotas.pushes_per_day
            if pushes:
                count = here.pushes + pushes - everywhere.pushes
                self._pushes.stop_at(app, count, ends, _spent(pushes, "pushes", ends))
            else:
                self._pushes.go_on(app)
            messages = quotas.messages_per_day
            if messages:
                count = here.messages + messages - everywhere.messages
                text = _spent(messages, "stored messages", ends)
                self._messages.stop_at(app, count, ends, text)
            else:
                self._messages.go_on(app)

    def _counted(self, app: str) -> Used:
        """The counts of this node for an app since the start of the node."""
        return Used(
            day=0,  # the counts are not of one day
            pushes=self._pushes.get(app, 0),
            messages=self._messages.get(app, 0),
        )

    def finish(self) -> None:
        """Add the last counts to the database, when the node stops.

        Switches greenlets.
        """
        try:
            self.look()
        except StorageUnavailable as error:
            log.warning(
                "the last pushes and messages of apps with quotas were not counted: %s",
                error,
            )


def _spent(quota: int, unit: str, until: int) -> str:
    """The reason why an app stops, for the answer to its requests.

    ``unit`` is the counted thing, such as ``pushes``. ``until`` is the end of
    the day, in Unix seconds.
    """
    end = strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(until))
    return f"The app has used its {quota} {unit} of today; the next day begins at {end}"


def _today() -> int:
    """The present day, as the number of days since 1970 in UTC."""
    return int(time()) // DAY


def day_of(day: int) -> str:
    """A day since 1970 as ``2026-11-26``."""
    return strftime("%Y-%m-%d", gmtime(day * DAY))


def build(core: Core) -> Parts:
    """Build the quotas of a node, which follow the settings of the apps."""
    quotas = Quotas(core)
    tenants = core.tenants
    tenants.report_to(quotas.deleted, quotas.changed)

    def configure(_config: Config) -> None:
        """Take the settings of all apps, at the start and after each reload."""
        for tenant in tenants.all():
            quotas.changed(tenant)
        try:
            quotas.look()
        except StorageUnavailable as error:
            log.warning("what apps have used today is not known yet: %s", error)

    return Parts((quotas,), configure=configure, run=(quotas.run,), stop=quotas.finish)


class AppUsageOfDay(Struct):
    """The use of an app on a day, on all nodes together."""

    day: Annotated[str, about("The day in UTC, such as `2026-11-26`.")]
    pushes: Annotated[
        int, about("The number of pushes, counted for each user that a push reached.")
    ]
    messages: Annotated[int, about("The number of messages that were stored.")]


class AppUsageAnswer(Struct):
    """The quotas of an app, and its use by day, the newest day first. Days
    without any use are left out."""

    app: str
    pushes_per_day: Annotated[
        int, about("The maximum number of pushes per day; 0: no limit.")
    ]
    messages_per_day: Annotated[
        int, about("The maximum number of stored messages per day; 0: no limit.")
    ]
    ends: Annotated[int, about("When the day ends, in Unix seconds.")]
    days: list[AppUsageOfDay]
    stored: Annotated[
        dict[str, int],
        about(
            "The numbers of `accounts`, `groups`, `messages` and `uploads`; empty "
            "unless you request them."
        ),
    ] = {}


routes = Resource(
    "usage",
    service=lambda core, _: core.service(Quotas),
    chapter="Quotas of apps, and their use.",
    hot=False,
)


@routes.get("/apps/usage", Needs.OPERATE)
def usage(
    quotas: Quotas,
    call: Call,
    app: Annotated[str, about("The app.", min_length=1, max_length=191)],
    days: Annotated[
        int, about("The number of days, including today.", ge=1, le=STORED_DAYS)
    ] = _SHOWN_DAYS,
    stored: Annotated[
        bool, about("Whether to count the stored data of the app, too.")
    ] = False,
) -> AppUsageAnswer:
    """Show the quotas of an app, and its use of them.

    Only apps with quotas are counted. Other nodes add their counts every 5
    seconds.
    """
    limits = quotas.of(call.app)
    today = int(time()) // DAY
    used = [
        AppUsageOfDay(day_of(row.day), pushes=row.pushes, messages=row.messages)
        for row in quotas.days(call.app, today - days + 1)
    ]
    contents = {}
    if stored:
        contents = _contents_of(quotas.store, call.app)
    return AppUsageAnswer(
        app=call.app,
        pushes_per_day=limits.pushes_per_day,
        messages_per_day=limits.messages_per_day,
        ends=(today + 1) * DAY,
        days=used,
        stored=contents,
    )


def _contents_of(store: Store, app: str) -> dict[str, int]:
    """Name of a kind of stored data → its number in an app.

    Keys are left out, because they have a route of their own.
    """
    contents = asdict(store.contents(app))
    contents.pop("keys", None)
    return contents
