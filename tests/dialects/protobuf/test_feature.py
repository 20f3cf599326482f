"""What the dialect adds to a node beside its frames."""

from pathlib import Path
from types import SimpleNamespace

from imserver.dialects.protobuf.wire import NAME
from tests.rows import sections
from tests.security.node_harness import Harness, config


def test_the_sweep_closes_silent_sessions_and_those_whose_token_has_expired(tmp_path: Path) -> None:
    harness = Harness(config(tmp_path, of_features=sections(websocket={"protobuf_silent_seconds": 7.0})))
    check = harness.node.core.network.sweep.checks[NAME]
    assert check(SimpleNamespace(dialect_state=None)) == 7.0  # type: ignore[arg-type]
    harness.close()
