"""Libraries, unmodified, against the fakes: in a process of their own, where
the services are this machine.

`judge.py aioapns` or `judge.py firebase`, with JSON from standard input: hosts,
port, and what to send.
"""

import asyncio
import json
import socket
import sys
from datetime import timedelta
from typing import Any

given = json.load(sys.stdin)
_look_up = socket.getaddrinfo


def look_up(host: Any, _port: Any, *more: Any, **options: Any) -> Any:
    assert host in given["hosts"], host
    return _look_up("127.0.0.1", given["port"], *more, **options)


async def aioapns() -> list[dict[str, Any]]:
    from aioapns import APNs, NotificationRequest, PushType

    names = ("key", "key_id", "team_id", "topic")
    client = APNs(
        **{name: given[name] for name in names}, use_sandbox=False, max_connections=1
    )
    results = []
    for row in given["requests"]:
        kind = PushType(row.pop("push_type", "alert"))
        result = await client.send_notification(
            NotificationRequest(push_type=kind, **row)
        )
        row = {
            "id": result.notification_id,
            "status": result.status,
            "description": result.description,
        }
        results.append(row)
    devices = [f"{number:064x}" for number in range(given["many"])]
    alert = {"aps": {"alert": "x"}}
    rest = [
        NotificationRequest(each, alert, collapse_key=f"many-{each[-4:]}")
        for each in devices
    ]
    for result in await asyncio.gather(*map(client.send_notification, rest)):
        assert result.is_successful, result.description
    client.pool.close()
    return results


async def firebase() -> dict[str, str]:
    """Each message has all that our sender uses."""
    import firebase_admin
    from firebase_admin import credentials, messaging

    account = credentials.Certificate(json.loads(given["account"]))
    firebase_admin.initialize_app(account, {"httpTimeout": 30})
    shown = messaging.AndroidNotification(
        tag="c1", sound="default", notification_count=3
    )
    lasts = timedelta(seconds=600)
    android = messaging.AndroidConfig("topic-1", "high", lasts, notification=shown)
    headers = {"apns-collapse-id": "topic-1", "apns-priority": "10"}
    aps = messaging.Aps(badge=3, sound="default", thread_id="c1")
    apns = messaging.APNSConfig(headers, messaging.APNSPayload(aps))
    link = messaging.WebpushFCMOptions(link="https://chat.example/1")
    web = messaging.WebpushConfig(
        {"TTL": "600"}, None, messaging.WebpushNotification(tag="c1"), link
    )
    alert = messaging.Notification("Ann", "hello")
    data = {"imserver": '{"id":"n1"}'}
    results = {}
    for token in given["tokens"]:
        try:
            message = messaging.Message(data, alert, android, web, apns, token=token)
            results[token] = messaging.send(message)
        except Exception as error:
            results[token] = f"{type(error).__name__} {getattr(error, 'code', '')}"
    return results


socket.getaddrinfo = look_up
json.dump(
    asyncio.run({"aioapns": aioapns, "firebase": firebase}[sys.argv[1]]()), sys.stdout
)
