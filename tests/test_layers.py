"""The structure: imports run one way, third-party packages have one importer,
nothing patches on import."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from graphlib import TopologicalSorter
from importlib import import_module
from itertools import takewhile
from pathlib import Path

import pytest

from imserver import FEATURES
from imserver.gateway.node.feature_list import CORE
from tools.face import names_of
from tools.house import STREET, needed_by

from .support import ROOT, clean_environment

PACKAGE = ROOT / "imserver"
BENCH = ROOT / "bench"
CLIENT = ROOT / "imserver_client"

FOLDERS = tuple(
    package.removeprefix("imserver.").replace(".", "/") + "/" for package in FEATURES
)

BEHIND_THE_FACE = {
    "offline": "its commands open what a node would have opened: store, folder, ports"
}
"""House → why its features import more of the gateway than the face. What the
messenger needs is in ``privilege.txt``, name by name."""

# From the top down; a module may import from its own layer and from those
# below.
LAYERS = (
    ("__main__",),
    ("cli", "features", "wsgi"),
    ("offline",),
    tuple(
        package.removeprefix("imserver.")
        for package in FEATURES[1:]
        if package.split(".")[1] not in BEHIND_THE_FACE
    ),
    ("messenger.messages",),
    ("messenger.streams",),
    ("messenger.delivery",),
    ("messenger.channels", "messenger.search"),
    ("messenger.log",),
    ("plugin",),
    ("gateway.start",),
    ("gateway.supervisor",),
    ("gateway.offline",),
    ("gateway.node",),
    ("gateway.dialects",),
    ("gateway.terminal",),
    ("gateway.feature",),
    ("gateway.api",),
    ("gateway.http",),
    ("gateway.core",),
    ("gateway.push",),
    ("gateway.channels",),
    ("gateway.sessions",),
    ("gateway.auth",),
    ("gateway.hub", "gateway.cluster", "gateway.storage"),
    ("gateway.transport",),
    ("gateway.protocol",),
    ("gateway.logging", "gateway.process"),
    ("gateway.config",),
    ("gateway.metric_table", "gateway.model", "gateway.notify"),
    (
        "gateway.errors",
        "gateway.assets",
        "gateway.base64url",
        "gateway.command_rows",
        "gateway.clock",
        "gateway.timings",
        "gateway.threads",
        "version",
        "__init__",
    ),
)

MESSENGER = "messenger.messages"

PLUGIN_LAYERS = {
    "ai-chat": (("__init__",), ("requests", "wire")),
    "arrivals": (
        ("__init__",),
        ("command", "depart"),
        ("follow", "report", "wish"),
        # servers that run
        (
            "live_matrix",
            "live_mattermost",
            "live_slack",
            "mattermost_news",
            "mattermost_server",
            "slack_server",
        ),
        # what comes into an app, and leaves it
        ("destination", "departure"),
        ("importer",),
        ("past", "read_positions"),
        ("conversion",),
        ("survey", "uploads"),
        # formats
        ("formats",),
        (
            "matrix",
            "mattermost",
            "rocketchat",
            "slack",
            "zulip",
            "to_mattermost",
            "to_slack",
            "to_zulip",
        ),
        ("markdown", "matrix_events", "mongodump", "writing"),
        # what all of them need
        ("live", "markup", "people", "position", "source", "spool", "text"),
        ("records",),
        ("fields", "problems", "tables"),
    ),
    "durable-streams": (
        ("__init__",),
        ("service",),
        ("reading",),
        ("rows",),
        ("protocol",),
    ),
    "mailbox": (("__init__",), ("api",), ("service",), ("rows", "tools")),
    "mcp": (
        ("__init__",),
        ("service",),
        ("hooks", "permissions"),
        ("events", "tools"),
        ("resources",),
        ("offers", "tasks"),
        ("receipts", "turn"),
        ("declared", "protocol", "verify_receipt"),
    ),
    "mobile-push": (
        ("__init__",),
        ("apns", "fcm", "hms"),
        ("service",),
        ("http2", "settings"),
    ),
    "ntfy": (("__init__",), ("wire",), ("message",)),
}
"""Plug-in → its modules from the top down; a module may import from its own
layer and from those below."""

PRIVILEGE = Path(__file__).with_name("privilege.txt")

# The load tool and the client are packages of their own. The server imports
# neither: its command line names their commands, by strings.
BENCH_MAY_USE = (
    "imserver.version.full_version",
    "imserver.dialects.protobuf.chat_pb2",
)
"""The version, and what ``protoc`` makes of the published schema."""
CLIENT_COMMANDS = ("__main__.py", "bot.py", "outbox.py", "terminal.py")

IMPORTERS = {
    "geventwebsocket": ("gateway/transport/wsgi.py",),
    "yaml": ("gateway/config/yaml.py",),
    "flask": ("gateway/node/flask_app.py", "gateway/http/", *FOLDERS),
    "werkzeug": ("gateway/node/flask_app.py", "gateway/http/", *FOLDERS),
    "click": (
        "cli.py",
        "offline/",
        "gateway/offline.py",
        "plugin/commands.py",
        "plugin/progress.py",
        "gateway/terminal.py",
        *(f"{folder}command.py" for folder in FOLDERS),
        "dialects/centrifuge/migration.py",
    ),
    "pyotp": ("people/accounts/factors.py",),
    "qrcode": ("people/invitations/command.py",),
    "redis": (),
    "hiredis": ("gateway/cluster/",),
    "zerorpc": ("gateway/cluster/",),
    "httptools": ("gateway/transport/",),
    "websockets": ("gateway/transport/", "plugin/testing.py"),
    "sqlalchemy": (
        "gateway/storage/",
        "offline/",
        "people/accounts/rows.py",
        "media/uploads/upload_rows.py",
    ),
    "alembic": ("gateway/storage/",),
    "psycopg": ("gateway/storage/", "offline/copies/"),
    "pymysql": ("gateway/storage/", "offline/copies/"),
    "argon2": ("people/accounts/passwords.py",),
    "authlib": ("people/oauth/providers.py",),
    "joserfc": ("people/oauth/providers.py",),
    "jwt": ("gateway/auth/json_web_tokens.py",),
    "cryptography": (
        "gateway/auth/json_web_tokens.py",
        "notifications/webpush.py",
        "gateway/sessions/connection_ids.py",
    ),
    "http_ece": ("notifications/webpush.py",),
    "urllib3": ("gateway/transport/outgoing.py", "media/uploads/s3.py"),
    "google": ("dialects/centrifuge/", "dialects/protobuf/"),
    "PIL": ("media/uploads/pictures.py",),
    "gunicorn": (),
}

HEIGHT = {name: -number for number, names in enumerate(LAYERS) for name in names}

ROOMS = tuple(
    name.removeprefix("messenger.")
    for name in HEIGHT
    if name.startswith("messenger.") and f"imserver.{name}" not in FEATURES[1:]
)
"""The rooms of stored messages: folders of the messenger that are no features
on it."""


def modules() -> Iterator[Path]:
    yield from sorted(PACKAGE.rglob("*.py"))


def layer_of(module: Path) -> str:
    path = module.relative_to(PACKAGE)
    if path.parts == ("plugin", "messages.py"):
        return MESSENGER
    return longest(".".join(path.with_suffix("").parts).removesuffix(".__init__"))


def longest(name: str) -> str:
    """The row of LAYERS to which a name below ``imserver`` belongs."""
    while name and name not in HEIGHT:
        name = name.rpartition(".")[0]
    return name or "__init__"


@cache
def imported(module: Path) -> list[tuple[str, int]]:
    """Full names of what a module imports, wherever in it, with the line."""
    return list(imports(module))


def imports(module: Path) -> Iterator[tuple[str, int]]:
    """What a module imports: at its start, in functions, and for the type
    checker."""
    return names_in(module, ast.walk(ast.parse(module.read_text(encoding="utf-8"))))


def names_in(module: Path, nodes: Iterable[ast.AST]) -> Iterator[tuple[str, int]]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            is_absolute = node.level == 0 or PACKAGE not in module.parents
            assert is_absolute, f"{module}:{node.lineno}: imports are absolute"
            above = module.relative_to(ROOT).parts[: -node.level] if node.level else ()
            for alias in node.names:
                yield (
                    ".".join([*above, *filter(None, [node.module]), alias.name]),
                    node.lineno,
                )


def own_layer(name: str) -> str | None:
    """The layer of our own that a full name belongs to."""
    first, _, rest = name.partition(".")
    return longest(rest) if first == "imserver" else None


def test_imports_run_one_way() -> None:
    wrong = []
    for module in modules():
        layer = layer_of(module)
        assert layer in HEIGHT, f"{module.relative_to(ROOT)} stands in no layer"
        for name, line in imported(module):
            used = own_layer(name)
            other = name.partition(".")[0] in {"bench", "imserver_client"}
            if other or (used is not None and HEIGHT[used] > HEIGHT[layer]):
                wrong.append(f"{module.relative_to(ROOT)}:{line} imports {name}")
    assert wrong == []


@pytest.mark.parametrize("house", STREET)
def test_a_house_stands_on_others_as_the_street_says(house: str) -> None:
    """Names of the messenger that the face has are the messenger's."""
    used = {
        "messenger"
        if name.startswith("imserver.plugin.messages.")
        else name.split(".")[1]
        for module in (PACKAGE / house).rglob("*.py")
        for name, _ in imported(module)
        if name.startswith("imserver.")
    }
    others = (
        STREET.keys() | {"plugin"}
        if house == "gateway"
        else STREET.keys() - {"gateway"}
    )
    assert used & others - {house} == {*STREET[house]}


