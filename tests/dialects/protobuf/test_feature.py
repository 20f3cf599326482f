"""What the dialect adds to a node beside its frames."""

from pathlib import Path
from types import SimpleNamespace

from imserver.dialects.protobuf.wire import NAME
from tests.features import sections
from tests.security.node_harness import Harness, config


def test_the_sweep_closes_silent_sessions_and_those_whose_token_has_expired(tmp_path: Path) -> None:
    harness = Harness(config(tmp_path, of_features=sections(websocket={"protobuf_silent_seconds": 7.0})))
    sweep, closed = harness.node.core.network.sweep, list[float]()
    sweep.close_silent = lambda _, seconds: closed.append(seconds)  # type: ignore[method-assign]
    assert sweep.checks[NAME](SimpleNamespace(user="1", dialect_state=None))  # type: ignore[arg-type]
    harness.close()
    assert closed == [7.0]
