"""The wheels of server and client: built from this tree and installed
elsewhere, they have all they need."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions, requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import imserver_client
from imserver import __version__
from imserver.gateway.config.load import load_with_locations
from imserver.pages import assets
from imserver.plugin.testing import START_SECONDS
from imserver.version import full_version
from imserver_client import Api
from tools.house import copy_tree

from .processes import ended_on_failure, spawn
from .support import ROOT, Server, clean_environment, eventually

# What goes into a build; copied, so that building leaves nothing in the tree.
SOURCES = (
    "imserver",
    "imserver_client",
    "config",
    "templates",
    "static",
    "sdk",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
IGNORED = shutil.ignore_patterns("__pycache__", "node_modules")
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
SDIST = BUILD.replace("build_wheel", "build_sdist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("wheel") / "tree"
    copy_sources(ROOT, tree)
    return build(tree)


@pytest.fixture(scope="module")
def client_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("client") / "tree"
    shutil.copytree(
        ROOT / "imserver_client",
        tree,
        ignore=shutil.ignore_patterns("__pycache__", "build"),
    )
    return build(tree)


def copy_sources(source: Path, tree: Path) -> None:
    """Copy what the server is built from into a new folder."""
    tree.mkdir(parents=True)
    for name in SOURCES:
        if (source / name).is_dir():
            shutil.copytree(source / name, tree / name, ignore=IGNORED)
        else:
            shutil.copy(source / name, tree / name)


def build(tree: Path, program: str = BUILD) -> Path:
    """Build the wheel of a source tree, or with SDIST its source distribution,
    beside it."""
    command = [sys.executable, "-c", program, str(tree.parent)]
    done = subprocess.run(
        command, cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return tree.parent / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def installed(
    wheel: Path, client_wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The bin folder of an environment with both wheels; it borrows the
    dependencies of this one."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        home / "bin" / "python",
        "install",
        "-q",
        "--no-deps",
    ]
    command = [*pip, "--no-index", wheel, client_wheel]
    subprocess.run(command, env=clean_environment(PYTHONPATH=""), check=True)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(
        sysconfig.get_path("purelib"), encoding="utf-8"
    )
    return home / "bin"


@pytest.mark.needs("git")
def test_what_is_built_from_a_checkout_that_is_no_release_names_the_commit(
    wheel: Path, tmp_path: Path
) -> None:
    """So does what is built from its source distribution."""
    tree = tmp_path / "tree"
    shutil.copytree(
        wheel.parent / "tree",
        tree,
        ignore=shutil.ignore_patterns("build", "*.egg-info"),
    )
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (
        ["init", "-q"],
        ["add", "-f", "."],
        ["commit", "-q", "-m", "One"],
    ):
        subprocess.run([*git, *arguments], cwd=tree, check=True)
    version = full_version(tree)
    assert version.startswith(f"{__version__}.dev0+g")
    source = build(tree, SDIST)
    assert source.name == f"imserver-{version}.tar.gz"
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (unpacked,) = (tmp_path / "source").iterdir()
    for built in (build(tree), build(unpacked)):
        assert built.name == f"imserver-{version}-py3-none-any.whl"
        with zipfile.ZipFile(built) as archive:
            assert (
                f'__version__ = "{version}"'
                in archive.read("imserver/__init__.py").decode()
            )


def run(command: Path, *arguments: str, folder: Path) -> str:
    environment = clean_environment(PYTHONPATH="")
    words = [command, *arguments]
    done = subprocess.run(
        words,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_package_its_files_and_nothing_else(wheel: Path) -> None:
    """All that is below these folders, also what moved: none of their folders
    is named where it is built."""
    tree = wheel.parent / "tree"
    folders = {"imserver": "imserver"}
    folders |= {
        name: f"imserver/packaged/{name}"
        for name in ("templates", "static", "config", "sdk/js")
    }
    expected = {
        f"{inside}/{path.relative_to(tree / folder).as_posix()}"
        for folder, inside in folders.items()
        for path in (tree / folder).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    meta = f"imserver-{__version__}.dist-info/"
    names = {
        name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(meta)
    }
    assert names == expected
    assert {"imserver/packaged/static/favicon.svg", "imserver/py.typed"} <= names


def test_the_client_is_a_package_of_its_own(
    client_wheel: Path, installed: Path, tmp_path: Path
) -> None:
    names = zipfile.ZipFile(client_wheel).namelist()
    files = {
        f"imserver_client/{path.name}"
        for path in (ROOT / "imserver_client").glob("*.py")
    }
    assert {name for name in names if "dist-info" not in name} == {
        *files,
        "imserver_client/py.typed",
    }
    code = "import sys, imserver_client as c; print(c.__file__, c.__version__, end=' ')"
    code += "; print(sys.modules.keys() & {'imserver', 'click', 'psycopg'})"
    location, version, others = run(
        installed / "python", "-c", code, folder=tmp_path
    ).split()
    assert location.startswith(str(installed.parent))
    assert (version, others) == (__version__, "set()")
    assert "outbox  Push the rows" in run(
        installed / "imserver-client", "--help", folder=tmp_path
    )


def test_the_client_is_an_extra_of_the_server_and_needs_nothing_else() -> None:
    server, client = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))[
            "project"
        ]
        for folder in (".", "imserver_client")
    )
    extras = server["optional-dependencies"]
    assert extras.keys() == {"client", "tracing"}
    assert extras["client"] == [f"imserver-client>={imserver_client.__version__}"]
    assert {
        *client["dependencies"],
        *client["optional-dependencies"]["commands"],
    } < set(server["dependencies"])


@pytest.mark.full("programs")
def test_the_installed_server_serves_its_pages_from_any_folder(
    installed: Path, tmp_path: Path
) -> None:
    server = Server(
        tmp_path / "elsewhere",
        command=(str(installed / "imserver"),),
        environment={"PYTHONPATH": ""},
    )
    try:
        status, page = server.get("/home/index")
        assert status == 200
        assert b"<html" in page
        for file in [path for path in assets.STATIC.rglob("*") if path.is_file()][:5]:
            status, content = server.get(
                f"/static/{file.relative_to(assets.STATIC).as_posix()}"
            )
            assert (status, content) == (200, file.read_bytes())
    finally:
        server.stop()
    server.check()


def test_a_house_that_moves_out_is_a_plug_in(tmp_path: Path) -> None:
    """The pages, built from their folder alone, on a server without houses,
    which has templates and files."""
    server = tmp_path / "server"
    house = tmp_path / "house" / "moved_pages"
    installed = tmp_path / "installed"
    shutil.copytree(ROOT / "imserver" / "pages", house, ignore=IGNORED)
    for module in house.rglob("*.py"):
        module.write_text(
            module.read_text("utf-8").replace("imserver.pages", house.name), "utf-8"
        )
    (house.parent / "pyproject.toml").write_text(
        '[project]\nname = "moved-pages"\nversion = "1"\n'
        '[project.entry-points."imserver.features"]\npages = "moved_pages:FEATURE"\n'
    )
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        installed,
    ]
    subprocess.run(
        [*pip, build(house.parent)], env=clean_environment(PYTHONPATH=""), check=True
    )
    copy_tree("gateway", server)
    assert not (server / "imserver" / "pages").exists()
    environment = {"PYTHONPATH": f"{server}:{installed}"}
    node = Server(
        tmp_path / "node", config={"features": ["pages"]}, environment=environment
    )
    try:
        for path in (
            "/home/index",
            "/home/messages",
            "/api/v1/docs",
            "/static/favicon.svg",
        ):
            assert node.get(path)[0] == 200, path
        assert b"<html" in node.get("/home/index")[1]
    finally:
        node.stop()
    node.check()


@pytest.mark.full("programs")
def test_the_load_tool_is_a_package_of_its_own(installed: Path, tmp_path: Path) -> None:
    command = [installed / "imserver", "bench", "idle"]
    environment = clean_environment(PYTHONPATH="")
    without = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert without.returncode == 1
    assert "imserver: the load tool is not installed." in without.stderr
    assert "Traceback" not in without.stderr
    tree = tmp_path / "bench"
    shutil.copytree(
        ROOT / "bench", tree, ignore=shutil.ignore_patterns("__pycache__", "build")
    )
    names = zipfile.ZipFile(build(tree)).namelist()
    files = {f"bench/{path.name}" for path in (ROOT / "bench").glob("*.py")}
    assert {name for name in names if "dist-info" not in name} == files
    assert f"imserver_bench-{__version__}.dist-info/METADATA" in names


def test_the_lock_files_name_no_place_and_pin_everything_by_hash() -> None:
    for name in ("requirements.lock", "requirements-dev.lock"):
        lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
        assert not [
            line for line in lines if "://" in line or line.startswith(("-", "--"))
        ]
        pins = [line for line in lines if "==" in line]
        assert len(pins) > 10
        assert all(line.endswith("\\") for line in pins)


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_the_lock_files_have_what_python_3_11_0_needs(name: str) -> None:
    """A package may need another one with an older Python only than the one
    that made the lock."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    locked = {
        canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line
    }
    oldest = {"python_version": "3.11", "python_full_version": "3.11.0", "extra": ""}
    for package in locked & {canonicalize_name(each.name) for each in distributions()}:
        for each in map(Requirement, requires(package) or ()):
            needed = each.marker is None or each.marker.evaluate(oldest)
            assert not needed or canonicalize_name(each.name) in locked, (
                f"{package}: {each}"
            )


