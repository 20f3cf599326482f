"""What the documents say in tables and prose is what the code has: codes,
settings, routes, links."""

import json
import re
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, get_args

import pytest
import yaml

from imserver.dialects.action.wire import ACTIONS, PUSHED
from imserver.dialects.centrifuge import codes
from imserver.dialects.centrifuge.api import METHODS
from imserver.dialects.centrifuge.wire import CentrifugeDialect
from imserver.dialects.client.api import ROUTES as CLIENT_ROUTES
from imserver.dialects.client.wire import NOTICES
from imserver.dialects.protobuf import wire as protobuf
from imserver.dialects.protobuf.service import HOLD_SECONDS, PAGE, PAGE_SECONDS
from imserver.dialects.protobuf.uplink import MAX_WAITING, MAX_WAITING_BYTES
from imserver.dialects.pusher import wire as pusher
from imserver.dialects.pusher.api import ROUTES as OF_PUSHER
from imserver.dialects.pusher.declared import PusherSettings
from imserver.gateway import assets, errors
from imserver.gateway.config.values import fold
from imserver.gateway.dialects.cmd.wire import COMMANDS
from imserver.gateway.http.openapi import problems_of
from imserver.gateway.model import Limit
from imserver.gateway.node.feature_list import FEATURES
from imserver.gateway.transport.states import CONNECTION_TRANSITIONS, ConnectionEvent
from imserver.messenger.delivery.acks import ACK_TRANSITIONS, AckEvent
from imserver.messenger.delivery.catch_up import RECOVERED
from imserver.pages.reference import chinese
from imserver.pages.text import TEXT
from tests.docs.markdown import PAGES, anchors, links, prose, table_with, tables
from tests.gateway.api.v1.test_openapi import DOCUMENT, described, texts_of
from tests.rows import DECLARED, DOCUMENTED, METRICS, PROBLEMS, RATES, READERS, ROUTES
from tests.support import ROOT
from tools.house import STREET

DOCS = ROOT / "docs"
ARCHITECTURE = DOCS / "architecture.md"
PROTOCOL = DOCS / "reference" / "protocol.md"
HTTP = DOCS / "reference" / "http.md"
PUSHER = DOCS / "reference" / "pusher-dialect.md"
CLOSE_CODES = DOCS / "reference" / "close-codes.md"
CENTRIFUGE = DOCS / "reference" / "centrifuge-dialect.md"
CLIENT, ACTION, PROTOBUF = (
    DOCS / "reference" / f"{name}-dialect.md"
    for name in ("client", "action", "protobuf")
)
LOGINS = DOCS / "logins.md"
OPERATIONS = DOCS / "operations.md"
DEFAULTS = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))
SECTIONS = "|".join(DEFAULTS)
YES = {True: "yes", False: "no"}
FOR_PROGRAMS = """
    already_online answer_too_large app_configured app_exists bad_request checksum_mismatch
    emoji_exists too_many_emoji unknown_emoji
    export_unfinished unknown_export
    headers_too_large host_refused http_version id_reused method_not_allowed node_full not_accepted
    not_an_upgrade not_waiting not_found not_implemented offset_mismatch origin_refused range_not_satisfiable
    signature_invalid timeout too_many_apps too_many_drafts too_many_pins too_many_streams too_many_targets
    to_be_erased tus_version unknown_act unknown_app unknown_audience
    unknown_connection unknown_encoding unknown_key unknown_report upload_locked uri_too_long version_required
"""
"""Problems that a program must solve, or that the page solves itself: a person
sees their code."""


