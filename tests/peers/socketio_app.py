"""A python-socketio server that sends each message of a client to everybody."""

from typing import Any

import socketio

server = socketio.AsyncServer(async_mode="asgi")
app = socketio.ASGIApp(server)


@server.event
async def publish(_: str, data: Any) -> None:
    """Send to all clients."""
    await server.emit("msg", data)
