"""Runs the tests of the modules in static/messages with node, without a browser or server."""

import shutil
from pathlib import Path

from imserver.gateway.assets import SDK, STATIC
from tests.sdk.node import run_node

HERE = Path(__file__).parent


def test_the_modules_of_the_messages_page(tmp_path: Path) -> None:
    """They are laid out as the server serves them: the modules of sdk/js are in /sdk/."""
    shutil.copytree(STATIC, tmp_path / "static")
    (tmp_path / "sdk").mkdir()
    for module in SDK.glob("*.js"):
        shutil.copy(module, tmp_path / "sdk")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    shutil.copy(HERE.parent / "vectors" / "links.json", tmp_path)
    tests = [shutil.copy(test, tmp_path) for test in HERE.glob("messages.*.test.mjs")]
    run_node(*(str(test) for test in tests))
