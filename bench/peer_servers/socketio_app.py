"""A python-socketio server under uvicorn: each client in a room of its user, POST /push/<room> emits."""

# mypy: ignore-errors

import json

import socketio

server = socketio.AsyncServer(async_mode="asgi")


@server.event
async def connect(sid, environ, auth):
    await server.enter_room(sid, auth["user"])


async def push(scope, receive, send):
    data, room = json.loads((await receive())["body"]), scope["path"].rpartition("/")[2]
    await server.emit("msg", data, room=None if room == "all" else room)
    head = [(b"content-type", b"text/plain"), (b"content-length", b"6")]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b"queued"})


app = socketio.ASGIApp(server, other_asgi_app=push)
