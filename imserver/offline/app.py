"""``imserver app``: the tenants."""

from collections.abc import Iterable, Mapping, Sequence, Set
from functools import partial
from typing import Any, get_origin

import click
import msgspec

from imserver.gateway.config.declared import bare, hints_of, marks_of, plain, struct_in
from imserver.gateway.config.load import dump, read_value
from imserver.gateway.config.settings import JwtSettings
from imserver.gateway.config.values import fold
from imserver.gateway.offline import opened, record_act, rows_below, settings_options
from imserver.gateway.terminal import CommandLine, GroupOfRows, fail, read_text


@click.group(cls=GroupOfRows, rows=partial(rows_below, "app"))
def app() -> None:
    """Create, list, show, change and delete apps. Running servers apply a
    change within two seconds.

    The settings of an app are the keys of an entry in the section apps. See
    imserver check-config --defaults. Values are written as in the file:
    max_connections=5000, origins=[example.org],
    webhook.url=https://example.org/hook

    SETTING=@FILE reads the value from a file, SETTING=@- from standard input.
    Secrets, such as webhook.secret and the keys of jwt, must be given in this
    way, because other users of the machine can see the arguments of a command.
    """


@app.command()
@settings_options
@click.argument("name")
@click.argument("settings", nargs=-1, metavar="[SETTING=VALUE]...")
def create(
    path: str | None, data_dir: str | None, name: str, settings: tuple[str, ...]
) -> None:
    """Create an app."""
    with opened(path, data_dir) as (config, store, tenants):
        fields = _fields(settings, before={}, hints=tenants.declared.app_hints)
        if not tenants.register(name, **fields):
            fail(f"app {name} already exists")
        record_act(config, store, "apps.create", name, settings=list(fields))
    click.echo(f"app {name} created")


@app.command("list")
@settings_options
@CommandLine.prints_data
def list_apps(path: str | None, data_dir: str | None) -> None:
    """List all apps."""
    with opened(path, data_dir) as (_, _, tenants):
        rows = list(tenants.all())
    # The text of the column "defined in", for each value of ``configured``.
    where = {True: "configuration", False: "database"}.__getitem__
    CommandLine.rows(
        "name, defined in: configured, login policy: policy, same as",
        rows,
        configured=where,
    )


@app.command()
@settings_options
@CommandLine.prints_data
@click.argument("name")
def show(path: str | None, data_dir: str | None, name: str) -> None:
    """Print an app's settings as YAML; secrets are hidden."""
    with opened(path, data_dir) as (_, _, tenants):
        tenant = tenants.get(name)
    if tenant is None:
        fail(f"app {name} does not exist")
    # The text is YAML, in which secrets are replaced.
    text = dump(tenant, tenants.declared)
    CommandLine.data(read_value(text, name), text.rstrip("\n"))


@app.command("set")
@settings_options
@CommandLine.prints_data
@click.option(
    "--unset",
    multiple=True,
    metavar="SETTING",
    help="Reset a setting to its default; repeatable.",
)
@click.argument("name")
@click.argument("settings", nargs=-1, metavar="[SETTING=VALUE]...")
def change(
    path: str | None,
    data_dir: str | None,
    name: str,
    settings: tuple[str, ...],
    unset: tuple[str, ...],
) -> None:
    """Change settings of an app.

    The command prints the settings that it has changed; "app show" prints all
    settings. Example: quotas.pushes_per_day=1000. If the configuration file
    defines the app, change the app in that file.
    """
    with opened(path, data_dir) as (config, store, tenants):
        tenant = tenants.get(name)
        before = {} if tenant is None else plain(tenant)
        # A name with a dot resets a field of a setting, which is a change of
        # this setting.
        reset = [each for each in unset if "." not in each]
        fields = _fields(settings, before, tenants.declared.app_hints, unset)
        tenant = tenants.change(name, fields, reset)
        record_act(config, store, "apps.set", name, settings=list(fields), unset=reset)
    everything = read_value(dump(tenant, tenants.declared), name)
    _print_changed(everything, names=(*fields, *reset))


def _print_changed(everything: Mapping[str, Any], names: Iterable[str]) -> None:
    """Print the settings of an app that were changed, as YAML."""
    changed = {fold(each) for each in names}
    shown = {each: value for each, value in everything.items() if fold(each) in changed}
    # The values know in which line of the text they are. The output does not
    # need that.
    CommandLine.yaml(msgspec.to_builtins(shown))


Hints = Mapping[str, Any]
"""Name of a setting of an app → its type."""


def _fields(
    written: Sequence[str],
    before: Mapping[str, Any],
    hints: Hints,
    unset: Sequence[str] = (),
) -> dict[str, Any]:
    """Read the new values of settings, given as ``setting=value``.

    A name with dots changes one field of the value ``before``. ``unset``: names
    of settings to reset. A name with dots removes a field of its value here;
    the caller resets all other settings. ``hints``: name of a setting → its
    type.
    """
    fields: dict[str, Any] = {}
    for each in written:
        setting, value = _split_assignment(each)
        # The last name is the field; the names above it lead to its mapping.
        *above, name = _path(setting, hints)
        mapping = _mapping_at(above, fields, before)
        mapping[name] = _value(setting, value, hints)
    for setting in unset:
        *above, name = _path(setting, hints)
        if above and _mapping_at(above, fields, before).pop(name, None) is None:
            fail(f"{setting} is not set")
    return fields


