"""`imserver doctor`: each check sees what is wrong, says what it means and how
to mend it."""

import os
import re
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imserver.gateway.config.settings import (
    AppSettings,
    BackEndSettings,
    ClusterSettings,
    Config,
    JwtSettings,
    LimitSettings,
    ListenSettings,
    RedisSettings,
    ServerSettings,
    StorageSettings,
    TenantSettings,
    WebhookSettings,
)
from imserver.gateway.node.feature_list import load_config
from imserver.gateway.process import DataDirectory
from imserver.gateway.storage.store import Store
from imserver.messenger.log.contract import Draft
from imserver.messenger.log.message_log import MessageLog
from imserver.offline import doctor
from imserver.offline.database import damage_of
from imserver.offline.upgrade import lack_of
from imserver.people.oauth.declared import OAuthOfApp, ProviderSettings
from imserver.version import running_version
from tests.gateway.storage.test_faults import (
    FRAME,
    HEAD,
    begin,
    commits_in,
    damage_page,
    flip,
    kill,
    log_of,
)
from tests.integration.receiver import Receiver
from tests.integration.test_webhooks import certificate_of_loopback
from tests.ports import free_ports
from tests.processes import end, spawn
from tests.rows import sections
from tests.support import clean_environment, run_cli


def by_name(config: Config) -> dict[str, Any]:
    return {finding.name: finding for finding in doctor.findings(config)}


def config(folder: Path, **sections: Any) -> Config:
    base = Config(
        app=AppSettings(http_port=0, websocket_port=0),
        server=ServerSettings(data_dir=str(folder)),
    )
    return msgspec.structs.replace(base, **sections)


def clustered(
    folder: Path, rpc_port: int, http_port: int = 0, **sections: Any
) -> Config:
    """A node of a cluster, whose Redis is away."""
    return config(
        folder,
        app=AppSettings(http_port=http_port, websocket_port=0, rpc_port=rpc_port),
        redis=RedisSettings(url="redis://127.0.0.1:1/0"),
        cluster=ClusterSettings(bind="127.0.0.3", advertise="192.0.2.1"),
        **sections,
    )


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The settings of a kernel, which a test fills."""
    settings = {"net.ipv4.ip_local_port_range": "1024\t65535"}
    monkeypatch.setattr(doctor, "kernel", lambda name: settings.get(name, ""))
    return settings


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others may take their time, on a busy machine."""
    for name in ("CLOCK_SECONDS", "PROBE_SECONDS"):
        monkeypatch.setattr(doctor, name, 60)


def test_all_checks_run_and_a_new_folder_is_fine(tmp_path: Path) -> None:
    found = by_name(config(tmp_path))
    assert {"open files", "disk space", "disk fsync", "database"} <= found.keys()
    assert found["database"].level == "ok"
    assert "created at first use" in found["database"].found
    assert not any("the check failed" in finding.found for finding in found.values())
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ok_has_a_meaning_and_a_cure(
    tmp_path: Path, kernel: dict[str, str]
) -> None:
    small = {
        "fs.file-max": "100",
        "net.core.somaxconn": "128",
        "net.ipv4.tcp_max_syn_backlog": "128",
    }
    small |= {"net.ipv4.tcp_mem": "1\t2\t99999999999"}
    kernel |= small
    limited = config(
        tmp_path,
        limits=LimitSettings(max_connections=10**9),
        app=AppSettings(http_port=8080),
    )
    found = by_name(limited)
    for name in ("open files", "ip_local_port_range", *list(small)[:4]):
        assert found[name].level == "warn", name
        assert found[name].meaning, name
        assert found[name].mend, name
    assert found["net.core.somaxconn"].mend == "sysctl -w net.core.somaxconn=65535"
    assert "ip_local_reserved_ports=8080,8089" in found["ip_local_port_range"].mend
    kernel["net.ipv4.ip_local_reserved_ports"] = "8080-8089"
    assert (
        by_name(config(tmp_path, app=AppSettings()))["ip_local_port_range"].level
        == "ok"
    )


def test_more_processes_than_cores_are_named(tmp_path: Path) -> None:
    number = 2 * doctor.cores()
    server = ServerSettings(data_dir=str(tmp_path), processes=number)
    found = by_name(config(tmp_path, server=server))["processes"]
    assert (found.level, found.found) == (
        "warn",
        f"{number} on {number // 2} core{'s' * (number > 2)}",
    )
    assert "LimitNOFILE=" in found.mend
    auto = by_name(
        config(tmp_path, server=ServerSettings(data_dir=str(tmp_path), processes=0))
    )["processes"]
    assert auto.level == "ok"
    assert auto.found.startswith("1 (")


def test_a_unix_socket_needs_a_folder_that_the_server_may_write(tmp_path: Path) -> None:
    path = tmp_path / "im.sock"
    rows = (
        ListenSettings(socket=str(path)),
        ListenSettings(socket=str(tmp_path / "absent" / "im.sock")),
    )
    settings = config(
        tmp_path, server=ServerSettings(data_dir=str(tmp_path), extra_listen=rows)
    )
    found = by_name(settings)
    assert found["server.extra_listen[0]"].level == "ok"
    assert "so the server does not start" in found["server.extra_listen[1]"].meaning
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        assert (
            "another process listens there"
            in by_name(settings)["server.extra_listen[0]"].found
        )


def test_the_ports_of_all_listeners_are_checked(tmp_path: Path) -> None:
    first = free_ports(4)
    server = ServerSettings(
        data_dir=str(tmp_path),
        processes=2,
        extra_listen=(ListenSettings(0, "127.0.0.2"), ListenSettings(0)),
    )
    settings = clustered(tmp_path, rpc_port=first, server=server)
    name = f"app.rpc_port {first} to {first + 3}"
    with socket.create_server(("127.0.0.1", first + 3)):
        found = by_name(settings)
        assert found[name].level == "ok"
        assert found.keys() >= {"server.extra_listen[0] 0", "server.extra_listen[1] 0"}
    with socket.create_server(("127.0.0.3", first + 3)):
        taken = by_name(settings)[name]
    assert taken.level == "warn"
    assert "in use" in taken.found
    assert str(first + 3) in taken.mend
    assert f"127.0.0.3:{first + 3}" in taken.meaning


@pytest.mark.usefixtures("kernel")
def test_ports_that_do_not_exist_are_named_and_hide_nothing(tmp_path: Path) -> None:
    two = ServerSettings(data_dir=str(tmp_path), processes=2)
    findings = by_name(clustered(tmp_path, rpc_port=65_534, server=two))
    found = findings["app.rpc_port 65534 to 65537"]
    assert (found.level, found.found) == ("fail", "there is no port above 65535")
    assert found.mend == "set app.rpc_port to 65532 or less"
    assert "ports" not in findings
    assert findings["ip_local_port_range"].mend.endswith(",65534,65535")


def test_a_node_that_needs_one_port_twice_is_named(tmp_path: Path) -> None:
    first = free_ports(2)
    found = by_name(clustered(tmp_path, rpc_port=first, http_port=first + 1))["ports"]
    assert found.level == "fail"
    assert found.found.endswith(f"and app.http_port is {first + 1}")


def test_every_host_of_the_settings_is_looked_up(tmp_path: Path) -> None:
    app = TenantSettings(
        jwt=(
            JwtSettings(issuer="https://one.invalid"),
            JwtSettings(issuer="https://two.invalid"),
        ),
        back_ends=BackEndSettings(publish="https://four.invalid/publish"),
        webhook=WebhookSettings(url="https://six.invalid/im", secret="x" * 32),
        of_features=(
            OAuthOfApp(
                {"work": ProviderSettings("oidc", "id", issuer="https://three.invalid")}
            ),
        ),
    )
    found = by_name(
        config(
            tmp_path,
            apps={"shop": app},
            of_features=sections(smtp={"host": "five.invalid"}),
        )
    )
    unknown = {name: finding for name, finding in found.items() if ".invalid" in name}
    assert {finding.level for finding in unknown.values()} == {"fail"}
    assert {name: finding.meaning for name, finding in unknown.items()} == {
        "DNS one.invalid": "apps.shop.jwt[0] names it",
        "DNS two.invalid": "apps.shop.jwt[1] names it",
        "DNS three.invalid": "apps.shop.oauth.work.issuer names it",
        "DNS four.invalid": "apps.shop.back_ends.publish names it",
        "DNS five.invalid": "smtp.host names it",
        "DNS six.invalid": "apps.shop.webhook.url names it",
    }