STATES: tuple[tuple[Path, Any, Any], ...] = (
    (ARCHITECTURE, CONNECTION_TRANSITIONS, ConnectionEvent),
    (DOCS / "houses" / "messenger.md", ACK_TRANSITIONS, AckEvent),
)
CLOSE_HEADS = "code | name | reconnect | meaning | what operators do"
TABLES: dict[str, tuple[Path, str, str, Any]] = {
    "close codes": (
        CLOSE_CODES,
        CLOSE_HEADS,
        "0123",
        [
            (row.code, row.name, YES[row.reconnect], row.meaning)
            for row in errors.CLOSE.values()
        ],
    ),
    "reply codes": (PROTOCOL, "code | text | here", "01", [*errors.REPLY_TEXT.items()]),
    "problems": (
        HTTP,
        "status | code | temporary | message",
        "0123",
        [
            (row.status, row.code, YES[row.temporary], row.message)
            for row in PROBLEMS.values()
        ],
    ),
    "metrics": (
        DOCS / "reference" / "metrics.md",
        "metric | kind | meaning",
        "012",
        [
            (
                f"{row.name} by {' and '.join(row.label.split())}".removesuffix(" by "),
                row.kind,
                row.help,
            )
            for row in METRICS
        ],
    ),
    "features": (
        OPERATIONS,
        "feature | what a node has with it | needs",
        "02",
        [
            (row.name, ", ".join(row.uses))
            for row in (import_module(each).FEATURE for each in FEATURES)
        ],
    ),
    "errors of Centrifugo": (
        CENTRIFUGE,
        "error | message | temporary",
        "012",
        sorted(
            {
                (error.code, error.message, YES[error.temporary])
                for error in codes.ERRORS.values()
            }
        ),
    ),
    "close codes of Centrifugo": (
        CENTRIFUGE,
        "own code | sent | reason",
        "012",
        {
            (*codes, CentrifugeDialect.close_reasons[codes[0]])
            for codes in CentrifugeDialect.close_codes.items()
        },
    ),
    "routes of Pusher": (
        PUSHER,
        "route | answer",
        "0",
        {(f"{row.method} {row.path}",) for row in OF_PUSHER},
    ),
    "codes of Pusher": (
        PUSHER,
        "code | reason",
        "0",
        {
            (each,)
            for each in (
                *pusher.CLOSE_CODES.values(),
                pusher.CODE_BAD_FRAME,
                pusher.CODE_CLIENT_EVENT,
            )
        },
    ),
    "routes of the client dialect": (
        CLIENT,
        "path | fields (required in bold) | data | scope",
        "03",
        {(row.path, row.need.scope) for row in CLIENT_ROUTES},
    ),
    "notices of the client dialect": (
        CLIENT,
        "code | msg | when",
        "01",
        [*NOTICES.values()],
    ),
    "actions": (ACTION, "action | data | ", "0", [(each,) for each in ACTIONS]),
    "pushes of the action dialect": (
        ACTION,
        "action | when | who gets it | content | msgId",
        "0",
        {(each,) for each in PUSHED.values()},
    ),
    "frames of the protobuf dialect": (
        PROTOBUF,
        "CmdType | name | data | ",
        "01",
        [(number, name) for number, (name, _) in protobuf.COMMANDS.items()],
    ),
}
"""What a table lists → its page, headings, the columns that are compared, and
what the code has."""


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_that_of_the_code(name: str) -> None:
    page, heads, columns, wanted = TABLES[name]
    rows = [[*row.values()] for row in table_with(page, *heads.split(" | "))]
    found = [tuple(plain(row[int(column)]) for column in columns) for row in rows]
    wanted = type(wanted)(tuple(plain(str(cell)) for cell in row) for row in wanted)
    assert (found if isinstance(wanted, list) else set(found)) == wanted
    assert heads != CLOSE_HEADS or all(row[4] for row in rows), (
        "operators can do something"
    )


def plain(cell: str) -> str:
    """A cell without the names of what differs in a path, and without a label
    that there is not."""
    return re.sub(r"\{\w+\}", "*", cell.removesuffix(" (new)").removesuffix(" by "))


@pytest.mark.parametrize(("page", "table", "events"), STATES)
def test_a_table_of_states_is_that_of_the_code(
    page: Path, table: Any, events: Any
) -> None:
    rows = table_with(page, "state", *(event.name for event in events))
    assert {(row.pop("state").partition(":")[0], *row.values()) for row in rows} == {
        (state.name, *(row[event].name if event in row else "" for event in events))
        for state, row in table.items()
    }


