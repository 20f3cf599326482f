"""A small server of the cmd dialect that can be told to misbehave: what the load tools have to notice.

``python -m tests.bench.standin [--drop N] [--double N]`` prints its two ports (HTTP, WebSocket) and serves
until its input ends. Broadcast number N then misses, or reaches twice, the receiver that logged in last.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
from urllib.parse import parse_qsl

from bench.floor import ACCEPTED
from bench.frames import server_frame

REPLY = '{"seq":"%s","cmd":"%s","response":{"code":200,"codeMsg":"Success","data":%s}}'
PUSH = (
    '{"seq":"%s","cmd":"msg","response":{"code":200,"codeMsg":"Ok",'
    '"data":{"target":"","type":"text","msg":"%s","from":"%s"}}}'
)


class Standin:
    """One loop, plain sockets."""

    def __init__(self, drop: int, double: int) -> None:
        self.drop, self.double = drop, double
        self.epoll = select.epoll()
        self.listeners = {}
        for kind in ("http", "ws"):
            listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
            self.listeners[listener.fileno()] = listener
            self.epoll.register(listener.fileno(), select.EPOLLIN)
            setattr(self, kind, listener)
        self.sockets: dict[int, socket.socket] = {}
        self.upgraded: set[int] = set()
        self.rest: dict[int, bytes] = {}
        self.users: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.pushes = 0

    def serve(self) -> None:
        print(self.http.getsockname()[1], self.ws.getsockname()[1], flush=True)
        self.epoll.register(0, select.EPOLLIN)
        while True:
            for fd, _mask in self.epoll.poll():
                if fd == 0:
                    if not os.read(0, 1024):
                        return
                elif fd in self.listeners:
                    self.accept(self.listeners[fd])
                else:
                    self.readable(fd)

    def accept(self, listener: socket.socket) -> None:
        sock, _address = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = sock.fileno()
        self.sockets[fd], self.rest[fd] = sock, b""
        self.epoll.register(fd, select.EPOLLIN)

    def readable(self, fd: int) -> None:
        try:
            data = self.sockets[fd].recv(1 << 18)
        except OSError:
            data = b""
        if not data:
            self.upgraded.discard(fd)
            self.users.pop(self.names.pop(fd, ""), None)
            self.epoll.unregister(fd)
            self.sockets.pop(fd).close()
            return
        data = self.rest[fd] + data
        self.rest[fd] = self.frames(fd, data) if fd in self.upgraded else self.requests(fd, data)

    def requests(self, fd: int, data: bytes) -> bytes:
        while (end := data.find(b"\r\n\r\n")) >= 0:
            head = data[:end].decode()
            if "Upgrade: websocket" in head:
                self.upgraded.add(fd)
                self.sockets[fd].send(ACCEPTED)
                return data[end + 4 :]
            length = int(head.partition("Content-Length: ")[2].partition("\r\n")[0] or 0)
            if len(data) < end + 4 + length:
                break
            path, body = head.split()[1], data[end + 4 : end + 4 + length]
            data = data[end + 4 + length :]
            answer = json.dumps(self.answer(path, body), separators=(",", ":")).encode()
            self.sockets[fd].send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))
        return data

    def answer(self, path: str, body: bytes) -> dict[str, object]:
        if path == "/user/sendMessageBatch":
            items = json.loads(body)["messages"]
            sent = [
                self.push(item["userID"], item["msgID"], item["message"], item["userID"]) for item in items
            ]
            return {"code": 200, "data": {"results": [{"sendResults": one} for one in sent]}}
        form = dict(parse_qsl(body.decode()))
        if path == "/user/sendMessage":
            done = self.push(form["userID"], form["msgID"], form["message"], form["userID"])
        else:
            done = True
            for user in self.users:
                self.push(user, form["msgID"], form["message"], form["userID"])
            self.pushes += 1
        return {"code": 200, "msg": "Success", "data": {"sendResults": done}}

    def push(self, user: str, msg_id: str, text: str, sender: str) -> bool:
        fd = self.users.get(user)
        if fd is None:
            return False
        last = user == list(self.users)[-1]
        times = 0 if last and self.pushes == self.drop else 2 if last and self.pushes == self.double else 1
        for _ in range(times):
            self.sockets[fd].send(server_frame((PUSH % (msg_id, text, sender)).encode()))
        return True

    def frames(self, fd: int, data: bytes) -> bytes:
        while len(data) >= 6:
            size, start = data[1] & 0x7F, 2
            if size == 126:
                size, start = int.from_bytes(data[2:4], "big"), 4
            if len(data) < start + 4 + size:
                break
            mask = (data[start : start + 4] * (size // 4 + 1))[:size]
            payload = data[start + 4 : start + 4 + size]
            plain = int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")
            self.command(fd, json.loads(plain.to_bytes(size, "big")))
            data = data[start + 4 + size :]
        return data

    def command(self, fd: int, request: dict) -> None:
        if request["cmd"] == "login":
            self.names[fd] = request["data"]["userID"]
            self.users[self.names[fd]] = fd
        result = '"pong"' if request["cmd"] == "ping" else "null"
        reply = REPLY % (request["seq"], request["cmd"], result)
        self.sockets[fd].send(server_frame(reply.encode()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--drop", type=int, default=-1)
    parser.add_argument("--double", type=int, default=-1)
    options = parser.parse_args(sys.argv[1:])
    Standin(options.drop, options.double).serve()