@pytest.mark.parametrize("house", STREET)
def test_the_tests_of_a_house_use_it_and_those_on_which_it_stands(house: str) -> None:
    """Also by what they import of ``tests/``. What several houses share imports
    others where it runs."""
    absent = "|".join(STREET.keys() - needed_by(house)) or "-"
    face = "|plugin.messages" if re.search("messenger", absent) else ""
    others = re.compile(rf"(imserver|tests)\.({absent}{face})(\.|$)")
    own = {*(ROOT / "tests" / house).rglob("*.py")}
    wrong = []
    found = set(own)
    left = [*own, ROOT / "tests" / "conftest.py"]
    while left:
        module = left.pop()
        tree = ast.parse(module.read_text(encoding="utf-8"))
        for name, line in names_in(
            module, ast.walk(tree) if module in own else tree.body
        ):
            if others.match(name):
                wrong.append(f"{module.relative_to(ROOT)}:{line} imports {name}")
            path = (
                ROOT.joinpath(*name.split(".")) if name.startswith("tests.") else ROOT
            )
            new = {each.with_suffix(".py") for each in (path, path.parent)} - found
            left += filter(Path.exists, new)
            found |= new
    assert wrong == []


def test_only_its_folder_and_those_that_use_it_name_a_feature() -> None:
    wrong = []
    folders = {package: ROOT.joinpath(*package.split(".")) for package in FEATURES}
    for package, folder in folders.items():
        name = package.rpartition(".")[2]
        own = {name, f"{name}?"}
        rows = (*FEATURES, *CORE)
        users = {
            ROOT.joinpath(*each.split("."))
            for each in rows
            if not own.isdisjoint(import_module(each).FEATURE.uses)
        }
        # The face has names of the messenger, and a deprecated one of the
        # accounts.
        users |= {PACKAGE / "plugin"} if name in ("messages", "accounts") else set()
        row = re.compile(rf"{re.escape(package)}\b|\b{name}_service\b")
        wrong += [
            f"{module.relative_to(ROOT)} names {package}"
            for module in modules()
            if {folder, *users}.isdisjoint(module.parents)
            and module != PACKAGE / "__init__.py"
            and row.search(module.read_text(encoding="utf-8"))
        ]
    assert wrong == []


