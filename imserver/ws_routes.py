"""The WebSocket routes: the dialect of each path, and what serves its messages."""

from __future__ import annotations

from collections.abc import Mapping

from imserver.auth.quotas import limited
from imserver.config.settings import Config
from imserver.protocol.dialect import EchoDialect
from imserver.protocol.registry import DIALECTS, choose
from imserver.transport.connection import Connection, Serve
from imserver.transport.gate import Choose, Opened, Spoken


def echo(connection: Connection, payload: bytes, text: bool) -> None:
    """Serve of the debug echo path: every message goes back as it came."""
    connection.send_frame(connection.encoding.frame(payload, 1 if text else 2))


def ws_routes(config: Config, serve: Serve, opened: Mapping[str, Opened]) -> dict[str, Spoken | Choose]:
    """Every WebSocket path of a node.

    ``serve`` serves the messages of all dialects; ``opened`` is what dialects do when a connection begins, by
    their name.
    """
    limits, debug = config.limits, config.debug
    if limits.messages_per_second:
        serve = limited(serve, limits.messages_per_second)
    spoken = {
        dialect.name: Spoken(
            dialect,
            serve,
            min(dialect.message_bytes or limits.message_bytes, limits.message_bytes),
            opened=opened.get(dialect.name),
        )
        for dialect in DIALECTS
    }
    paths: dict[str, Spoken | Choose] = {
        "/acc": spoken["cmd"],
        "/ws": lambda head: spoken.get(choose(head.params(), head.bare)),
    }
    if debug.echo_path:
        room = debug.echo_bytes + limits.outbox_bytes
        paths[debug.echo_path] = Spoken(EchoDialect(debug.echo_path), echo, debug.echo_bytes, room)
    return paths
