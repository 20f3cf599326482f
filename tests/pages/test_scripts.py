"""The pages' scripts: their types, as far as they say ``// @ts-check``, and what their modules do in node."""

import json
import shutil
from pathlib import Path

import pytest

from imserver.gateway.assets import SDK, STATIC
from tests.sdk.node import run, run_node
from tests.tools import require

HERE = Path(__file__).parent


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The files laid out as the server serves them: the modules of sdk/js are in /sdk/."""
    shutil.copytree(STATIC, tmp_path / "static")
    (tmp_path / "sdk").mkdir()
    for module in SDK.glob("*.js"):
        shutil.copy(module, tmp_path / "sdk")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    return tmp_path


@pytest.mark.needs("tsc")
def test_the_scripts_of_the_pages_have_no_type_errors(site: Path) -> None:
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
    (site / "tsconfig.json").write_text(json.dumps(config), encoding="utf-8")
    run([require("tsc"), "-p", str(site)])


def test_the_modules_of_the_messages_page(site: Path) -> None:
    shutil.copy(HERE.parent / "vectors" / "links.json", site)
    run_node(*(str(shutil.copy(test, site)) for test in HERE.glob("messages.*.test.mjs")))


@pytest.mark.needs("qr")
def test_qr_codes() -> None:
    run_node(str(HERE / "qr.test.mjs"))