def test_features_import_the_face_alone() -> None:
    """Plug-ins also what packages of features export."""
    faces = (
        "imserver.plugin.",
        "imserver.__version__",
        *(f"{package}." for package in FEATURES),
        *(f"imserver.messenger.{room}." for room in ROOMS),
    )
    exports = {
        f"{package}.{name}"
        for package in FEATURES
        for name in getattr(import_module(package), "__all__", ())
    }
    wrong = [
        f"{module.relative_to(ROOT)}:{line} imports {name}"
        for folder in (
            *(PACKAGE / each for each in FOLDERS[1:]),
            *(ROOT / "plugins").glob("*/imserver_*"),
        )
        for module in folder.rglob("*.py")
        if not any(module.is_relative_to(PACKAGE / house) for house in BEHIND_THE_FACE)
        for name, line in imported(module)
        if own_layer(name) is not None and name not in exports
        if not name.startswith(faces if PACKAGE in module.parents else faces[:2])
    ]
    assert wrong == []


def test_the_messenger_uses_exactly_the_names_of_its_privilege_beyond_the_face() -> (
    None
):
    """``privilege.txt`` has them in order. ``ratchet.txt`` has their number,
    which may only fall."""
    assert PRIVILEGE.read_text(encoding="utf-8").split() == names_of_the_privilege()


