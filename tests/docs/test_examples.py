"""Every example of the documents does what it says: run, played or read against a real server."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from imserver import config
from imserver.cli import main
from tests.conftest import StartServer
from tests.docs.markdown import PAGES, Block, blocks
from tests.docs.play import at_server, exchanges, play_frames, play_session, present
from tests.support import ROOT, Server
from tests.tools import require

SESSIONS = [block for page in PAGES for block in blocks(page, "console")]
OPEN = [block for block in SESSIONS if not block.words]
KEYED = [block for block in SESSIONS if "keys" in block.words]
TRANSCRIPTS = [block for page in PAGES for block in blocks(page, "text") if "frames" in block.words]
JSON = [block for page in PAGES for block in blocks(page, "json")]
YAML = [block for page in PAGES for block in blocks(page, "yaml")]
SCRIPTS = [block for page in PAGES for block in blocks(page, "js")]
COMMANDS = [block for page in PAGES for block in blocks(page, "sh")]


def test_no_example_is_left_out() -> None:
    """A block in a language, or with words, that nothing here knows would not be checked."""
    known = {id_of(block) for block in (*OPEN, *KEYED, *TRANSCRIPTS, *JSON, *YAML, *SCRIPTS, *COMMANDS)}
    examined = ("console", "json", "yaml", "js", "sh", "bash", "python", "javascript", "")
    left = [str(block) for page in PAGES for block in blocks(page, *examined) if id_of(block) not in known]
    assert not left
    assert all((OPEN, KEYED, TRANSCRIPTS, JSON, YAML, SCRIPTS, COMMANDS))


def id_of(block: Block) -> tuple[Path, int]:
    return block.page, block.line


def test_no_msg_id_is_used_in_two_examples() -> None:
    """The examples run on one server, which takes each id once."""
    users: dict[str, set[str]] = {}
    for block in (*OPEN, *TRANSCRIPTS):
        for msg_id in re.findall(r'msgID["=:]+([\w-]+)', block.text):
            users.setdefault(msg_id, set()).add(str(block))
    assert not {msg_id: where for msg_id, where in users.items() if len(where) > 1}


@pytest.mark.parametrize("block", OPEN, ids=str)
def test_a_shell_session_prints_what_it_says(block: Block, server: Server, tmp_path: Path) -> None:
    with present(server):
        play_session(block, tmp_path, server)


@pytest.mark.parametrize("block", KEYED, ids=str)
def test_a_shell_session_with_keys_prints_what_it_says(
    block: Block, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(config=nearest_keys(block))
    with present(server):
        play_session(block, tmp_path, server)


def nearest_keys(block: Block) -> Any:
    """The configuration with keys that stands last above a block."""
    above = [it for it in YAML if it.page == block.page and it.line < block.line and "keys:" in it.text]
    assert above, f"{block}: no keys above it"
    return yaml.safe_load(above[-1].text)


@pytest.mark.parametrize("block", TRANSCRIPTS, ids=str)
def test_a_transcript_is_what_goes_over_the_wire(block: Block, server: Server, tmp_path: Path) -> None:
    play_frames(block, tmp_path, server)


@pytest.mark.parametrize("block", JSON, ids=str)
def test_json_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", [block for block in JSON if "state" in block.words], ids=str)
def test_system_state_has_the_keys_that_are_shown(block: Block, server: Server) -> None:
    status, body = server.get("/system/state?isDebug=true&detail=true")
    assert status == 200
    assert shape(json.loads(body)) == shape(json.loads(block.text))


def shape(value: Any) -> Any:
    """The keys of objects in objects, in their order; counters are compared elsewhere."""
    if not isinstance(value, dict):
        return None
    return [(key, None if key == "metrics" else shape(inner)) for key, inner in value.items()]


@pytest.mark.parametrize("block", YAML, ids=str)
def test_yaml_is_a_configuration(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(block.text, encoding="utf-8")
    assert config.load(str(file), environ={}).warnings == ()


@pytest.mark.parametrize("block", SCRIPTS, ids=str)
def test_a_script_runs(block: Block, server: Server, tmp_path: Path) -> None:
    """It may end by itself or not; within its first seconds it must not fail, and it must log in or send."""
    sdk = (ROOT / "sdk" / "js" / "imserver.js").as_uri()
    script = re.sub(r'from "[^"]*/sdk/imserver\.js"', f'from "{sdk}"', block.text)
    assert sdk in script, f"{block} does not import the SDK"
    file = tmp_path / "script.mjs"
    file.write_text(f"{at_server(script, server)}\nprocess.exit(0);\n", encoding="utf-8")
    done = subprocess.run(
        [require("node"), "--no-warnings", "--experimental-websocket", str(file)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", COMMANDS, ids=str)
def test_commands_exist(block: Block) -> None:
    """They are not run; the shell can read them, make has the target, imserver command and options."""
    subprocess.run(["bash", "-n", "-c", block.text], check=True)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?m)^make ([a-z]+)", block.text):
        assert re.search(rf"(?m)^{target}:", makefile), target
    for line in re.findall(r"(?m)(?:^|[ /])imserver ([^|>&\n]*)", block.text):
        words = line.partition("#")[0].split()
        commands = [word for word in words[:2] if re.fullmatch("[a-z][a-z-]*", word)]
        shown = CliRunner().invoke(main, [*commands, "--help"])
        assert shown.exit_code == 0, f"{block}: imserver {line}: {shown.output}"
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert re.search(rf"{option}\b", shown.output), f"{block}: imserver {line}: no {option}"


def test_sessions_are_taken_apart() -> None:
    assert exchanges("$ A=1\n$ a\nb\nc\n$ d\n") == [("A=1", ""), ("a", "b\nc"), ("d", "")]