def test_the_protobuf_dialect_is_that_of_the_code() -> None:
    rows = table_with(PROTOBUF, "CmdType", "request", "answer")
    named = [re.fullmatch(r"(\d+) \[?(\w+).*", row["CmdType"]) for row in rows]
    commands = [
        (n, name)
        for n, (name, _) in protobuf.FULL_COMMANDS.items()
        if n > protobuf.CT_SYNC
    ]
    assert [(int(each[1]), each[2]) for each in named if each] == [
        *commands,
        (protobuf.CT_SIGNAL, "signal"),
    ]
    text = " ".join(PROTOBUF.read_text(encoding="utf-8").split())
    extended = text.partition("## Extended clients")[2]
    for number, name in [*enumerate(protobuf.KINDS), *enumerate(protobuf.SIGNALS, 1)]:
        assert re.search(rf"\b{number} {name}\b", extended), name
    for number, name in enumerate(protobuf.MESSAGE_TYPES, 1):
        assert f"{number} {name}" in text
    limits = (
        f"at most {RECOVERED} entries",
        f"{Limit.HIDDEN:,}",
        f"(at most {Limit.PAGE})",
    )
    seconds = (
        f"for {HOLD_SECONDS} s after its login",
        f"for {PAGE_SECONDS:g} s after a page",
    )
    assert [words for words in limits if words not in extended] == []
    assert [
        words for words in (f"at most {PAGE} messages", *seconds) if words not in text
    ] == []
    assert (MAX_WAITING, MAX_WAITING_BYTES) == (1000, 1 << 20), (
        "a thousand messages, and a megabyte"
    )


def test_the_reasons_of_refused_logins_are_those_of_the_code() -> None:
    at_connections = table_with(
        LOGINS, "why", "reason", "cmd, action", "client, Centrifugo", "event streams"
    )
    with_passwords = table_with(LOGINS, "why", "reason", "/api/v1", "GoChat")
    listed = {row["reason"].strip("`") for row in (*at_connections, *with_passwords)}
    assert listed == set(get_args(errors.LoginRefusal))


def test_the_rates_are_those_of_the_code() -> None:
    rows = table_with(
        CLOSE_CODES, "counted", "for each", "limit", "default", "above it"
    )
    listed = {
        (row["counted"], row["for each"], row["limit"]): row["above it"] for row in rows
    }
    assert listed.keys() == {(rate.counted, rate.payer, rate.limit) for rate in RATES}
    for rate in RATES:
        assert listed[rate.counted, rate.payer, rate.limit].startswith(rate.above), (
            rate.name
        )
    assert len({rate.name for rate in RATES}) == len(RATES), "Redis has them by name"


def test_the_messages_page_names_every_problem_that_a_person_can_meet() -> None:
    named = {
        key.removeprefix("messages_fault_")
        for key in TEXT["zh"]
        if key.startswith("messages_fault_")
    }
    unnamed = {code for code in PROBLEMS if not code.endswith("_unavailable")} - named
    assert unnamed == set(FOR_PROGRAMS.split())


def test_the_routes_are_those_of_the_code() -> None:
    rows = table_with(HTTP, "request", "parameters", "scope", "data")

    def scope(need: Any) -> str:
        return ", ".join(
            [need.scope] * bool(need.scope) + sorted(need.users & {"page", "session"})
        )

    others = ("/api/", "/apps/", "/emulation/", "/hooks/", "/oauth/", "/up/")
    routes = [row for row in ROUTES if not f"{row.path}/".startswith(others)]
    listed = {(row["request"], row["scope"]) for row in rows}
    assert listed == {(f"{row.method} {row.path}", scope(row.need)) for row in routes}


def test_the_methods_for_back_ends_of_centrifugo_are_those_of_the_code() -> None:
    rows = table_with(CENTRIFUGE, "method", "scope", "notes")
    listed = {
        name: row["scope"]
        for row in rows
        for name in re.findall("[a-z_]+", row["method"])
    }
    assert listed == {name: method.need.scope for name, method in METHODS.items()} | {
        "batch": "any"
    }


def test_the_options_of_pushers_protocol_are_those_of_the_code() -> None:
    rows = table_with(PUSHER, "option", "default", "meaning")
    listed = [
        name
        for row in rows
        for name in re.findall(r"\w+", row["option"].replace(" or ", ","))
    ]
    assert listed == list(PusherSettings.__struct_fields__)
    for row in rows:
        if row["default"]:
            assert row["default"] == json.dumps(
                getattr(PusherSettings(), row["option"])
            )


