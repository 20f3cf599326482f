"""aioapns, unmodified, against the fake: in its own process, where Apple's hosts are this machine."""

import asyncio
import json
import socket
import sys
from typing import Any

given = json.load(sys.stdin)
_look_up = socket.getaddrinfo


def look_up(host: Any, _port: Any, *more: Any, **options: Any) -> Any:
    assert host in ("api.push.apple.com", "api.development.push.apple.com"), host
    return _look_up("127.0.0.1", given["port"], *more, **options)


socket.getaddrinfo = look_up

from aioapns import APNs, NotificationRequest, PushType  # noqa: E402


async def main() -> list[dict[str, Any]]:
    names = ("key", "key_id", "team_id", "topic")
    client = APNs(**{name: given[name] for name in names}, use_sandbox=False, max_connections=1)
    results = []
    for row in given["requests"]:
        kind = row.pop("push_type", "alert")
        request = NotificationRequest(push_type=PushType(kind), **row)
        result = await client.send_notification(request)
        results.append(
            {"id": result.notification_id, "status": result.status, "description": result.description}
        )
    rest = [
        NotificationRequest(f"{number:064x}", {"aps": {"alert": "x"}}, collapse_key=f"many-{number}")
        for number in range(given["many"])
    ]
    for result in await asyncio.gather(*map(client.send_notification, rest)):
        assert result.is_successful, result.description
    client.pool.close()
    return results


json.dump(asyncio.run(main()), sys.stdout)
