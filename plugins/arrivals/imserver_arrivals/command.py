"""``imserver slack-import``: imports an export of Slack into an app."""

import csv
import os
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Final

import click

from imserver.media.uploads import Uploads, UploadSettings
from imserver.people.accounts import rules_of
from imserver.plugin.commands import fail, key_for, opened, record_act, settings_options
from imserver.plugin.identity import GOCHAT, Tenant, Tenants
from imserver.plugin.progress import long_work
from imserver.plugin.settings import HTTP_URL, Config, settings_of

from .importer import Importer
from .people import People
from .problems import BadArchive, Problems
from .slack import Export
from .survey import Survey, survey
from .uploads import FileIndex, FileUploads

_KINDS: Final = (
    ("channel", "public channels"),
    ("private", "private channels"),
    ("group", "direct messages of several people"),
    ("direct", "direct messages of two"),
    ("message", "messages"),
    ("reply", "replies in threads"),
    ("reaction", "reactions"),
    ("event", "joins, leaves, renames and topics"),
    ("passed over", "events that are not imported"),
)


@click.command(short_help="Import an export of Slack: people, channels, messages, files.")
@settings_options
@click.argument("export", type=click.Path(exists=True, path_type=Path))
@click.option("--app", required=True, help="The app that gets everything. Its users are accounts.")
@click.option(
    "--files",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder with files by their id at Slack: F….png, F…-name or F…/name; U….jpg: pictures of people.",
)
@click.option(
    "--links",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a CSV file: a link for each person, with which they claim their account.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 90),
    default=14,
    show_default=True,
    help="For how long the links are valid.",
)
@click.option("--unread", is_flag=True, help="Leave the messages unread.")
@click.option("--dry-run", is_flag=True, help="Say what would come. Nothing is opened or stored.")
def slack_import(
    path: str | None,
    data_dir: str | None,
    export: Path,
    app: str,
    files: Path | None,
    links: Path | None,
    days: int,
    unread: bool,
    dry_run: bool,
) -> None:
    """Import EXPORT, a zip file or a folder that Slack has made.

    Channels and direct messages of several people become groups, people become accounts to be claimed,
    threads replies. Call it again after an interruption, or with a later export: nothing is stored twice.
    Servers may run during the first import. Stop them for later ones: they may notify people of messages
    before these are marked as read. The status is 1 if a part of the export is broken.
    """
    try:
        archive = Export(export)
        index = FileIndex(archive, files)
    except (BadArchive, OSError) as error:
        fail(error)
    with long_work("reading") as say:
        contents = survey(archive, lambda count: say(f"reading: {count} entries"))
    _print_survey(archive, contents, index)
    if dry_run:
        _print_problems(archive.problems)
        return
    began = perf_counter()
    with opened(path, data_dir) as (config, store, tenants):
        tenant = _tenant_of(tenants, app)
        name = tenant.name
        page = _page_of(config, tenant) if links is not None else ""
        first, problems = archive.problems, Problems()
        archive.problems = problems  # the second reading meets the same
        uploads = Uploads(settings_of(config, UploadSettings), config.server.data_dir, store)
        with closing(uploads), long_work("importing people") as say:
            people = People(store, name, rules_of(tenant).identifiers, problems)
            for person in contents.people.values():
                people.find(person)
            sent = FileUploads(uploads, index, name, key_for(config, "slack-import"), problems)
            for id in contents.people:
                picture = sent.upload(id, people.accounts[id].user, id, "picture")
                if picture is not None:
                    people.set_avatar(id, f"/api/v1/uploads/{picture.id}")
            importer = Importer(archive, contents, store, name, people, sent)
            total = contents.counts["message"]
            importer.run(lambda count: say("importing messages", count, total))
            seconds = perf_counter() - began
            if not unread:
                importer.mark_read()
        if links is not None:
            _write_links(links, people.links(contents.people, page, days))
        added = {"groups": importer.added["begin"], "messages": importer.added["message"]}
        record_act(config, store, "slack.import", name, accounts=people.new, **added, files=sent.new)
    new, rate = importer.added, contents.counts["message"] / max(seconds, 0.001)
    click.echo(
        f"new: accounts {people.new:,}, groups {new['begin']:,}, messages {new['message']:,}, "
        f"reactions {new['reaction']:,}, files {sent.new:,}"
    )
    click.echo(f"{seconds:.1f} s, {rate:,.0f} messages a second")
    problems.counts |= first.counts
    problems.broken = list(dict.fromkeys((*first.broken, *problems.broken)))
    _print_problems(problems)


def _tenant_of(tenants: Tenants, app: str) -> Tenant:
    name = tenants.resolve(app)
    tenant = tenants.find(name)
    if tenant is None:
        fail(f"app {app} does not exist; `imserver chat` makes gochat, that of the messages page")
    if not tenant.wants_accounts(name):
        fail(f"app {app} has no accounts: set its account_tokens to required")
    return tenant


def _page_of(config: Config, tenant: Tenant) -> str:
    """The page on which a link gives an account a password."""
    rules, app = rules_of(tenant), tenant.name
    if not rules.passwords:
        fail("--links: accounts of this app have no passwords")
    if rules.reset_url:
        return str(rules.reset_url)
    if app != GOCHAT:
        fail(f"--links: set accounts.reset_url of app {app}, the page that the links open")
    url = config.address
    base = url if HTTP_URL.match(url) else f"http://127.0.0.1:{config.app.http_port}"
    return f"{base}/home/messages"


def _write_links(path: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    """Write the links, for this user only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("login", "email", "link"))
        writer.writerows(rows)


def _day(moment_us: int) -> str:
    return datetime.fromtimestamp(moment_us / 1_000_000, UTC).strftime("%Y-%m-%d")


def _print_survey(export: Export, found: Survey, index: FileIndex) -> None:
    members = sum(person.is_member for person in found.people.values())
    rows = [("people", members), ("bots, apps and those who have left", len(found.people) - members)]
    rows += [(words, found.counts[kind]) for kind, words in _KINDS]
    rows.append(("files", len(found.files)))
    rows.append(("  of these with bytes", sum(id in index for id in found.files)))
    for words, count in rows:
        click.echo(f"{count:>10,}  {words}")
    if found.last_us:
        click.echo(f"            from {_day(found.first_us)} to {_day(found.last_us)}")


def _print_problems(problems: Problems) -> None:
    counts = {kind: count for kind, count in problems.counts.items() if count > 0}
    if not counts:
        return
    click.echo("not understood:")
    for kind, count in sorted(counts.items(), key=lambda row: (-row[1], row[0])):
        click.echo(f"{count:>10,}  {kind}")
    for line in problems.broken:
        click.echo(f"  {line}", err=True)
    if problems.broken:
        fail("parts of the export are broken; the rest was read")