def test_every_command_of_the_dialect_has_a_chapter() -> None:
    assert f"`{errors.REPLY_TEXT_UNKNOWN}`" in prose(PROTOCOL)
    names = {name.lower() for name in (*COMMANDS, *READERS["cmd"])}
    assert sorted(names - anchors(PROTOCOL)) == [], (
        "give each command a chapter in docs/reference/protocol.md"
    )


def test_every_metric_that_is_named_exists() -> None:
    packages = {
        f"imserver_{name}"
        for name in ("client", "clock", "greetings", "lines", "moods", "notes")
    }
    packages |= {
        path.parent.name for path in ROOT.glob("plugins/*/imserver_*/__init__.py")
    }
    known = {metric.name for metric in METRICS} | packages
    for page in PAGES:
        for name in re.findall(r"\bimserver_[a-z_]*[a-z]", prose(page)):
            assert re.sub("_(bucket|sum|count)$", "", name) in known, (
                f"{page.name}: {name}"
            )


def test_the_street_names_every_house_and_what_stands_beside() -> None:
    houses = table_with(ARCHITECTURE, "house", "stands on", "what it promises", "rooms")
    named = {
        found: row for row in houses for found in re.findall(r"(\w+)/\]", row["house"])
    }
    below = {
        name: row["stands on"].removeprefix("the gateway")
        for name, row in named.items()
    }
    assert below == {name: ", ".join(STREET.get(name, ())) for name in named}
    assert named.keys() == {
        path.parent.name for path in ROOT.glob("imserver/*/__init__.py")
    }
    beside = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {
        "imserver",
        "tests",
    } | {"plugins"}
    listed = {row["folder"] for row in table_with(ARCHITECTURE, "folder", "what for")}
    assert listed == {f"{name}/" for name in beside}


OF_SETS = (
    "gateway/api/v1",
    "gateway/cluster/",
    "gateway/storage/migrations",
    "messenger/messages/",
)
"""Folders that their house's page describes as a whole."""
USUAL = {
    "api",
    "commands",
    "declared",
    "metrics",
    "parts",
    "rows",
    "service",
    "steps",
    "wire",
}
"""Modules that the architecture explains once, for all dialects and
features."""
ROOMS = sorted(
    {
        path.parent.relative_to(ROOT / "imserver")
        for path in ROOT.glob("imserver/*/**/[!_]*.py")
    }
)


