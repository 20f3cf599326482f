"""The npm packages: what is in them, their types and sizes, and that every
JavaScript engine can use them."""

import gzip
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from imserver import __version__
from imserver_client.errors import CLOSE_CODES, PROBLEM_CODES, REPLY_CODES, ErrorRow
from tests.conftest import StartServer
from tests.sdk.generated import MINIPROGRAM, SDK, generate
from tests.sdk.node import NODE_FLAGS, PACKAGES, bundle, npm, run, run_node
from tests.support import Server
from tests.tools import require

pytestmark = pytest.mark.full("programs")

HERE = Path(__file__).parent
BUNDLE_BYTES = 12 * 1024
"""Most of a browser bundle without Messenger, compressed."""
MESSENGER_BUNDLE_BYTES = 20 * 1024
PHONE_BUNDLE_BYTES = 18 * 1024
"""The package for React Native with its chat screen, without React and React
Native."""
MINIPROGRAM_BYTES = 40 * 1024
SECRET = "a secret that is long enough to be one"
CONFIG = {
    "apps": {
        "shop": {"jwt": [{"key": SECRET}]},
        "action:5": {"jwt": [{"key": SECRET}]},
    },
    "api": {"keys": [{"key": "key of the back end of tests", "scopes": ["admin"]}]},
}


def server_options(server: Server) -> dict[str, Any]:
    """Where a client finds the server, and the tokens of two users of each
    app."""
    tokens = {
        user: jwt.encode(
            {"sub": user, "app": app, "exp": time.time() + 600}, SECRET, "HS256"
        )
        for app, users in (("shop", ("ann", "bob")), ("action:5", ("1", "2")))
        for user in users
    }
    return {
        "url": server.ws_url,
        "httpUrl": server.http_url,
        "app": "shop",
        "tokens": tokens,
    }


# --- what is generated --------------------------------------------------------


@pytest.mark.needs("tsc", "esbuild")
def test_the_types_and_the_bundle_are_made_of_the_sources(tmp_path: Path) -> None:
    """Otherwise: make sdk."""
    generated = generate(tmp_path)
    committed = [*SDK.glob("*/types/*"), SDK / MINIPROGRAM]
    assert sorted(path.relative_to(SDK) for path in committed) == generated
    for name in generated:
        assert (SDK / name).read_text("utf-8") == (tmp_path / name).read_text(
            "utf-8"
        ), name


def test_the_bundle_for_mini_programs_is_small() -> None:
    files = [path for path in (SDK / MINIPROGRAM).parent.rglob("*") if path.is_file()]
    assert 0 < sum(path.stat().st_size for path in files) <= MINIPROGRAM_BYTES


@pytest.mark.needs("node")
def test_the_bundle_for_mini_programs_runs_with_a_stub_of_wx() -> None:
    run_node(str(HERE / "wechat.test.mjs"))


@pytest.mark.needs("node")
def test_the_error_tables_are_those_of_the_python_client() -> None:
    module = (SDK / "js" / "errors.js").as_uri()
    script = f'console.log(JSON.stringify(await import("{module}")))'
    shown = json.loads(run([require("node"), "--input-type=module", "-e", script]))
    tables = {
        "CLOSE_CODES": CLOSE_CODES,
        "REPLY_CODES": REPLY_CODES,
        "PROBLEM_CODES": PROBLEM_CODES,
    }
    for name, table in tables.items():
        rows = [
            ErrorRow(int(code) if code.isdecimal() else code, *row)
            for code, row in shown[name].items()
        ]
        assert rows == list(table.values())


# --- what is packed -----------------------------------------------------------


@pytest.mark.needs("node", "npm")
@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_has_its_modules_with_types_and_nothing_else(package: str) -> None:
    folder = SDK / package
    (packed,) = json.loads(npm("pack", "--dry-run", "--json", folder=folder))
    names = {file["path"] for file in packed["files"]}
    modules = {path.stem for path in folder.glob("*.js")}
    expected = {f"{name}.js" for name in modules} | {
        f"types/{name}.d.ts" for name in modules
    }
    extra = {"miniprogram_dist/index.js"} if package == "js" else set()
    assert names == expected | extra | {"package.json", "README.md", "LICENSE"}
    described = json.loads((folder / "package.json").read_text("utf-8"))
    assert described["version"] == __version__
    for target in described["exports"].values():
        for file in target.values() if isinstance(target, dict) else [target]:
            assert (folder / file).is_file()
    assert (folder / "LICENSE").read_text("utf-8") == (
        SDK.parent / "LICENSE"
    ).read_text("utf-8")