def names_of_the_privilege() -> list[str]:
    messenger = [
        module
        for room in ROOMS
        for module in (PACKAGE / "messenger" / room).rglob("*.py")
    ]
    names = {
        name.removeprefix("imserver.")
        for module in messenger
        for name, _ in imported(module)
        if not (own_layer(name) or "plugin").startswith(("messenger.", "plugin"))
        and name not in names_of_the_face()
    }
    return sorted(names)


def test_nobody_reaches_into_the_core_to_change_it() -> None:
    change = re.compile(
        r"\b(core|base)(\.\w+)+((\[\w+\])? \+?= |\.(append|insert|extend)\()"
    )
    folders = (*(PACKAGE / each for each in FOLDERS), ROOT / "plugins")
    modules = [
        module
        for folder in folders
        for module in folder.rglob("*.py")
        if "tests" not in module.parts
    ]
    assert [
        module
        for module in modules
        if change.search(module.read_text(encoding="utf-8"))
    ] == []


@cache
def names_of_the_face() -> frozenset[str]:
    """Full names, in the core, of what ``imserver.plugin`` exports."""
    names: set[str] = set()
    for module in (PACKAGE / "plugin").glob("*.py"):
        face = import_module(f"imserver.plugin.{module.stem}")
        exported = names_of(face)
        names |= {
            name for name, _ in imported(module) if name.rpartition(".")[2] in exported
        }
    return frozenset(names)


def test_no_imports_run_in_a_circle() -> None:
    names = {
        ".".join(module.relative_to(ROOT).with_suffix("").parts).removesuffix(
            ".__init__"
        ): module
        for folder in (PACKAGE, CLIENT, BENCH)
        for module in folder.rglob("*.py")
    }
    imports_of = {
        name: {
            found if found in names else found.rpartition(".")[0]
            for found, _ in imported(module)
        }
        - {name}
        for name, module in names.items()
    }
    TopologicalSorter(imports_of).prepare()  # raises CycleError


@pytest.mark.parametrize("plugin", sorted((ROOT / "plugins").glob("*/imserver_*")))
def test_imports_of_a_plug_in_run_one_way_and_in_no_circle(plugin: Path) -> None:
    height = {
        name: -number
        for number, names in enumerate(PLUGIN_LAYERS.get(plugin.parent.name, ()))
        for name in names
    }
    modules = {path.stem: path for path in plugin.glob("*.py")}
    assert modules.keys() == height.keys(), "name each module in PLUGIN_LAYERS"
    imports_of = {
        name: {module_in(plugin, full) for full, _ in imported(path)} & height.keys()
        for name, path in modules.items()
    }
    wrong = [
        f"{name} imports {other}"
        for name, others in imports_of.items()
        for other in others
        if height[other] > height[name]
    ]
    assert wrong == []
    TopologicalSorter(imports_of).prepare()  # raises CycleError


def module_in(plugin: Path, full: str) -> str:
    """The module of a plug-in that a full name belongs to; ``""``: none."""
    inside = full.partition(f"{plugin.name}.")[2]
    return inside.partition(".")[0]


def test_the_load_tool_uses_only_the_version_and_the_schema_of_the_server() -> None:
    wrong = [
        f"{module.relative_to(ROOT)}:{line} imports {name}"
        for module in sorted(BENCH.rglob("*.py"))
        for name, line in imported(module)
        if own_layer(name) not in {None, "__init__"} and name not in BENCH_MAY_USE
    ]
    assert wrong == []


