"""`imserver doctor`: each check sees what is wrong, says what it means and how to mend it."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from imserver.commands import doctor
from imserver.config.settings import (
    AppSettings,
    Config,
    LimitSettings,
    RedisSettings,
    ServerSettings,
    StorageSettings,
    TenantSettings,
    WebhookSettings,
)
from tests.integration.test_webhooks import certificate_of_loopback
from tests.support import run_cli


def by_name(config: Config) -> dict[str, doctor.Finding]:
    return {finding.name: finding for finding in doctor.findings(config)}


def config(folder: Path, **sections: Any) -> Config:
    made = Config(app=AppSettings(http_port=0, websocket_port=0), server=ServerSettings(data_dir=str(folder)))
    return msgspec.structs.replace(made, **sections)


def test_all_checks_run_and_a_new_folder_is_fine(tmp_path: Path) -> None:
    found = by_name(config(tmp_path))
    assert {"open files", "disk space", "disk fsync", "database"} <= found.keys()
    assert found["database"].verdict == "ok"
    assert "created at first use" in found["database"].found
    assert not any("the check failed" in finding.found for finding in found.values())
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_ok_has_a_meaning_and_a_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"fs.file-max": "100", "net.core.somaxconn": "128", "net.ipv4.tcp_max_syn_backlog": "128"}
    small |= {"net.ipv4.tcp_mem": "1\t2\t99999999999", "net.ipv4.ip_local_port_range": "1024\t65535"}
    monkeypatch.setattr(doctor, "_kernel", lambda name: small.get(name, ""))
    limited = config(tmp_path, limits=LimitSettings(max_connections=10**9), app=AppSettings(http_port=8080))
    found = by_name(limited)
    for name in ("open files", "ip_local_port_range", *list(small)[:4]):
        assert found[name].verdict == "warn", name
        assert found[name].meaning, name
        assert found[name].mend, name
    assert found["net.core.somaxconn"].mend == "sysctl -w net.core.somaxconn=65535"
    assert "ip_local_reserved_ports=8080,8089" in found["ip_local_port_range"].mend


def test_more_processes_than_cores_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cores", lambda: 2)
    server = ServerSettings(data_dir=str(tmp_path), processes=16)
    found = by_name(config(tmp_path, server=server))["processes"]
    assert (found.verdict, found.found) == ("warn", "16 on 2 cores")
    assert "LimitNOFILE=" in found.mend
    auto = by_name(config(tmp_path, server=ServerSettings(data_dir=str(tmp_path), processes=0)))["processes"]
    assert auto.verdict == "ok"
    assert auto.found.startswith("1 (")


def test_reserved_ports_are_not_given_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = {"net.ipv4.ip_local_port_range": "1024\t65535", "net.ipv4.ip_local_reserved_ports": "8080-8089"}
    monkeypatch.setattr(doctor, "_kernel", lambda name: kernel.get(name, ""))
    assert by_name(config(tmp_path, app=AppSettings()))["ip_local_port_range"].verdict == "ok"


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        found = by_name(config(tmp_path, app=AppSettings(http_port=port)))[f"app.http_port {port}"]
    assert found.verdict == "warn"
    assert "in use" in found.found
    assert str(port) in found.mend


def test_an_unknown_host_is_named_with_its_setting(tmp_path: Path) -> None:
    app = TenantSettings(webhook=WebhookSettings(url="https://shop.invalid/im", secret="x" * 32))
    found = by_name(config(tmp_path, apps={"shop": app}))["DNS shop.invalid"]
    assert found.verdict == "fail"
    assert "apps.shop.webhook.url" in found.meaning


def test_redis_that_does_not_answer_fails(tmp_path: Path) -> None:
    found = by_name(config(tmp_path, redis=RedisSettings(url="redis://:secret@127.0.0.1:1/0")))["Redis"]
    assert found.verdict == "fail"
    assert "secret" not in found.found + found.mend


def test_redis_is_measured(tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CLOCK_SECONDS", 60)
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 60)
    found = by_name(config(tmp_path, redis=RedisSettings(url=redis_url)))
    assert found["Redis version"].verdict == "ok"
    assert "ms" in found["Redis round trip"].found
    assert found["clock and Redis"].verdict == "ok"


def test_a_database_that_is_there_is_measured_and_one_that_is_not_fails(tmp_path: Path) -> None:
    made = run_cli("app", "create", "shop", "--data-dir", str(tmp_path))
    assert made.returncode == 0, made.stderr
    found = by_name(config(tmp_path))
    assert found["database"].found.startswith("sqlite")
    assert "ms" in found["database round trip"].found
    away = StorageSettings(url="postgresql://ann:secret@127.0.0.1:1/im")
    gone = by_name(config(tmp_path, storage=away))["database"]
    assert gone.verdict == "fail"
    assert "secret" not in gone.found


@contextmanager
def tls_server(certificate: Path, key: Path) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                context.wrap_socket(listener.accept()[0], server_side=True).close()
            except OSError:
                return  # the client does not trust it

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(60)


@pytest.mark.parametrize("trusted", [True, False])
def test_certificates_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool) -> None:
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 60)
    certificate, key = certificate_of_loopback(tmp_path)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with tls_server(certificate, key) as port:
        public = AppSettings(http_port=0, websocket_port=0, http_url=f"https://127.0.0.1:{port}")
        found = by_name(config(tmp_path, app=public))["certificate of 127.0.0.1"]
    # It expires within the hour.
    assert found.verdict == ("warn" if trusted else "fail")
    assert ("0 more days" if trusted else "verify failed") in found.found


def test_the_command_prints_and_fails_where_a_check_fails(tmp_path: Path) -> None:
    file = tmp_path / "im.yaml"
    file.write_text(f"server: {{data_dir: {tmp_path}}}\nredis: {{url: 'redis://127.0.0.1:1/0'}}\n")
    done = run_cli("doctor", "-c", str(file))
    assert done.returncode == 1, done.stderr
    assert "fail  Redis: redis://127.0.0.1:1/0 does not answer" in done.stdout
    assert "      to mend: redis-cli" in done.stdout
