"""The manifest and worker of the messages page, how its files are sent, and
what its modules do in node."""

import gzip
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image

from imserver.gateway.config.settings import Config
from imserver.pages import blueprint, installable
from imserver.pages.assets import SDK, STATIC
from imserver.pages.text import TEXT
from tests.pages import page_sizes
from tests.pages.test_routes import client_of
from tests.sdk.node import run, run_node
from tests.tools import require
from tools import icons

KB = 1024


@pytest.fixture
def client() -> FlaskClient:
    return client_of(Config())


def shell_of(client: FlaskClient) -> dict[str, Any]:
    found = re.match(
        r"self\.SHELL = (\{.*?\});\n",
        client.get("/home/messages-worker.js").get_data(as_text=True),
    )
    assert found
    shell: dict[str, Any] = json.loads(found[1])
    return shell


@pytest.mark.parametrize(("language", "name"), [("en", "Messages"), ("zh", "消息")])
def test_the_manifest_names_page_and_icons_that_exist(
    client: FlaskClient, language: str, name: str
) -> None:
    page = client.get(f"/home/messages?lang={language}").text
    found = re.search(r'<link rel="manifest" href="([^"]+)"', page)
    assert found
    answer = client.get(found[1])
    assert answer.mimetype == "application/manifest+json"
    manifest = json.loads(answer.data)
    assert (manifest["short_name"], manifest["start_url"]) == (
        name,
        f"/home/messages?lang={language}",
    )
    assert client.get(manifest["start_url"]).status_code == 200
    assert {icon["purpose"] for icon in manifest["icons"]} == {"any", "maskable"}
    for icon in manifest["icons"]:
        with client.get(icon["src"]) as picture:
            assert picture.mimetype == icon["type"]
            if icon["sizes"] != "any":
                width, height = Image.open(io.BytesIO(picture.data)).size
                assert f"{width}x{height}" == icon["sizes"]


def test_the_worker_lists_every_file_of_the_page(client: FlaskClient) -> None:
    """So the page opens from its store: the list has what the page names, and
    what its modules import."""
    shell = shell_of(client)
    files = set(shell["files"])
    for address in files:
        with client.get(address) as answer:
            assert answer.status_code == 200, address
    page = client.get("/home/messages?lang=en").text
    named = set(re.findall(r'(?:href|src)="(/(?:static|sdk|release)/[^"]+)"', page))
    named -= {"/static/icons/touch-180.png"}
    assert named <= files, named - files
    assert {f"{shell['release']}{module}" for module in installable.modules()} <= files
    assert [
        client.get(f"{shell['page']}?lang={language}").status_code
        for language in shell["languages"]
    ]
    policy = client.get("/home/messages").headers["Content-Security-Policy"]
    assert "manifest-src 'self'" in policy
    assert "worker-src 'self'" in policy
    assert "unsafe" not in policy