def test_the_client_imports_only_itself_and_its_dependencies() -> None:
    """Only its commands import those of the extra ``commands``."""
    project = tomllib.loads((CLIENT / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    always, extra = (
        {re.split(r"[\[>]", name)[0] for name in names}
        for names in (
            project["dependencies"],
            project["optional-dependencies"]["commands"],
        )
    )
    always |= {"imserver_client", *sys.stdlib_module_names}
    wrong = [
        f"{module.relative_to(ROOT)}:{line} imports {name}"
        for module in sorted(CLIENT.rglob("*.py"))
        for name, line in imported(module)
        if name.partition(".")[0]
        not in (always | extra if module.name in CLIENT_COMMANDS else always)
    ]
    assert wrong == []


@pytest.mark.parametrize("package", IMPORTERS)
def test_a_third_party_package_has_its_own_importer(package: str) -> None:
    wrong = [
        f"{module.relative_to(ROOT)}:{line} imports {name}"
        for module in modules()
        for name, line in imported(module)
        if name.partition(".")[0] == package
        and not module.relative_to(PACKAGE)
        .as_posix()
        .startswith(IMPORTERS[package] or "-")
    ]
    assert wrong == []


def test_only_the_entry_of_the_process_patches() -> None:
    patching = [
        module.name
        for module in modules()
        if "patch_all" in module.read_text(encoding="utf-8")
    ]
    assert patching == ["__main__.py"]


def test_the_entry_patches_before_it_imports_anything_else() -> None:
    tree = ast.parse((PACKAGE / "__main__.py").read_text(encoding="utf-8"))
    statements = map(ast.unparse, tree.body)
    before = takewhile(
        lambda each: each != "monkey.patch_all(ssl=False, subprocess=False)", statements
    )
    assert [each for each in before if each.startswith(("import ", "from "))] == [
        "import sys",
        "from types import ModuleType",
        "from gevent import events, monkey",
    ]


@pytest.mark.parametrize(
    "first", ["ssl", "gevent.ssl", "urllib3", "subprocess", "gevent.subprocess"]
)
def test_what_is_loaded_late_is_cooperative_whoever_imports_it_first(
    first: str,
) -> None:
    code = (
        f"import imserver.__main__, {first}, ssl, gevent.ssl, subprocess, gevent.subprocess; "
        "assert (ssl.SSLContext, ssl.SSLSocket) == (gevent.ssl.SSLContext, gevent.ssl.SSLSocket); "
        "assert ssl.SSLContext is not gevent.ssl.orig_SSLContext; ssl.create_default_context(); "
        "assert subprocess.Popen is gevent.subprocess.Popen"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize(
    "name",
    [
        "imserver",
        "imserver.wsgi",
        "imserver.cli",
        "imserver.gateway.node.flask_app",
        "bench",
        "imserver_client",
    ],
)
def test_importing_patches_nothing(name: str) -> None:
    code = f"import {name}; from gevent import monkey; assert not monkey.saved, list(monkey.saved)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_node_loads_neither_the_load_tool_nor_what_only_a_cluster_needs() -> None:
    absent = [
        "redis",
        "zerorpc",
        "zmq",
        "msgpack",
        "gunicorn",
        "bench",
        "imserver.offline.app",
        "imserver.offline.copies",
        "imserver.offline.doctor",
        "imserver.gateway.storage.database",
        "sqlalchemy",
        "alembic",
        "psycopg",
        "pymysql",
        "jwt",
        "authlib",
        "joserfc",
        "cryptography",
        "argon2",
        "pyotp",
        "qrcode",
        "smtplib",
        "urllib3",
        "PIL",
        "google.protobuf",
        "imserver.dialects.protobuf.chat_pb2",
        "imserver.dialects.centrifuge.centrifuge_pb2",
    ]
    # what a node without Flask loads neither, nor the library that only it
    # needs
    beside = [
        "click",
        "yaml",
        "flask",
        "werkzeug",
        "ssl",
        "subprocess",
        "pickle",
        "zope.interface",
        "cffi",
        "asyncio",
        "email",
        "inspect",
        "dataclasses",
        "typing_extensions",
        "pprint",
        "websockets.frames",
        "shutil",
        "bz2",
        "lzma",
        "difflib",
        "calendar",
        "locale",
    ]
    code = (
        "import sys, imserver.__main__, imserver.gateway.start, imserver.gateway.node.serve; "
        "from imserver.gateway.node.feature_list import load_features; "
        "from imserver.gateway.config.settings import Config; "
        "load_features(Config()); "
        f"print([name for name in {absent + beside} if name in sys.modules]); "
        "import imserver.cli, imserver.wsgi; "
        f"print([name for name in {absent} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["[]", "[]"], done.stderr


@pytest.mark.parametrize(
    "features",
    [(), ("webhooks", "client", "action", "centrifuge", "pusher", "pages")],
    ids=["no feature", "those that may use it"],
)
def test_a_node_without_the_messenger_loads_nothing_of_it(
    features: tuple[str, ...],
) -> None:
    code = (
        "import sys, imserver.cli, imserver.gateway.node.serve, imserver.wsgi; "
        "from msgspec.structs import replace; "
        "from imserver.gateway.config.settings import Config; "
        "from imserver.gateway.node.feature_list import load_features, with_core; "
        f"with_core(load_features(replace(Config(), features={features}))); "
        "print([name for name in sys.modules if name.startswith(('imserver.messenger.', "
        "'imserver.plugin.messages'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr
