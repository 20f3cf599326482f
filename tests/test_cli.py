"""The command line: what it prints, and one clear line with a non-zero exit
status for each failure."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from threading import Thread
from typing import get_args, get_type_hints

import click
import pytest
import yaml
from click.testing import CliRunner, Result

from imserver import __version__
from imserver.cli import SETTING_OF_OPTION, main
from imserver.gateway import errors
from imserver.gateway.config.settings import ServerSettings
from imserver.gateway.config.values import CORE
from imserver.version import full_version
from tests.processes import running
from tests.rows import PROBLEMS

from .conftest import StartServer
from .support import clean_environment, eventually, run_cli


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def refused(*arguments: str, status: int = 1, **environment: str) -> str:
    """What a command says that has to fail; it must be one line without a
    traceback."""
    done = run_cli(*arguments, **environment)
    assert done.returncode == status, done
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line.removeprefix("imserver: ")


# --- commands that need no server ---------------------------------------------


@pytest.mark.needs("git")
def test_a_checkout_that_is_no_release_says_so(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        command = [
            "git",
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "-c",
            "core.abbrev=12",
            *arguments,
        ]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.strip()

    assert full_version(tmp_path) == __version__
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", ".")
    git("commit", "-q", "-m", "One")
    commit = git("rev-parse", "--short", "HEAD")
    assert full_version(tmp_path) == f"{__version__}.dev0+g{commit}"
    git("tag", f"v{__version__}")
    assert full_version(tmp_path) == __version__
    (tmp_path / "file").write_text("2")
    assert full_version(tmp_path) == f"{__version__}.dev0+v{__version__}.dirty"
    git("commit", "-q", "-a", "-m", "Two")
    commit = git("rev-parse", "--short", "HEAD")
    assert full_version(tmp_path) == f"{__version__}.dev0+v{__version__}.1.g{commit}"


@pytest.mark.parametrize("group", ["", "account", "app", "bench", "key", "token"])
def test_what_a_command_does_is_shown_in_whole_on_a_narrow_screen(group: str) -> None:
    output = (
        CliRunner().invoke(main, [*group.split(), "--help"], terminal_width=80).output
    )
    _, _, commands = output.partition("Commands:\n")
    assert commands
    assert "..." not in commands


@pytest.mark.parametrize(
    "arguments",
    [
        "-c {file} moderate reports shop",
        "moderate -c {file} reports shop",
        "moderate reports shop -c {file}",
        "-c{file} why",
        "status --config={file}",
        "--url http://127.0.0.1:1 -c /none status -c {file}",
        "erase shop/ann -c {file}",
    ],
)
def test_a_command_finds_the_server_of_its_settings_wherever_they_are_named(
    tmp_path: Path, arguments: str
) -> None:
    file = tmp_path / "im.yaml"
    file.write_text("app: {http_port: 1}", encoding="utf-8")
    line = refused(*arguments.format(file=file).split())
    assert line == "http://127.0.0.1:1 does not answer: Connection refused"


def test_a_command_refuses_an_option_for_a_server_that_it_does_not_ask() -> None:
    assert (
        "No such option" in run_cli("--url", "http://127.0.0.1:1", "app", "list").stderr
    )


def test_codes_prints_every_code_of_the_tables() -> None:
    lines = invoke("codes").output.splitlines()
    for row in errors.CLOSE.values():
        assert any(
            line.startswith(f"{row.code}  {row.name}") and row.meaning in line
            for line in lines
        )
    for code, text in errors.REPLY_TEXT.items():
        assert any(line.split() == [str(code), text] for line in lines)
    for problem in PROBLEMS.values():
        assert any(
            line.split()[:2] == [str(problem.status), problem.code] for line in lines
        )


def test_check_config_prints_the_settings_as_used(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("app: {httpPort: 5}", encoding="utf-8")
    done = run_cli("check-config", "--config", str(file), IMSERVER_LOG_FORMAT="json")
    got = yaml.safe_load(done.stdout)
    assert (
        got["app"]["http_port"],
        got["app"]["websocket_port"],
        got["log"]["format"],
    ) == (5, 8089, "json")


def test_check_config_warns_of_unknown_variables() -> None:
    done = run_cli("check-config", IMSERVER_PORT="1")
    assert done.returncode == 0
    assert (
        done.stderr
        == "warning: environment: IMSERVER_PORT is not a setting and has no effect\n"
    )


DATABASE = "is not a database address: "
STRANGERS = "is not a loopback address and no API key exists, so strangers could push: "


@pytest.mark.parametrize(
    ("settings", "output"),
    [
        (
            "app: {htpPort: 5}",
            "{file}, line 1: unknown key 'app.htpPort'; the nearest ",
        ),
        ("app: {log_file: x.log", "{file}"),
        (
            "app: {http_url: 'https://im.example.com/x y'}",
            "{file}, line 1: app.http_url: expected an address ",
        ),
        (
            "redis: {url: 'redis://10.0.0.9/abc'}",
            "redis.url: expected the number of a database, got 'abc'",
        ),
        (
            "storage: {url: 'postgres://u:secret@h:notaport/n'}",
            f"storage: postgresql+psycopg://u:(hidden)@h:notaport/n {DATABASE}",
        ),
        (
            "storage: {url: 'mysql://u:secret@h/n?sslmode=verify-full'}",
            f"storage: mysql+pymysql://u:(hidden)@h/n?sslmode=verify-full {DATABASE}unknown parameter",
        ),
        (
            "storage: {url: 'mysql://u:secret@h/n?ssl_ca=/ca.pem&ssl_verify_identity=true'}",
            "storage: mysql+pymysql://u:(hidden)@h/n?ssl_ca=/ca.pem&ssl_verify_identity=true "
            f"{DATABASE}set ssl_ca instead of ssl_verify_identity",
        ),
        (
            "server: {host: '::'}",
            f"server.host :: {STRANGERS}make one (imserver key create push), set api.",
        ),
        ("server: {host: 192.0.2.7}", f"server.host 192.0.2.7 {STRANGERS}"),
        *(
            (
                f"redis: {{url: 'redis://127.0.0.1:1/0'}}\ncluster: {settings}",
                f"cluster.{setting} is not a loop",
            )
            for settings, setting in (
                ("{advertise: 192.0.2.7}", "advertise 192.0.2.7"),
                ("{advertise: 127.0.0.1, bind: 192.0.2.7}", "bind 192.0.2.7"),
                ("{advertise: 127.0.0.1, bind: 0.0.0.0}", "bind 0.0.0.0"),
            )
        ),
    ],
)
def test_check_config_refuses_what_serve_refuses(
    tmp_path: Path, settings: str, output: str
) -> None:
    file = tmp_path / "my.yaml"
    file.write_text(settings, encoding="utf-8")
    is_late = settings.startswith("storage")  # to serve, which has begun to log
    for command in ("check-config",) if is_late else ("check-config", "serve"):
        assert refused(command, "--config", str(file)).startswith(
            output.format(file=file)
        )
    assert os.listdir(tmp_path) == ["my.yaml"], "and leaves no traces"


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["serve", "--http-port", "x"],
        ["serve", "--http", "back"],
        ["serve", "x"],
    ],
)
def test_wrong_usage_ends_with_status_2(arguments: list[str]) -> None:
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert "Usage:" in done.output


def paths_of(context: click.Context, *names: str) -> Iterator[list[str]]:
    """Each command with each path that it takes, for which ``{path}``
    stands."""
    command = context.command
    for name in (
        command.list_commands(context) if isinstance(command, click.Group) else ()
    ):
        each = command.get_command(context, name)
        if each is not None and name != "serve" and " " not in name:
            yield from paths_of(click.Context(each, context), *names, name)
    for path in () if isinstance(command, click.Group) else command.params:
        if isinstance(path.type, click.Path) or path.metavar in ("FILE", "DIR"):
            values = [
                "{path}"
                if each is path
                else "1"
                if each.type is click.INT
                else "gochat"
                for each in command.params
                if isinstance(each, click.Argument) and (each.required or each is path)
            ]
            yield [
                *names,
                *([path.opts[0], "{path}"] if isinstance(path, click.Option) else ()),
                *values,
            ]


def test_a_path_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "here").mkdir()
    settings = tmp_path / "im.yaml"
    settings.write_text(f"server: {{data_dir: {tmp_path}/data}}")
    tried = 0
    commands = [
        *paths_of(click.Context(main)),
        ["backup", "--everything", "{path}"],
        ["backup", "--check", "{path}"],
    ]
    # makes a database
    assert run_cli("key", "create", "push", "-c", str(settings)).returncode == 0
    for words in commands:
        for path in (tmp_path / "nowhere/x", tmp_path / "file/x", tmp_path):
            command = [word.format(path=path) for word in words]
            runner = CliRunner(env={"IMSERVER_CONFIG": str(settings)})
            with chdir(tmp_path / "here"):
                done = runner.invoke(main, command, input="")
            assert done.exception is None or isinstance(done.exception, SystemExit), (
                command
            )
            tried += done.exit_code != 0
    assert tried > len(commands), "most of them"


# --- servers that cannot start ------------------------------------------------


@pytest.mark.full("processes")
@pytest.mark.parametrize("name", ["http", "websocket"])
def test_a_taken_port_is_named_with_the_setting_to_change(
    tmp_path: Path, name: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ports = {"http": 0, "websocket": 0, name: listener.getsockname()[1]}
        environment = {
            f"IMSERVER_APP_{each.upper()}_PORT": str(port)
            for each, port in ports.items()
        }
        environment["IMSERVER_APP_LOG_FILE"] = str(tmp_path / "server.log")
        line = refused("serve", "--data-dir", str(tmp_path / "data"), **environment)
    taken = f"cannot listen on 127.0.0.1:{ports[name]}: Address already in use, by the process {os.getpid()}"
    assert line == f"{taken}. To use another port, set app.{name}_port"


@pytest.mark.full("processes")
@pytest.mark.parametrize(
    "options", [{"--insecure": None}, {}], ids=["insecure", "keys"]
)
def test_beyond_loopback_a_server_starts_with_insecure_or_keys(
    start_server: StartServer, options: dict[str, None]
) -> None:
    config = (
        {} if options else {"api": {"keys": [{"key": "k" * 20, "scopes": ["push"]}]}}
    )
    server = start_server("--host", "0.0.0.0", *options, config=config)
    assert ("demo mode" in server.output) == bool(options)
    assert (
        "so everybody who reaches these ports may do everything" in server.output
    ) == bool(options)


# --- a server that starts -----------------------------------------------------


WITHOUT_CLIENT = (
    "imserver: the Python client is not installed. Run `pip install 'imserver[client]'`, "
    "in a source tree `pip install ./imserver_client`.\n"
)
WITHOUT_COMMANDS = (
    "imserver-client: its commands are not installed. Run `pip install 'imserver-client[commands]'`, "
    "in a source tree `pip install './imserver_client[commands]'`.\n"
)


@pytest.mark.parametrize(
    ("missing", "program", "command", "message"),
    [
        ("imserver_client", "imserver.cli", "bot", WITHOUT_CLIENT),
        ("imserver_client", "imserver.cli", "outbox", WITHOUT_CLIENT),
        ("psycopg", "imserver_client.__main__", "bot", WITHOUT_COMMANDS),
    ],
)
def test_a_command_says_what_to_install(
    missing: str, program: str, command: str, message: str
) -> None:
    code = f"import sys; sys.modules['{missing}'] = None; from {program} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, command],
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", message)


def test_the_banner_names_version_addresses_data_and_demo_mode(
    start_server: StartServer,
) -> None:
    server = start_server()
    assert f"imserver {full_version()}, pid {server.pid}\n" in server.output
    assert f"{server.http_url}\n" in server.output
    assert f"{server.ws_url}\n" in server.output
    assert f"{server.folder / 'data'}\n" in server.output
    assert f"{server.log}\n" in server.output
    assert (
        "demo mode: no API key exists, so every local program may do everything"
        in server.output
    )


def test_a_start_on_the_console_says_nothing_twice(start_server: StartServer) -> None:
    server = start_server(
        config={
            "app": {"log_file": ""},
            "api": {"keys": [{"key": "a key of twenty letters", "scopes": ["push"]}]},
            "apps": {"7": {"open": True}, "8": {}},
        }
    )
    eventually(lambda: "started at " in server.output, what="the end of the start")
    lines = [
        re.sub(r"^\S+ +INFO +\S+: ", "", line).strip()
        for line in server.output.splitlines()
    ]
    assert any(line.startswith("app 7: OPEN") for line in lines)
    assert sorted(set(lines)) == sorted(lines)


def test_options_of_the_command_line_win(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(
        "--http", "wsgi", "--data-dir", str(tmp_path / "other"), http_server="front"
    )
    assert "wsgi" in server.output
    assert stat.S_IMODE((tmp_path / "other" / "secret").stat().st_mode) == 0o600


@pytest.mark.full("processes")
def test_status_says_that_it_wants_a_key_where_it_does(
    start_server: StartServer, tmp_path: Path
) -> None:
    key = "a-key-that-is-long-enough"
    server = start_server(config={"api": {"keys": [{"key": key, "scopes": ["admin"]}]}})
    done = run_cli("status", "--url", server.http_url)
    assert done.returncode == 1
    assert (
        done.stderr
        == "imserver: this server requires an API key with the scope admin: "
        "set IMSERVER_KEY, or use --key-file\n"
    )
    done = run_cli("status", "--url", server.http_url, IMSERVER_KEY=key)
    assert done.returncode == 0, done
    *first, rest = done.stdout.split("\n", 2)
    assert [each.split()[:2] for each in first] == [["health", "ok"], ["ready", "yes"]]
    assert json.loads(rest)["data"]["managerInfo"]["clientsLen"] == 0
    file = tmp_path / "key"
    file.write_text(f"{key}\n")
    assert (
        run_cli("status", "--url", server.http_url, "--key-file", str(file)).returncode
        == 0
    )
    assert (
        run_cli(
            "status", "--url", server.http_url, "--key-file", "-", stdin=key
        ).returncode
        == 0
    )
    assert "/none cannot be read" in refused("status", "--key-file", "/none")


def test_status_takes_no_key_among_its_arguments() -> None:
    assert (
        "No such option"
        in run_cli("status", "--key", "a key that others could see").stderr
    )


def test_status_shows_no_bytes_of_a_server_that_is_not_http() -> None:
    def answer() -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(b"J\x00\x00\x00\n5.5.5-\x1b[31mMariaDB\r\n\r\n")
            client.recv(1000)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=answer, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert (
            refused("status", "--url", url)
            == f"{url} does not answer: the answer is not HTTP"
        )


def test_the_options_of_serve_are_settings() -> None:
    options = {
        option.name: option
        for option in main.commands["serve"].params
        if option.name != "path"
    }
    assert options.keys() == SETTING_OF_OPTION.keys()
    assert set(SETTING_OF_OPTION.values()) <= CORE.rows.keys()
    choices = get_args(get_type_hints(ServerSettings)["http"])
    assert isinstance(options["http"].type, click.Choice)
    assert tuple(options["http"].type.choices) == choices


def test_the_manual_of_a_file_has_the_settings_of_its_features(tmp_path: Path) -> None:
    file = tmp_path / "my.yaml"
    file.write_text("features: [uploads]\n", encoding="utf-8")
    manual = yaml.safe_load(
        run_cli("check-config", "--defaults", "-c", str(file)).stdout
    )
    assert "uploads" in manual
    assert manual.keys().isdisjoint({"bots", "centrifuge"})
    assert "protobuf_silent_seconds" not in manual["websocket"]


def test_ctrl_c_ends_a_command_that_waits_without_a_trace() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-m", "imserver", "status", url]
        options = {"stderr": subprocess.PIPE, "text": True, "env": clean_environment()}
        with running(command, **options) as process, silent.accept()[0]:
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=60)[1].split() == ["Aborted!"]