def test_the_lock_file_names_no_place_and_pins_everything_by_hash() -> None:
    packages = json.loads((SDK / "package-lock.json").read_text("utf-8"))["packages"]
    fetched = {
        name: row
        for name, row in packages.items()
        if name.startswith("node_modules/") and "link" not in row
    }
    assert len(fetched) > 10
    assert all("integrity" in row and "resolved" not in row for row in fetched.values())


@pytest.mark.needs("node", "npm", "tsc")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("consumer.ts", {"lib": ["es2022", "dom"], "types": []}),
        (
            "consumer.wechat.ts",
            {"lib": ["es2018"], "types": ["miniprogram-api-typings"]},
        ),
    ],
)
def test_a_strict_typescript_program_can_use_the_packages(
    project: Path, name: str, options: dict[str, Any]
) -> None:
    (project / name).write_text((HERE / name).read_text("utf-8"), encoding="utf-8")
    options = {
        **options,
        "strict": True,
        "noEmit": True,
        "module": "nodenext",
        "target": "es2022",
    }
    config = {"compilerOptions": options, "files": [name]}
    (project / "tsconfig.json").write_text(json.dumps(config), encoding="utf-8")
    run([require("tsc"), "-p", str(project)])


@pytest.mark.needs("node", "npm", "tsc")
def test_the_example_for_phones_uses_the_packages_as_their_types_say(
    project: Path,
) -> None:
    example = SDK.parent / "examples" / "react-native"
    (project / "App.tsx").write_text(
        (example / "App.tsx").read_text("utf-8"), encoding="utf-8"
    )
    options = {
        "lib": ["es2022", "dom"],
        "types": [],
        "strict": True,
        "noEmit": True,
        "jsx": "react-jsx",
    }
    options |= {"module": "preserve", "moduleResolution": "bundler", "target": "es2022"}
    files = ["App.tsx", str(HERE / "react_native" / "expo.d.ts")]
    config = project / "tsconfig.example.json"
    config.write_text(
        json.dumps({"compilerOptions": options, "files": files}), encoding="utf-8"
    )
    run([require("tsc"), "-p", str(config)])
    described = json.loads((example / "package.json").read_text("utf-8"))[
        "dependencies"
    ]
    for name in PACKAGES:
        package = json.loads((SDK / name / "package.json").read_text("utf-8"))["name"]
        assert described[package] == f"file:{package}-{__version__}.tgz"


@pytest.mark.needs("node", "npm", "esbuild")
@pytest.mark.parametrize(
    ("line", "most"),
    [
        ('export { ImClient } from "imserver-client";', BUNDLE_BYTES),
        ('export * from "imserver-client";', MESSENGER_BUNDLE_BYTES),
        (
            'export * from "imserver-react-native"; export * from "imserver-react-native/chat";',
            PHONE_BUNDLE_BYTES,
        ),
    ],
)
def test_a_browser_bundle_is_small(
    project: Path, tmp_path: Path, line: str, most: int
) -> None:
    entry = project / "entry.js"
    entry.write_text(line, encoding="utf-8")
    flags = (
        "--minify",
        "--platform=browser",
        "--external:react",
        "--external:react-native",
    )
    content = bundle(entry, tmp_path / "bundle.js", *flags)
    assert b"serviceToken" in content
    assert len(gzip.compress(content)) <= most


# --- every engine -------------------------------------------------------------

WEBSOCKET = 'import { WebSocket } from "ws";'
"""Node.js 20 has none."""


@pytest.mark.needs("node", "npm")
@pytest.mark.parametrize(
    ("engine", "arguments", "script"),
    [
        pytest.param(name, arguments, script, marks=pytest.mark.needs(name))
        for name, arguments, script in (
            ("node", NODE_FLAGS, ""),
            ("node20", NODE_FLAGS, ""),
            ("node20", (), WEBSOCKET),
            (
                "deno",
                (
                    "run",
                    "--quiet",
                    "--no-config",
                    "--allow-all",
                    "--node-modules-dir=manual",
                ),
                "",
            ),
            ("bun", ("run",), ""),
        )
    ],
)
def test_the_package_works_in(
    engine: str,
    arguments: tuple[str, ...],
    script: str,
    project: Path,
    start_server: StartServer,
) -> None:
    program = require(engine)
    assert engine != "node20" or run([program, "--version"]).startswith("v20.")
    options = server_options(start_server(config=CONFIG))
    (project / "smoke.mjs").write_text(
        (HERE / "smoke.mjs").read_text("utf-8"), encoding="utf-8"
    )
    text = f"""
        import {{ smoke }} from "./smoke.mjs";
        {script}
        console.log(await smoke({{ ...{json.dumps(options)}, {"WebSocket" if script else ""} }}));
        {"Deno" if engine == "deno" else "process"}.exit(0);
    """
    (project / "main.mjs").write_text(text, encoding="utf-8")
    assert run([program, *arguments, "main.mjs"], project).strip() == "all is well"
