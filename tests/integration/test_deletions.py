"""A deletion that fails while Redis is away is completed by the same request, once Redis is back."""

from pathlib import Path

from tests.gateway.cluster.redis_server import RedisServer
from tests.support import eventually
from tests.users import User

from .clusters import nodes_of
from .test_bots import APP, CONFIG

SOON = {"redis_seconds": 0.5, "advertise": "127.0.0.1", "rpc_seconds": 10}


def test_a_bot_is_deleted_by_a_repeated_request(tmp_path: Path) -> None:
    (tmp_path / "redis").mkdir()
    redis = RedisServer(tmp_path / "redis")
    try:
        with nodes_of(tmp_path, 1, redis, **CONFIG, cluster=SOON) as nodes:
            ann = User.register(nodes.servers[0], APP, name="ann")
            bot = ann.bot("Weather")
            redis.kill()
            assert ann.refused("bots/delete", bot=bot.user) == (503, "storage_unavailable")
            assert [each["id"] for each in ann.get("bots")["bots"]] == [bot.user]
            redis.start()
            eventually(lambda: ann.ask("POST", "bots/delete", {"bot": bot.user})[0] == 200, what="deleted")
            assert ann.get("bots")["bots"] == []
    finally:
        redis.kill()
