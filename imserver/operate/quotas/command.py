"""``imserver app usage``: what an app has used of its quotas."""

from time import gmtime, strftime, time

import click

from imserver.operate.quotas.declared import quotas_of
from imserver.operate.quotas.quotas import DAY, STORED_DAYS, UsageRows
from imserver.plugin.commands import CommandLine, fail, opened, settings_options


@click.command()
@settings_options
@CommandLine.prints_data
@CommandLine.duration(
    "--since",
    "seconds",
    "The days of this time.",
    "7d",
    least=DAY,
    most=STORED_DAYS * DAY,
    old="--days",
    unit=DAY,
)
@click.argument("name")
def usage(path: str | None, data_dir: str | None, seconds: int, name: str) -> None:
    """Show what an app has used of its quotas, day by day in UTC.

    Nodes add what they have counted every five seconds. Days without anything
    are left out.
    """
    with opened(path, data_dir) as (_, store, tenants):
        tenant = tenants.get(name)
        if tenant is None:
            fail(f"app {name} does not exist")
        name = tenants.resolve(name)
        if store.has_database:
            rows = UsageRows(store).days(name, (int(time()) - seconds) // DAY + 1)
        else:
            rows = []
    quotas = quotas_of(tenant)
    limits = (
        ("pushes", quotas.pushes_per_day),
        ("stored messages", quotas.messages_per_day),
    )
    if not CommandLine.wants_json():
        click.echo(
            ", ".join(
                f"{what} of a day: {limit or 'any number'}" for what, limit in limits
            )
        )
    CommandLine.rows(
        "day, pushes, messages",
        rows,
        day=lambda day: strftime("%Y-%m-%d", gmtime(day * DAY)),
    )
