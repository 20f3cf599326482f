"""What the dialect adds to a node beside its frames."""

from pathlib import Path

from imserver.dialects.protobuf.wire import NAME
from tests.features import sections
from tests.security.node_harness import Harness, config


def test_the_sweep_closes_silent_sessions_and_those_whose_token_has_expired(tmp_path: Path) -> None:
    harness = Harness(config(tmp_path, of_features=sections(websocket={"protobuf_silent_seconds": 7.0})))
    sweep = harness.node.core.network.sweep
    harness.close()
    assert sweep.silent_seconds == {NAME: 7.0}
    assert NAME in sweep.checks
