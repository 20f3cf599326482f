"""Push services of applications, in memory."""

from contextlib import nullcontext

import gevent

from imserver.plugin import FeatureRow, Parts
from imserver.plugin.wire import PushNotice, PushResult

TAKEN = PushResult("taken", 200)
GONE = PushResult("gone", 404)
LATER = PushResult("later", 503, problem="it answered 503")


class FakeService:
    """A push service whose tokens begin with ``t``. Those of ``gone`` do not
    exist any more."""

    def __init__(self, name: str = "fake") -> None:
        self.name = name
        self.gone: set[str] = set()
        self.again: set[str] = set()
        """They were gone before they were registered."""
        self.failures = 0
        """The next requests that fail for now."""
        self.is_closed = False
        self.sent: list[tuple[str, PushNotice]] = []
        """Token and notice of each request."""

    def objection(self, _app: str, token: str) -> str:
        return "" if token.startswith("t") else "this is no token"

    def host(self, app: str, _token: str) -> str:
        return f"{self.name}/{app}"

    def send(self, _app: str, token: str, notice: PushNotice) -> PushResult:
        self.sent.append((token, notice))
        gevent.sleep(0)
        if self.failures:
            self.failures -= 1
            return LATER
        if token in self.again:
            return PushResult("gone", 410, gone_since=1)
        return GONE if token in self.gone else TAKEN

    def close(self) -> None:
        self.is_closed = True


SERVICE = FakeService()
FEATURE = FeatureRow(
    "fakepush",
    lambda _core: Parts(),
    answers=lambda _base: (SERVICE,),
    offline=lambda *_: nullcontext((SERVICE,)),
)
"""A feature of another distribution that brings a push service."""
