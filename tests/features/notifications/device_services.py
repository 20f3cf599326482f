"""Push services of applications, in memory."""

import gevent

from imserver.plugin import Feature, FeatureParts
from imserver.plugin.wire import PushNotice, PushResult

TAKEN = PushResult("taken", 200)
GONE = PushResult("gone", 404)


class FakeService:
    """A push service whose tokens begin with ``t``. Those of ``gone`` do not exist any more."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.gone: set[str] = set()
        self.sent: list[tuple[str, PushNotice]] = []
        """Token and notice of each request."""

    def objection(self, _app: str, token: str) -> str:
        return "" if token.startswith("t") else "this is no token"

    def host(self, app: str, _token: str) -> str:
        return f"{self.name}/{app}"

    def send(self, _app: str, token: str, notice: PushNotice) -> PushResult:
        self.sent.append((token, notice))
        gevent.sleep(0)
        return GONE if token in self.gone else TAKEN


SERVICE = FakeService()
FEATURE = Feature("fakepush", lambda _core: FeatureParts(push_services=(SERVICE,)), face=3)
"""A feature of another distribution that brings a push service."""