def test_a_data_folder_that_this_user_cannot_make_or_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    folder = tmp_path / "lib" / "im"
    found = by_name(config(folder))["data folder"]
    assert (found.level, found.found) == ("fail", f"{folder} does not exist")
    assert found.mend == f"install -d -m 700 -o {os.geteuid()} {folder}"
    folder.mkdir(parents=True)
    found = by_name(config(folder))["data folder"]
    assert found.found == f"{folder} is not writable by this user"
    assert found.mend == f"chown -R {os.geteuid()} {folder}"


@pytest.mark.parametrize("below", ["", "im"])
def test_a_data_folder_that_is_a_file(tmp_path: Path, below: str) -> None:
    file = tmp_path / "im.db"
    file.touch()
    found = by_name(config(file / below))
    assert "disk fsync" not in found
    assert (found["data folder"].level, found["data folder"].found) == (
        "fail",
        f"{file} is not a folder",
    )
    assert found["data folder"].mend == "set server.data_dir to another folder"
    (tmp_path / "restoring").touch()
    assert by_name(config(tmp_path))["restore"].level == "fail"


def test_a_full_disk_has_a_meaning_and_a_cure(tmp_path: Path) -> None:
    """A process may write no byte to a file, and so to none of its own."""
    file = tmp_path / "im.yaml"
    file.write_text(f"server: {{data_dir: {tmp_path}}}\n")
    limit = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (0, 0));"
    code = (
        f"{limit} from imserver.cli import main; main(['doctor', '-c', {str(file)!r}])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert (
        f"fail  disk fsync: {tmp_path} does not accept a file: File too large\n"
        in done.stdout
    )
    assert "      to mend: df " in done.stdout


@pytest.mark.usefixtures("patient")
def test_redis_is_measured(tmp_path: Path, redis_url: str) -> None:
    found = by_name(config(tmp_path, redis=RedisSettings(url=redis_url)))
    assert found["Redis version"].level == "ok"
    assert "ms" in found["Redis round trip"].found
    assert found["clock and Redis"].level == "ok"


def test_a_database_that_is_there_is_measured_and_one_that_is_not_fails(
    tmp_path: Path,
) -> None:
    result = run_cli("app", "create", "shop", "--data-dir", str(tmp_path))
    assert result.returncode == 0, result.stderr
    found = by_name(config(tmp_path))
    assert found["database"].found.startswith("sqlite")
    assert "ms" in found["database round trip"].found
    away = {
        "storage": StorageSettings(url="postgresql://ann:secret@127.0.0.1:1/im"),
        "redis": RedisSettings(url="redis://:secret@127.0.0.1:1/0"),
    }
    gone = by_name(config(tmp_path, **away))
    for name in ("database", "Redis"):
        assert gone[name].level == "fail"
        assert "secret" not in gone[name].found + gone[name].mend


