"""The erasure of a user on two nodes: what is left in Redis and in the logs of the nodes."""

from pathlib import Path
from typing import Any

import redis

from tests.gateway.cluster.redis_server import RedisServer
from tests.support import eventually
from tests.users import User

from .clusters import nodes_of
from .cmd import CmdClient, cmd_client
from .v1 import good

ANN = "ann@example.org"
TEXT = "a text of ann"
NICKNAME = "the nickname of bob"
CHANNEL, LIMITED = "past:1", f"past:2#{ANN},bob"
PAST = {"history_size": 9, "history_seconds": 3600}
CONFIG: dict[str, Any] = {
    "apps": {
        "101": {
            "channels": {
                "past": {"subscribe": "anybody", "publish": "subscribers", "user_limited": True, **PAST},
                "user": PAST,
            }
        },
        "people": {"account_tokens": "required"},
    },
    "accounts": {"registration": True},
    "log": {"requests": True},
}


def dump(server: RedisServer) -> dict[bytes, str]:
    """All keys of a server, with their values as text."""
    with redis.Redis(host="127.0.0.1", port=server.port, protocol=2) as client:
        readers: dict[bytes, Any] = {
            b"string": client.get,
            b"hash": client.hgetall,
            b"list": lambda key: client.lrange(key, 0, -1),
            b"set": client.smembers,
            b"zset": lambda key: client.zrange(key, 0, -1),
        }
        keys = client.keys()
        return {key: repr(readers[kind](key)) for key in keys if (kind := client.type(key)) in readers}


def naming(server: RedisServer, *markers: str) -> list[tuple[bytes, str]]:
    """The keys and values in which one of these stands."""
    rows = dump(server).items()
    return [row for row in rows if any(marker in f"{row[0]!r} {row[1]}" for marker in markers)]


def subscribe(client: CmdClient, channel: str, **position: Any) -> Any:
    code, _, data = client.ask_cmd("subscribe", {"channel": channel, **position})
    assert code == 200
    return data


def test_neither_redis_nor_a_log_has_what_an_erased_user_wrote(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis")
    try:
        with nodes_of(tmp_path, 2, server, **CONFIG) as nodes:
            account = User.register(nodes.servers[0], "people", nickname=NICKNAME)
            with cmd_client(nodes.ws[0]) as ann, cmd_client(nodes.ws[1]) as bob:
                bob.login("bob", 101)
                first = subscribe(bob, CHANNEL)
                ann.login(ANN, 101)
                for channel in (CHANNEL, LIMITED):
                    subscribe(ann, channel)
                    code, _, _ = ann.ask_cmd("publish", {"channel": channel, "text": f"{TEXT} in {channel}"})
                    assert code == 200
                published = {"app": "101", "channel": CHANNEL, "text": "by the back end"}
                good(nodes.http[1], "channels/publish", published)
                good(nodes.http[1], "push", {"app": "101", "users": [ANN], "text": "to ann"})
                assert len(naming(server, TEXT)) == 2
                assert len(naming(server, ANN)) > 5
                for app, user in (("101", ANN), ("people", account.user)):
                    good(nodes.http[1], "users/erase", {"app": app, "user": user})
            left = naming(server, TEXT, NICKNAME, ":list", "acc:user:online")
            assert [key for key, _ in left] == [
                key for key in dump(server) if key.endswith((b"past:1}:list", b"101_bob"))
            ]
            eventually(lambda: not naming(server, ANN, TEXT, NICKNAME), what="Redis has nothing of ann")
            with cmd_client(nodes.ws[0]) as bob:
                bob.login("bob", 101)
                again = subscribe(bob, CHANNEL, epoch=first["epoch"], offset=first["offset"])
            assert again["recovered"]
            erased, other = again["publications"]
            assert (erased["offset"], erased["text"]) == (1, "")
            assert (other["offset"], other["text"]) == (2, "by the back end")
            logs = [node.log_with_requests() for node in nodes.servers]
            assert "users/erase" in logs[1]
            markers = (TEXT, "to ann", NICKNAME, account.phone)
            assert not [marker for marker in markers if any(marker in log for log in logs)]
    finally:
        server.kill()
