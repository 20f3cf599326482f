"""What tests of sessions share."""

import pytest

from imserver.gateway.sessions import sessions as module
from tests.gateway.transport.harness import Client
from tests.integration.raw import PING, PONG, frame


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """An old connection has a second to show that it lives."""
    monkeypatch.setattr(module, "ALIVE_SECONDS", 1.0)


def answer_pings(client: Client) -> bool:
    """Answer a ping, if one came."""
    if any(each.opcode == PING for each in client.read()):
        client.frames[:] = [each for each in client.frames if each.opcode != PING]
        client.send(frame(PONG))
        return True
    return False
