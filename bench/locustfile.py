"""Pushes to one user each, in a closed loop, by Locust: a load generator that is not ours.

Locust and websocket-client are no dependencies of imserver; docs/benchmarks.md has the commands. Each
Locust user logs in over a WebSocket and pushes to itself by HTTP. The row ``WS`` is the time until its own
client has read the message.
"""

# mypy: ignore-errors

from __future__ import annotations

import json
import os
import time
import uuid

import gevent
import websocket
from locust import FastHttpUser, constant, task

APP = 101
WEBSOCKET = os.environ.get("TARGET_WS", "ws://127.0.0.1:8089/acc")


class SelfPusher(FastHttpUser):
    """A client and the back end that pushes to it."""

    wait_time = constant(0)

    def on_start(self) -> None:
        self.name, self.sent = uuid.uuid4().hex[:16], dict[str, float]()
        self.socket = websocket.create_connection(WEBSOCKET)
        login = {"seq": "1", "cmd": "login", "data": {"userID": self.name, "appID": APP}}
        self.socket.send(json.dumps(login))
        answer = json.loads(self.socket.recv())
        if answer["response"]["code"] != 200:
            raise RuntimeError(answer)
        self.reader = gevent.spawn(self.read)

    def on_stop(self) -> None:
        gevent.sleep(0.5)  # the last messages
        self.reader.kill()
        self.socket.close()
        for _ in self.sent:
            self.report(0.0, RuntimeError("lost"))

    def read(self) -> None:
        while True:
            frame = self.socket.recv()
            for message in [each for each in self.sent if each in frame]:
                self.report(time.perf_counter() - self.sent.pop(message), None)

    def report(self, seconds: float, error: Exception | None) -> None:
        self.environment.events.request.fire(
            request_type="WS",
            name="delivery",
            response_time=seconds * 1000,
            response_length=0,
            exception=error,
            context={},
        )

    @task
    def push(self) -> None:
        message = uuid.uuid4().hex
        self.sent[message] = time.perf_counter()
        form = {"appID": APP, "userID": self.name, "msgID": message, "message": message}
        with self.client.post("/user/sendMessage", data=form, catch_response=True) as answer:
            if '"sendResults":true' not in (answer.text or ""):
                self.sent.pop(message, None)
                answer.failure(str(answer.text)[:200])
