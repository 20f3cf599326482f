"""The street and its houses for the site of the documents, made from the rows
of the server."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from imserver import FEATURES
from imserver.cli import main as cli
from imserver.gateway.storage.tables import CORE_TABLES
from tools.house import STREET, needed_by


def draw_street(address: str, house: str = "") -> str:
    """A map with links, the houses that stand on others above them. Their pages
    are below ``address``.

    ``house`` has a frame, and those on which it stands have a ground.
    """
    below = needed_by(house) if house in STREET else set()
    floors: dict[int, str] = {}
    for name in [*STREET, "plugin"]:
        if name == house:
            kind = "here"
        elif name in below:
            kind = "below"
        else:
            kind = ""
        box = f'<a href="{address}{name}/" class="{kind}">{name}<small>{_words(name)}</small></a>'
        floors[_floor_of(name)] = floors.get(_floor_of(name), "") + box
    rows = "".join(
        f"<p>{boxes}</p>\n" for _, boxes in sorted(floors.items(), reverse=True)
    )
    return f'<nav class="street" aria-label="The street">\n{rows}</nav>\n'


def _floor_of(house: str) -> int:
    if house in ("gateway", "plugin"):
        return ("gateway", "plugin").index(house)
    return 2 + max((_floor_of(name) - 1 for name in STREET[house]), default=0)


def _words(house: str) -> str:
    if house in ("gateway", "plugin"):
        if house == "gateway":
            return "below all"
        return "the face: what all others use of the gateway"
    if STREET[house]:
        return f"on {', '.join(STREET[house])}"
    return "on the gateway alone"


def list_contents(tree: Path, house: str) -> str:
    """Rows of a table: the features, commands, tables and modules of a
    house."""
    rows = [
        import_module(name).FEATURE for name in FEATURES if name.split(".")[1] == house
    ]
    tables = [table.name for row in rows for table in row.stored.tables]
    tables += [table.name for table in CORE_TABLES] if house == "gateway" else []
    context = click.Context(cli)
    commands = {
        name: cli.get_command(context, name) for name in cli.list_commands(context)
    }
    homes = {
        name: row.callback.__module__
        for name, row in commands.items()
        if row and row.callback
    }
    modules = [*(tree / "imserver" / house).rglob("*.py")]
    contents = {
        "features": [row.name for row in rows],
        "commands": [
            f"imserver {name}"
            for name, module in homes.items()
            if _is_of(house, module)
        ],
        "tables of the database": tables,
        "modules of Python": [str(len(modules))],
    }
    lists = {
        name: ", ".join(f"`{each}`" for each in names)
        for name, names in contents.items()
    }
    return "".join(f"| {name} | {text} |\n" for name, text in lists.items() if text)


def _is_of(house: str, module: str) -> bool:
    return module.startswith(f"imserver.{house}.") or (
        house == "gateway" and module == "imserver.cli"
    )
