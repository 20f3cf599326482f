"""``imserver.wsgi:application``: the node as a plain WSGI application under somebody else's server.

For gunicorn with gevent-websocket's worker, which patches and listens; settings come from the environment
(``IMSERVER_…``) and the file that ``IMSERVER_CONFIG`` names. The node is built at the first request, in the
worker that serves it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

from imserver.app import create_app
from imserver.config.load import load_config
from imserver.logging import open_logs
from imserver.node import Node
from imserver.transport import problems

_nodes: list[Node] = []
"""The one node of this process, once it is built."""


def _node() -> Node:
    if not _nodes:
        settings = load_config(os.environ.get("IMSERVER_CONFIG"))
        node = Node(settings, open_logs(settings).requests, create_app)
        node.start_without_listeners()
        _nodes.append(node)
    return _nodes[0]


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """WSGI entry. A request that gevent-websocket's handler has upgraded becomes a parked connection."""
    # Here, so that importing this module does not need gevent-websocket.
    from imserver.transport.wsgi import adopt_from_environ, objection_to

    node = _node()
    if adopt_from_environ(environ, node.parts.gate, node.parts.servers.admit):
        return []
    objection = objection_to(environ, node.parts.gate)
    if objection is not None:
        kind = ("Content-Type", "application/json; charset=utf-8")
        start_response(f"{objection.status} {HTTPStatus(objection.status).phrase}", [kind, *problems.CORS])
        return [problems.body(objection)]
    answer: Iterable[bytes] = node.parts.application(environ, start_response)
    return answer