@pytest.mark.full("programs")
@pytest.mark.parametrize("kind", ["wheel", "sdist", "tree", "client"])
def test_pip_installs_what_a_stranger_needs(
    kind: str, wheel: Path, client_wheel: Path, tmp_path: Path
) -> None:
    """``pip install imserver``, ``imserver serve`` in an empty folder,
    ``imserver init``, and a push.

    Our own packages come from an index of the built files, or from the source
    tree (``pip install .``); all others are borrowed from this environment.
    """
    index = tmp_path / "index"
    index.mkdir()
    if kind == "client":
        shutil.copy(client_wheel, index)
    if kind in ("wheel", "client"):
        shutil.copy(wheel, index)
    if kind == "sdist":
        command = [sys.executable, "-c", SDIST, str(index)]
        subprocess.run(
            command, cwd=wheel.parent / "tree", capture_output=True, check=True
        )
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(
        sysconfig.get_path("purelib"), encoding="utf-8"
    )
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(home / "bin" / "python"),
        "install",
        "-q",
    ]
    what = {"tree": str(wheel.parent / "tree"), "client": "imserver[client]"}.get(
        kind, "imserver"
    )
    subprocess.run(
        [*pip, "--no-index", "--no-build-isolation", "--find-links", str(index), what],
        env=clean_environment(PYTHONPATH=""),
        check=True,
    )
    installed = {path.name for path in packages.glob("*.dist-info")}
    ours = {"imserver", *(["imserver_client"] if kind == "client" else [])}
    assert installed == {f"{name}-{__version__}.dist-info" for name in ours}
    imserver = home / "bin" / "imserver"
    folder = tmp_path / "empty"
    folder.mkdir()
    with serving(imserver, folder) as url:
        assert (folder / "data").is_dir()
        assert push(url)["results"][0]["status"] == "absent"
    run(imserver, "init", folder=folder)
    key, _ = load_with_locations(str(folder / "imserver.yaml"), {})[0].api.keys
    with serving(imserver, folder) as url:
        assert push(url, key.key, store=True)["results"][0]["status"] == "stored"


@contextmanager
def serving(imserver: Path, folder: Path) -> Iterator[str]:
    """A time in which ``imserver serve`` runs in a folder; the address of its
    HTTP server."""
    output = folder / "output.txt"
    with output.open("wb") as opened:
        process = spawn(
            [str(imserver), "serve", "--http-port", "0", "--ws-port", "0"],
            stdout=opened,
            stderr=subprocess.STDOUT,
            env=clean_environment(PYTHONPATH=""),
            cwd=folder,
        )
    with ended_on_failure(process):
        yield eventually(
            lambda: next(
                iter(re.findall(r"http +(http://\S+)\n", output.read_text())), ""
            ),
            START_SECONDS,
            f"the banner, {output}",
        )
    process.terminate()
    assert process.wait(100) == 0


def push(url: str, key: str = "", **fields: Any) -> Any:
    """Push to ann in the app ``default``; the answer."""
    with Api(url, key) as api:
        return api.call(
            "POST", "push", {"app": "default", "user": "ann", "text": "hello", **fields}
        )
