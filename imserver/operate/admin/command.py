"""``imserver drain``: takes the clients off a node."""

import sys
from time import sleep
from typing import Any

import click

from imserver.plugin.commands import ServerApi, fail


@click.command(short_help="Take the clients off a node, or let it serve them again.")
@ServerApi.options
@click.option("--back", is_flag=True, help="Let it serve clients again.")
@click.option(
    "--yes", is_flag=True, help="Do not ask where no other node serves clients."
)
@click.argument("node", default="")
def drain(url: str, key_file: str | None, back: bool, yes: bool, node: str) -> None:
    """Let the clients of NODE reconnect to other nodes, and wait until the last
    one has left.

    NODE is the name of a node, by default of the one that answers. It goes on
    without clients until it ends, or until --back. Ctrl-C ends the waiting
    alone. Where no other node serves clients, the command asks first; a script
    gives --yes.
    """
    api = ServerApi(url, key_file)
    nodes = _nodes(api)
    node = node or next(name for name, each in nodes.items() if each["own"])
    if node not in nodes:
        fail(f"there is no node {node}: the nodes are {', '.join(nodes)}")
    others = any(
        each["answers"] and not each["draining"]
        for name, each in nodes.items()
        if name != node
    )
    if not back and not others:
        count = nodes[node]["connections"]
        click.echo(
            f"no other node serves clients: {count} connections end until it does again",
            err=True,
        )
        if not (yes or sys.stdin.isatty()):
            fail(
                f"{node} was not drained: give --yes to end its connections, or use SIGTERM to stop the node"
            )
        if not yes:
            click.confirm(f"Drain {node}?", abort=True, err=True)
    api.post(f"nodes/{'undrain' if back else 'drain'}", {"node": node})
    if back:
        click.echo(f"{node} serves clients")
        return
    left = -1
    while left:
        state = _nodes(api).get(node, {"answers": False})
        if not state["answers"]:
            fail(f"{node} does not answer any more")
        if not state["drained"]:
            fail(f"{node} serves clients again")
        if left != state["connections"]:
            left = state["connections"]
            click.echo(f"connections of {node}: {left}")
        if left:
            sleep(0.5)


def _nodes(api: ServerApi) -> dict[str, Any]:
    return {each["node"]: each for each in api.get("nodes", {})["nodes"]}
