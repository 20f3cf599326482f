"""``imserver drain``: takes the clients off a node."""

import sys
from collections.abc import Mapping
from time import sleep
from typing import Any, Final

import click

from imserver.plugin.commands import ServerApi, fail

_LOOK_SECONDS: Final = 0.5
"""How often the command checks a node that is being drained."""


@click.command(
    short_help="Move the clients of a node to other nodes, or let the node serve again."
)
@ServerApi.options
@click.option("--back", is_flag=True, help="Let the node serve clients again.")
@click.option(
    "--yes",
    is_flag=True,
    help="Do not ask for confirmation if no other node serves clients.",
)
@click.argument("node", default="")
def drain(url: str, key_file: str | None, back: bool, yes: bool, node: str) -> None:
    """Make the clients of NODE reconnect to other nodes, and wait until the
    last client has left.

    NODE is the name of a node. The default is the node that answers. The node
    runs without clients until it stops, or until you use --back. Ctrl-C ends
    only the waiting. If no other node serves clients, the command asks for
    confirmation; in a script, use --yes.
    """
    api = ServerApi(url, key_file)
    nodes = _nodes(api)
    node = node or _own_node(nodes)
    if node not in nodes:
        fail(f"there is no node {node}: the nodes are {', '.join(nodes)}")

    if back:
        api.post("nodes/undrain", {"node": node})
        click.echo(f"{node} serves clients")
        return

    if not _serves_without(node, nodes):
        _confirm_outage(node, nodes[node]["connections"], yes)
    api.post("nodes/drain", {"node": node})
    _wait_until_drained(api, node)


def _own_node(nodes: dict[str, dict[str, Any]]) -> str:
    """The name of the node that answers, which the server marks as ``own``."""
    return next(name for name, state in nodes.items() if state["own"])


def _serves_without(node: str, nodes: Mapping[str, Any]) -> bool:
    """Whether another node serves clients if this node does not."""
    others = (state for name, state in nodes.items() if name != node)
    return any(state["answers"] and not state["draining"] for state in others)


def _confirm_outage(node: str, connections: int, yes: bool) -> None:
    """Warn that the last node that serves clients is going to be drained.

    Then ask whether to continue, and end the command if the answer is no. With
    ``yes``, do not ask.
    """
    click.echo(
        f"no other node serves clients: {connections} connections end, and clients cannot "
        "connect until a node serves them again",
        err=True,
    )
    if yes:
        return
    if not sys.stdin.isatty():
        fail(
            f"{node} was not drained: use --yes to end its connections, or stop the node with SIGTERM"
        )
    click.confirm(f"Drain {node}?", abort=True, err=True)


def _wait_until_drained(api: ServerApi, node: str) -> None:
    """Wait until a node that is being drained has no connections.

    Print their number each time it has changed. Ends the command if the node
    stops, or if somebody lets it serve again.
    """
    printed = -1  # no number yet
    while True:
        state = _nodes(api).get(node, {"answers": False})
        if not state["answers"]:
            fail(f"{node} does not answer any more")
        if not state["drained"]:
            fail(f"{node} serves clients again")
        connections = state["connections"]
        if connections != printed:
            click.echo(f"connections of {node}: {connections}")
            printed = connections
        if not connections:
            return
        sleep(_LOOK_SECONDS)


def _nodes(api: ServerApi) -> dict[str, Any]:
    """Name of a node → its facts, as the server answers them."""
    return {state["node"]: state for state in api.get("nodes", {})["nodes"]}
