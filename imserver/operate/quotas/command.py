"""``imserver app usage``: shows how much of its quotas an app has used."""

from time import time

import click

from imserver.operate.quotas.declared import QuotaSettings, quotas_of
from imserver.operate.quotas.quotas import DAY, STORED_DAYS, UsageRows, day_of
from imserver.plugin.commands import CommandLine, fail, opened, settings_options


@click.command()
@settings_options
@CommandLine.prints_data
@CommandLine.duration(
    "--since",
    "seconds",
    "The period to show, up to now.",
    "7d",
    least=DAY,
    most=STORED_DAYS * DAY,
    old="--days",
    unit=DAY,
)
@click.argument("name")
def usage(path: str | None, data_dir: str | None, seconds: int, name: str) -> None:
    """Show how much of its quotas an app has used, by day in UTC.

    Each node adds its counts every five seconds. Days without use are left out.
    """
    with opened(path, data_dir) as (_, store, tenants):
        tenant = tenants.get(name)
        if tenant is None:
            fail(f"app {name} does not exist")
        rows = []
        if store.has_database:
            app = tenants.resolve(name)
            # The first day may have begun before the period. Only whole days
            # are shown.
            begin = int(time()) - seconds
            rows = UsageRows(store).days(app, begin // DAY + 1)
    if not CommandLine.wants_json():
        _print_quotas(quotas_of(tenant))
    CommandLine.rows("day, pushes, messages", rows, day=day_of)


def _print_quotas(quotas: QuotaSettings) -> None:
    """Print the quotas of an app in one line."""
    pushes = quotas.pushes_per_day or "any number"
    messages = quotas.messages_per_day or "any number"
    click.echo(f"pushes of a day: {pushes}, stored messages of a day: {messages}")
