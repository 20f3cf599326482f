"""firebase-admin, unmodified, against the fake: in its own process, where Google's hosts are this machine."""

import json
import socket
import sys
from datetime import timedelta
from typing import Any

given = json.load(sys.stdin)
_look_up = socket.getaddrinfo


def look_up(host: Any, _port: Any, *more: Any, **options: Any) -> Any:
    assert host in ("fcm.googleapis.com", "oauth2.googleapis.com"), host
    return _look_up("127.0.0.1", given["port"], *more, **options)


socket.getaddrinfo = look_up

import firebase_admin  # noqa: E402
from firebase_admin import credentials, messaging  # noqa: E402

firebase_admin.initialize_app(credentials.Certificate(json.loads(given["account"])), {"httpTimeout": 30})


def message(token: str) -> messaging.Message:
    """One with all that our sender uses."""
    android = messaging.AndroidConfig(
        collapse_key="topic-1",
        priority="high",
        ttl=timedelta(seconds=600),
        notification=messaging.AndroidNotification(tag="c1", sound="default", notification_count=3),
    )
    apns = messaging.APNSConfig(
        headers={"apns-collapse-id": "topic-1", "apns-priority": "10"},
        payload=messaging.APNSPayload(messaging.Aps(badge=3, sound="default", thread_id="c1")),
    )
    web = messaging.WebpushConfig(
        headers={"TTL": "600"},
        notification=messaging.WebpushNotification(tag="c1"),
        fcm_options=messaging.WebpushFCMOptions(link="https://chat.example/1"),
    )
    shown, data = messaging.Notification("Ann", "hello"), {"imserver": '{"id":"n1"}'}
    return messaging.Message(data, shown, android, web, apns, token=token)


results = {}
for token in given["tokens"]:
    try:
        results[token] = messaging.send(message(token))
    except Exception as error:
        results[token] = f"{type(error).__name__} {getattr(error, 'code', '')}"
json.dump(results, sys.stdout)