def _split_assignment(written: str) -> tuple[str, str]:
    """Split ``setting=value``. Ends the command if there is no ``=``."""
    setting, equals, value = written.partition("=")
    if not equals:
        fail(f"{written}: expected SETTING=VALUE")
    return setting, value


def _spelled(name: str, names: Iterable[str]) -> str:
    """Return the name as it is spelled in ``names``.

    Capital letters and ``_`` may differ: ``maxConnections`` is
    ``max_connections``. A name that is not among them stays as the operator
    wrote it.
    """
    return next((each for each in names if fold(each) == fold(name)), name)


def _path(setting: str, hints: Hints) -> list[str]:
    """Split a setting with dots into names: ``webhook.url`` is [webhook, url].

    The keys of a mapping, such as namespaces, rooms and providers, may have
    dots. So ``channels.a.b.history_size`` is [channels, a.b, history_size].
    """
    name, _, inner = setting.partition(".")
    if not inner:
        return [name]
    name = _spelled(name, hints)  # the earlier settings have this spelling
    hint = hints.get(name)
    if get_origin(bare(hint)) is not dict:
        return [name, *inner.split(".")]
    # The last name may be an option of an entry, or a part of the entry's key.
    options = _options_of(hint)
    key, _, option = inner.rpartition(".")
    if key and _spelled(option, options) in options:
        return [name, key, option]
    return [name, inner]


def _options_of(hint: Any) -> Hints:
    """Return the settings in the struct of a type, if it has one."""
    kind = struct_in(hint)
    if kind is None:
        return {}
    return hints_of(kind)


def _mapping_at(
    path: Sequence[str], fields: dict[str, Any], before: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the mapping inside ``fields`` to which the names of ``path`` lead.

    Missing mappings are added. The first one is the earlier value of the
    setting, from ``before``, so that its other fields stay.
    """
    for name in path:
        inner = fields.get(name, before.get(name))
        if not isinstance(inner, dict):
            inner = {}
        fields[name] = inner
        fields = inner
        before = {}  # ``inner`` already has the earlier values
    return fields


def _value(setting: str, written: str, hints: Hints) -> Any:
    """Read the value of ``setting=written``.

    If ``written`` is ``@FILE`` or ``@-``, the value is read from the file or
    from standard input. Ends the command if a secret was written as an
    argument.
    """
    is_argument = not written.startswith("@")
    if is_argument:
        text = written
    else:
        text = read_text(written[1:])
    # A secret may look like a number or a list, but is a text.
    if _is_secret(setting, hints):
        value = text.strip()
    else:
        value = read_value(text, setting)
    if is_argument and _has_secret(setting, value, hints):
        fail(
            f"{setting}: other users of this machine can see the arguments of a command. "
            f"Write the value to a file and give {setting}=@FILE, or use {setting}=@- for standard input"
        )
    return value


def _is_secret(setting: str, hints: Hints) -> bool:
    """Whether a setting with dots, such as ``webhook.secret``, is a secret."""
    *above, name = _path(setting, hints)
    if not above:
        return False
    options = _options_of(hints.get(above[0]))
    return bool(marks_of(options.get(_spelled(name, options))).get("secret"))


def _has_secret(setting: str, value: Any, hints: Hints) -> bool:
    """Whether the value of a setting contains a secret.

    The ``key`` in an entry of ``jwt`` is a secret only for the HMAC algorithms.
    """
    if _is_secret(setting, hints):
        return bool(value)
    name = _spelled(_path(setting, hints)[0], hints)
    hint = hints.get(name)
    if struct_in(hint) is JwtSettings:
        return isinstance(value, list) and any(map(_is_shared_key, value))
    # Any other setting may have secret fields, also in an inner mapping.
    return _names_secret(value, _secret_options(hint))


def _secret_options(hint: Any) -> Set[str]:
    """Return the folded names of the secret fields in the struct of a type."""
    return {
        fold(option)
        for option, mark in _options_of(hint).items()
        if marks_of(mark).get("secret")
    }


def _is_shared_key(row: Any) -> bool:
    """Whether an entry of ``jwt`` has a secret: a key that also signs."""
    if not isinstance(row, dict):
        return False
    fields = {fold(name): value for name, value in row.items()}
    return "key" in fields and str(fields.get("algorithm", "HS")).startswith("HS")


def _names_secret(value: Any, secrets: Set[str]) -> bool:
    """Whether a value has a secret field that is not empty, at any depth.

    ``secrets``: the folded names of secret fields.
    """
    if not isinstance(value, dict):
        return False
    if any(inner for name, inner in value.items() if fold(name) in secrets):
        return True
    return any(_names_secret(inner, secrets) for inner in value.values())