def test_the_worker_changes_with_the_files(
    client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = shell_of(client)
    assert before == shell_of(client)
    monkeypatch.setitem(TEXT["en"], "messages_title", "Letters")
    texts = shell_of(client)
    monkeypatch.setattr(installable, "styles", lambda: ("chat.css",))
    monkeypatch.setattr(installable, "files", installable.files.__wrapped__)
    files = shell_of(client)
    assert len({shell["version"] for shell in (before, texts, files)}) == 3
    assert before["release"] == texts["release"] != files["release"]


def test_files_of_the_release_are_stored_for_good_and_those_of_another_are_not(
    client: FlaskClient,
) -> None:
    release = shell_of(client)["release"]
    for path in ("static/messages/app.js", "static/chat.css", "sdk/messenger.js"):
        with client.get(f"{release}{path}") as file, client.get(f"/{path}") as plain:
            assert (
                file.headers["Cache-Control"] == "public, max-age=31536000, immutable"
            )
            assert (file.data, plain.headers["Cache-Control"]) == (
                plain.data,
                "no-cache",
            )
        with client.get(f"/release/other/{path}") as other:
            assert (other.status_code, other.headers["Cache-Control"]) == (
                200,
                "no-cache",
            )
    with (
        client.get(f"{release}messages.css") as sheet,
        client.get("/release/other/messages.css") as other,
    ):
        assert sheet.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert (other.data, other.headers["Cache-Control"]) == (sheet.data, "no-cache")
    assert client.get(f"{release}static/none.js").status_code == 404
    assert client.get(f"{release}static/../../setup.py").status_code == 404


def test_the_icons_are_those_that_the_tool_draws() -> None:
    """Their pixels, because another release of zlib makes other bytes."""
    drawn = icons.draw(512, maskable=True)
    shipped = Image.open(STATIC / "icons" / "maskable-512.png").convert("RGBA")
    assert shipped.size == drawn.size
    for point in ((256, 256), (10, 10), (150, 240)):
        assert _close(shipped.getpixel(point), drawn.getpixel(point)), point


def _close(one: Any, other: Any) -> bool:
    return max(abs(a - b) for a, b in zip(one, other, strict=True)) < 24


def test_the_page_is_compressed_for_browsers_that_accept_it(
    client: FlaskClient,
) -> None:
    plain = client.get("/home/messages?lang=en")
    packed = client.get("/home/messages?lang=en", headers={"Accept-Encoding": "gzip"})
    assert (
        packed.headers["Vary"]
        == plain.headers["Vary"]
        == "Accept-Language, Accept-Encoding"
    )
    assert gzip.decompress(packed.data) == plain.data
    assert len(packed.data) < 0.5 * len(plain.data)


def test_files_are_compressed_for_browsers_that_accept_it(client: FlaskClient) -> None:
    with client.get("/static/chat.js") as plain:
        text = plain.data
        assert "Content-Encoding" not in plain.headers
        assert plain.headers["Vary"] == "Accept-Encoding"
    with client.get(
        "/static/chat.js", headers={"Accept-Encoding": "gzip, br"}
    ) as packed:
        assert packed.headers["Content-Encoding"] == "gzip"
        assert packed.headers["Vary"] == "Accept-Encoding"
        assert gzip.decompress(packed.data) == text
        assert int(packed.headers["Content-Length"]) == len(packed.data) < len(text)
        etag = packed.headers["ETag"]
    again = {"Accept-Encoding": "gzip", "If-None-Match": etag}
    with client.get("/static/chat.js", headers=again) as unchanged:
        assert (unchanged.status_code, unchanged.data) == (304, b"")
    with client.get(
        "/static/icons/app-192.png", headers={"Accept-Encoding": "gzip"}
    ) as picture:
        assert "Content-Encoding" not in picture.headers
    part = {"Accept-Encoding": "gzip", "Range": "bytes=0-9"}
    with client.get("/static/chat.js", headers=part) as first:
        assert (first.status_code, first.data) == (206, text[:10])


def test_a_file_is_compressed_once_whatever_way_to_it_is_asked_for(
    client: FlaskClient,
) -> None:
    def get(path: str) -> int:
        with client.get(path, headers={"Accept-Encoding": "gzip"}) as answer:
            return answer.status_code

    assert get("/static/chat.css") == 200
    known = dict(blueprint._compressed)
    for way in ("x", "y/z/..", "icons", "./w", "icons//.."):
        get(f"/static/{way}/../chat.css")
    assert get("/static/../../chat.css") == 404
    assert blueprint._compressed == known


@pytest.mark.needs("esbuild")
def test_modules_without_their_comments_are_the_same_programs(
    client: FlaskClient, tmp_path: Path
) -> None:
    release = shell_of(client)["release"]
    for number, address in enumerate(installable.modules()):
        path = f"{release}{address}"
        with (
            client.get(path) as whole,
            client.get(path, headers={"Accept-Encoding": "gzip"}) as short,
        ):
            sent = gzip.decompress(short.data)
            assert len(sent.splitlines()) == len(whole.data.splitlines())
            (tmp_path / f"{number}.whole.js").write_bytes(whole.data)
            (tmp_path / f"{number}.short.js").write_bytes(sent)
    files = [str(path) for path in tmp_path.iterdir()]
    out = tmp_path / "out"
    run(
        [
            require("esbuild"),
            "--minify-whitespace",
            "--legal-comments=none",
            f"--outdir={out}",
            *files,
        ]
    )
    for number, address in enumerate(installable.modules()):
        whole_file, short_file = (
            out / f"{number}.{kind}.js" for kind in ("whole", "short")
        )
        assert whole_file.read_text() == short_file.read_text(), address


def test_the_first_view_needs_few_modules() -> None:
    size = page_sizes.sizes()
    assert 0 < size.first <= 63 * KB
    assert size.next <= 33.25 * KB
    assert size.sdk <= 17 * KB
    assert size.style <= 14.75 * KB
    assert len(installable.start_modules()) <= 7
    assert len(installable.first_modules()) <= 30


def test_the_page_names_each_module_that_it_will_need_soon_once(
    client: FlaskClient,
) -> None:
    """So browsers load them at once, and not one after the other as they find
    the imports."""
    page = client.get("/home/messages").text
    link = r'<link rel="modulepreload" href="/release/\w+/([^"]+)"(?: fetchpriority="(\w+)")?>'
    at_once, *later = page.split("<template id=")
    first = installable.first_modules()
    start = installable.start_modules()
    login = installable.more_modules(installable.LOGIN)
    following = installable.more_modules(installable.NEXT)
    named = re.findall(link, at_once)
    assert [address for address, _ in named] == list(first)
    assert [address for address, priority in named if priority == "high"] == list(start)
    templates = {
        part.partition('"')[2].partition('"')[0]: re.findall(link, part)
        for part in later
    }
    assert templates["login-modules"] == [(address, "") for address in login]
    assert templates["next-modules"] == [(address, "low") for address in following]
    assert "static/messages/login/login.js" in login
    assert "static/messages/conversation/conversation.js" in following
    assert not set(first) & {*login, *following}
    assert {*first, *login, *following} < set(installable.modules())


HERE = Path(__file__).parent


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The files laid out as the server serves them: the modules of sdk/js are
    in /sdk/."""
    shutil.copytree(STATIC, tmp_path / "static")
    shutil.copytree(HERE.parents[1] / "imserver/media/emoji/page", tmp_path / "emoji")
    (tmp_path / "sdk").mkdir()
    for module in SDK.glob("*.js"):
        shutil.copy(module, tmp_path / "sdk")
    (tmp_path / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    return tmp_path


@pytest.mark.needs("tsc")
def test_the_scripts_of_the_pages_have_no_type_errors(site: Path) -> None:
    options = {
        **dict.fromkeys(("allowJs", "strict", "noEmit"), True),
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
    run_node(
        *(str(shutil.copy(test, site)) for test in HERE.glob("messages.*.test.mjs"))
    )


@pytest.mark.needs("qr")
def test_qr_codes() -> None:
    run_node(str(HERE / "qr.test.mjs"))
