"""The types of the pages' scripts, as far as these say ``// @ts-check``, against the client that they use."""

import json
import shutil
from pathlib import Path

import pytest

from imserver.gateway.assets import SDK, STATIC
from tests.sdk.node import run
from tests.tools import require


@pytest.mark.needs("tsc")
def test_the_scripts_of_the_pages_have_no_type_errors(tmp_path: Path) -> None:
    """They are laid out as the server serves them: the modules of sdk/js are in /sdk/."""
    shutil.copytree(STATIC, tmp_path / "static")
    (tmp_path / "sdk").mkdir()
    for module in SDK.glob("*.js"):
        shutil.copy(module, tmp_path / "sdk")
    options = {
        "allowJs": True,
        "strict": True,
        "noEmit": True,
        "target": "es2022",
        "module": "nodenext",
        "lib": ["es2023", "dom", "dom.iterable"],
        "types": [],
    }
    config = {"compilerOptions": options, "include": ["static/**/*.js"]}
    (tmp_path / "tsconfig.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    run([require("tsc"), "-p", str(tmp_path)])