@pytest.mark.parametrize(
    "room", [room for room in ROOMS if not room.as_posix().startswith(OF_SETS)], ids=str
)
def test_the_page_of_a_house_names_every_module(room: Path) -> None:
    house = room.parts[0]
    page = (DOCS / "houses" / f"{house}.md").read_text(encoding="utf-8")
    assert len(page.splitlines()) <= 150
    own = room.relative_to(house).as_posix() if room.parts[1:] else house
    row = "".join(re.findall(rf"^\| `{own}/` \|.*", page, re.MULTILINE))
    if not room.parts[1:]:
        row += re.sub(
            r"\.py`",
            "`",
            "".join(re.findall(r"^\| `\w+\.py`.*? \|", page, re.MULTILINE)),
        )
    modules = {path.stem for path in (ROOT / "imserver" / room).glob("[!_]*.py")}
    if house != "gateway" or "dialects" in room.parts:
        modules -= USUAL
    assert [name for name in sorted(modules) if f"`{name}`" not in row] == []
    inside = {path.stem for path in (ROOT / "imserver" / house).rglob("*")} | {
        "websockets",
        "settings_file",
    }
    assert set(re.findall(r"`([a-z_]+)`", row)) <= inside


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_module_that_is_named_exists(page: Path) -> None:
    """Words of the form `folder/…` are modules, folders, or operations of
    /api/v1."""
    if page.parent.name in ("decisions", "recipes"):
        return  # what there was when they were made; what their examples make
    houses = {path.parent.name for path in ROOT.glob("imserver/*/__init__.py")}
    rooms = {path.name for path in (ROOT / "imserver" / "gateway").glob("[!_]*/")}
    folders = "|".join(houses | rooms | {"messages"})
    operations = {row.path.removeprefix("/api/v1/") for row in ROUTES}
    named = re.findall(
        rf"`((?:bench|checker|examples|imserver|plugins|static|tests)/[\w/.-]+|(?:{folders})/[\w/]*(?:\.py)?)`",
        prose(page),
    )
    for path in set(named) - operations:
        bases = (
            ROOT,
            ROOT / "imserver",
            *(ROOT / "imserver" / house for house in houses),
        )
        found = [
            base / f"{path.rstrip('/')}{end}" for base in bases for end in ("", ".py")
        ]
        assert any(each.exists() for each in found), f"{page.name}: {path}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_of_a_module_exists(page: Path) -> None:
    """Also in examples. Files and loggers have such names, too."""
    others = ("audit", "db", "key", "pub", "request", "yaml")
    names = re.findall(
        r"(?<![\w/.@-])imserver(?:_client)?(?:\.\w+)+", page.read_text(encoding="utf-8")
    )
    if page.parent.name != "decisions":
        for name in {each for each in names if each.split(".")[1] not in others}:
            resolve_name(name)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    if page.parent.name == "recipes":
        return  # their examples make settings
    for section, key in re.findall(rf"`({SECTIONS})\.(\w+)`", prose(page)):
        assert key in DEFAULTS[section] or key in ("jsonl", "py", "yaml"), (
            f"{page.name}: {section}.{key}"
        )
    known = {folded.replace(".", "") for folded in DECLARED.by_folded} | {
        "config",
        "key",
    }
    for name in re.findall(r"\bIMSERVER_([A-Z_]+)\b", page.read_text(encoding="utf-8")):
        assert fold(name) in known, f"{page.name}: IMSERVER_{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_default_that_is_named_is_the_default(page: Path) -> None:
    for rows in tables(page):
        if rows and {"setting", "default"} <= set(rows[0]):
            for row in rows:
                named = re.findall(r"(\w+)\.(\w+)", row["setting"])
                values = [value.split(" ")[0] for value in row["default"].split(", ")]
                assert [
                    show(DEFAULTS[section][key]) for section, key in named
                ] == values, row


def show(value: Any) -> str:
    return (
        {True: "true", False: "false"}.get(value, str(value))
        if isinstance(value, bool)
        else str(value)
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_relative_to(ROOT), (
            f"{page.name}: {link} leads out of the project"
        )
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_every_page_is_reached_from_the_readme() -> None:
    reached = {ROOT / "README.md"}
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert set(PAGES) <= reached


def test_the_settings_that_a_signal_reads_again_are_marked_in_the_manual() -> None:
    """The list in the operations page is the marks (reload) in
    config/default.yaml."""
    marked = set()
    section = ""
    waiting = False
    for line in assets.DEFAULT_CONFIG.read_text(encoding="utf-8").splitlines():
        if found := re.match(r"(\w+):", line):
            section = found[1]
        elif "# (reload)" in line and section:
            waiting = True
        elif waiting and (found := re.match(r"  (\w+):", line)):
            marked.add(f"{section}.{found[1]}")
            waiting = False
    text = prose(OPERATIONS)
    listed = re.search(r"SIGHUP reads again: ([^.]*(?:\.\w[^.]*)*)\.\s", text)
    assert listed, "the page does not say what SIGHUP reads again"
    assert set(re.findall(r"`(\w+\.\w+)`", listed[1])) == marked


def test_every_text_is_there_in_chinese_and_none_too_many() -> None:
    received = texts_of(DOCUMENT)
    problems = {problem.message for row in DOCUMENTED for problem in problems_of(row)}
    joined = {
        answer["description"]
        for row in DOCUMENTED
        for answer in described(row)["responses"].values()
    }
    phrases = {
        part for text in received - joined | problems for part in text.split("\n\n")
    }
    untranslated = sorted(phrases - set(chinese()))
    assert untranslated == [], "translate these in templates/reference.zh.json"
    unused = sorted(set(chinese()) - phrases)
    assert unused == [], "remove these from templates/reference.zh.json"