def test_a_database_that_had_lost_entries_is_named_for_a_month(tmp_path: Path) -> None:
    store = Store(StorageSettings(), str(tmp_path), threaded=False)
    assert "lost entries" not in by_name(config(tmp_path))
    writer = store.part(MessageLog).writer
    writer.append("shop", [Draft(sender="ann", to_user="bob", body=b"x", time_ms=1)])
    assert "lost entries" not in by_name(config(tmp_path))
    writer.learn("shop", 7)
    writer.check("shop")
    found = by_name(config(tmp_path))["lost entries"]
    assert (found.level, found.found.endswith(": shop")) == ("warn", True)
    store.write(lambda sql: sql.execute("UPDATE log SET lost = '2:9:1700000000'"))
    assert "lost entries" not in by_name(config(tmp_path))
    store.close()


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("trusted", [True, False])
def test_certificates_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    certificate, key = certificate_of_loopback(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with Receiver(context) as server:
        public = AppSettings(http_port=0, websocket_port=0, http_url=server.url)
        found = by_name(config(tmp_path, app=public))["certificate of 127.0.0.1"]
    # It expires within the hour.
    assert found.level == ("warn" if trusted else "fail")
    assert ("0 more days" if trusted else "verify failed") in found.found


def test_its_own_running_server_is_no_stranger_on_its_ports(tmp_path: Path) -> None:
    file = tmp_path / "im.yaml"
    key = "a key of an operator who sees all"
    ports = free_ports(2)
    file.write_text(
        f"app: {{http_port: {ports}, websocket_port: {ports + 1}}}\n"
        f"server: {{data_dir: {tmp_path}/data, host: 127.0.0.1}}\n"
        f"api: {{keys: [{{key: '{key}', scopes: [admin]}}]}}\n"
    )
    server = spawn(
        [sys.executable, "-m", "imserver", "serve", "-c", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
    )
    try:
        assert server.stdout is not None
        next(line for line in server.stdout if f":{ports + 1}" in line)
        done = run_cli("doctor", "-c", str(file))
        settings = load_config(str(file))
        assert lack_of(settings, running_version()) == "", (
            "it is what imserver upgrade has restarted"
        )
        assert lack_of(settings, "9.9.9").endswith(" and not 9.9.9")
    finally:
        end(server)
    for name in ("http_port", "websocket_port"):
        assert re.search(
            rf"^ok    app\.{name} \d+: the server of this data folder listens",
            done.stdout,
            re.M,
        )
    running = f"ok    server: imserver {running_version()} runs (pid {server.pid}) and is ready"
    assert running in done.stdout.splitlines()


def test_the_command_prints_and_fails_where_a_check_fails(tmp_path: Path) -> None:
    file = tmp_path / "im.yaml"
    redis = "redis: {url: 'redis://127.0.0.1:1/0'}\n"
    file.write_text(f"server: {{data_dir: {tmp_path}}}\n{redis}features: [accounts]\n")
    done = run_cli("doctor", "-c", str(file), "--webhook", "shop")
    assert done.returncode == 1, done.stderr
    assert "fail  Redis: redis://127.0.0.1:1/0 does not answer" in done.stdout
    assert "      to mend: redis-cli" in done.stdout
    assert "webhook: the setting features does not name this feature" in done.stdout


def test_a_second_secret_is_named_until_it_is_removed(tmp_path: Path) -> None:
    file = str(tmp_path / "secret.old")
    changing = config(tmp_path)
    changing = msgspec.structs.replace(
        changing,
        server=msgspec.structs.replace(changing.server, second_secret_file=file),
    )
    assert by_name(changing)["second secret"].found == file
    assert "second secret" not in by_name(config(tmp_path))


def test_a_damaged_log_is_named(tmp_path: Path) -> None:
    database = kill(begin(tmp_path / "running"), tmp_path)
    *_, before, _last = commits_in(log_of(database).read_bytes())
    flip(log_of(database), HEAD + before * FRAME + 500)
    found = run_cli("doctor", "--data-dir", str(database.parent))
    assert (
        f"fail  write-ahead log: 2 commits in {log_of(database)} cannot be read"
        in found.stdout
    )


def test_a_damaged_page_is_named(tmp_path: Path) -> None:
    file = damage_page(tmp_path)
    assert damage_of(file, 10)
    found = run_cli("doctor", "--data-dir", str(tmp_path))
    assert found.returncode == 1
    assert f"fail  pages of SQLite: {file}: " in found.stdout


_NODE = """
import socket, sys
from imserver.gateway.process import DataDirectory
DataDirectory(sys.argv[1], shared=True).start()
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sys.stdin.read()
"""


@pytest.mark.linux
def test_each_node_of_a_folder_is_known_by_its_port(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as ours,
        spawn(
            [sys.executable, "-c", _NODE, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as node,
    ):
        assert node.stdin is not None
        port = int(node.stdout.readline())
        folder = DataDirectory(str(tmp_path), shared=True)
        ports = (port, ours.getsockname()[1])
        assert [doctor.server_at(str(tmp_path), each) for each in ports] == [
            node.pid,
            0,
        ]
        folder.start()
        assert [doctor.server_at(str(tmp_path), each) for each in ports] == [
            node.pid,
            os.getpid(),
        ]
        folder.stop()
        node.stdin.close()
