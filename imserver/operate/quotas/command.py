"""``imserver app usage``: what an app has used of its quotas."""

from time import gmtime, strftime, time

import click

from imserver.operate.quotas.declared import quotas_of
from imserver.operate.quotas.quotas import DAY, STORED_DAYS, UsageRows
from imserver.plugin.commands import fail, opened, settings_options, table


@click.command()
@settings_options
@click.option("--days", type=click.IntRange(1, STORED_DAYS), default=7, show_default=True)
@click.argument("name")
def usage(path: str | None, data_dir: str | None, days: int, name: str) -> None:
    """Show what an app has used of its quotas, day by day in UTC.

    Nodes add what they have counted every five seconds. Days without anything are left out.
    """
    with opened(path, data_dir) as (_, store, tenants):
        tenant = tenants.get(name)
        if tenant is None:
            fail(f"app {name} does not exist")
        name = tenants.resolve(name)
        rows = UsageRows(store).days(name, int(time()) // DAY - days + 1) if store.has_database else []
    quotas = quotas_of(tenant)
    limits = (("pushes", quotas.pushes_per_day), ("stored messages", quotas.messages_per_day))
    click.echo(", ".join(f"{what} of a day: {limit or 'any number'}" for what, limit in limits))
    click.echo(table("day, pushes, messages", rows, day=lambda day: strftime("%Y-%m-%d", gmtime(day * DAY))))
