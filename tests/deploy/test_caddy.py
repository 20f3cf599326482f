"""deploy/Caddyfile, read and run by Caddy in front of a real node."""

import json
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from imserver.gateway import assets
from tests.conftest import StartServer
from tests.docs.markdown import blocks
from tests.integration.cmd import fresh, get, json_request, logged_in
from tests.integration.raw import Address, Raw, ask, request
from tests.integration.sse import listening
from tests.ports import free_ports
from tests.processes import end, ended_on_failure, spawn
from tests.support import ROOT, Server, eventually
from tests.tools import require

from .proxy import replaced

pytestmark = [pytest.mark.full, pytest.mark.needs("caddy")]

FILE = ROOT / "deploy" / "Caddyfile"
GUIDE = ROOT / "docs" / "guides" / "behind-a-proxy.md"
SITE = "im.example.com"
DEFAULTS = yaml.safe_load(assets.DEFAULT_CONFIG.read_text(encoding="utf-8"))


def adapted() -> str:
    """The file as Caddy understands it."""
    command = [require("caddy"), "adapt", "--config", str(FILE), "--validate"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout


@contextmanager
def running(command: list[str], address: Address, folder: Path, **environment: str) -> Iterator[None]:
    """A program that listens at an address; its log is in the folder."""
    path = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with (folder / f"{Path(command[0]).name}.log").open("w") as log:
        process = spawn(command, stdout=log, stderr=log, env={**path, **environment})

        def listens() -> bool:
            assert process.poll() is None, Path(log.name).read_text()
            with socket.socket() as probe:
                return probe.connect_ex(address) == 0

        with ended_on_failure(process):
            eventually(listens, what=f"{command[0]} listens")
        try:
            yield
        finally:
            end(process)


@contextmanager
def caddy(folder: Path, text: str, server: Server, port: int) -> Iterator[Address]:
    """Caddy with this file in front of a server. It has no certificates, and speaks HTTP at the port."""
    text = replaced(text, f"\n{SITE} {{", f"\nhttp://127.0.0.1:{port} {{")
    text = replaced(text, "{\n    servers {", "{\n    admin off\n    servers {")
    text = replaced(text, "127.0.0.1:8080", f"127.0.0.1:{server.http.port}")
    file = folder / "Caddyfile"
    file.write_text(text, encoding="utf-8")
    with running([require("caddy"), "run", "--config", str(file)], ("127.0.0.1", port), folder):
        yield ("127.0.0.1", port)


@pytest.fixture(scope="module")
def server(start_shared_server: StartServer) -> Server:
    return start_shared_server(config={"server": {"trusted_proxies": ["127.0.0.1/32"], "origins": [SITE]}})


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Address]:
    folder = tmp_path_factory.mktemp("caddy")
    with caddy(folder, FILE.read_text(encoding="utf-8"), server, free_ports()) as address:
        yield address


def test_caddy_takes_it_and_its_limits_are_ours() -> None:
    sizes = re.findall(r'"max_size": ?(\d+)', adapted())
    limits = {DEFAULTS["uploads"]["max_bytes"], DEFAULTS["limits"]["body_bytes"]}
    assert {int(size) for size in sizes} == limits
    assert "keepalive 60s" in FILE.read_text(encoding="utf-8")
    assert DEFAULTS["limits"]["keepalive_seconds"] > 60


def test_sockets_pages_and_pushes_pass(site: Address, server: Server) -> None:
    user = fresh()
    with logged_in(site, user, 101) as one:
        assert ask(site, json_request("/api/v1/push", {"app": "101", "user": user, "text": "m"})).json["sent"]
        assert one.push("msg").json["response"]["data"]["msg"] == "m"
    assert get(site, "/home/index", appID=101).status == 200
    assert get(site, "/metrics").status == 404
    host = f"127.0.0.1:{site[1]}"
    assert ask(site, request("/gateway", host=host)).json == {"url": f"ws://{host}/acc"}


def test_each_event_of_a_stream_passes_at_once(site: Address) -> None:
    user = fresh()
    with listening(site, "default", user) as listener:
        for text in ("one", "two"):
            ask(site, json_request("/api/v1/push", {"app": "default", "user": user, "text": text}))
            assert text in json.dumps(listener.message())


def test_the_largest_file_passes_and_a_larger_one_is_refused(site: Address) -> None:
    path, size = "/api/v1/uploads?app=default&user=u1", DEFAULTS["uploads"]["max_bytes"]
    with Raw(site) as client:
        answer = client.ask(request(path, method="POST", body=bytes(size)))
    assert (answer.status, answer.json["bytes"]) == (201, size)
    assert ask(site, request(answer.json["url"])).body == bytes(size)


def test_the_node_sees_the_client_and_no_forged_header(site: Address, server: Server) -> None:
    path = f"/nowhere/{fresh()}"
    forged = [(name, "203.0.113.9") for name in ("X-Forwarded-For", "X-Real-IP", "X-Forwarded-Host")]
    with Raw(site, source="127.0.0.9") as client:
        client.ask(request(path, headers=forged))

    def lines() -> list[str]:
        return [line for line in server.log_with_requests().splitlines() if path in line]

    eventually(lines, what="the request log")
    assert "127.0.0.9" in lines()[0]
    assert "203.0.113.9" not in lines()[0]


def test_the_recipe_of_the_guide_serves_below_a_path(start_server: StartServer, tmp_path: Path) -> None:
    (recipe,) = [block.text for block in blocks(GUIDE, "text") if "handle_path" in block.text]
    port = free_ports()
    server = start_server(config={"app": {"http_url": f"http://127.0.0.1:{port}/im"}})
    text = "{\n    servers {\n    }\n}\n\n" + recipe.replace("www.example.com", SITE)
    with caddy(tmp_path, text, server, port) as address:
        assert ask(address, request("/im")).header("Location") == "/im/"
        page = ask(address, request("/im/home/messages?lang=en")).body.decode()
        sheet = re.findall(r'href="(/im/release/[^"]*\.css)"', page)[0]
        assert ask(address, request(sheet)).status == 200
        with Raw(address) as client:
            client.upgrade("/im/acc")
        assert ask(address, request("/home/messages")).status == 404


@pytest.mark.needs("pebble", "openssl")
def test_caddy_gets_its_certificate_by_acme(server: Server, tmp_path: Path) -> None:
    ports = free_ports(4)
    certificate, key = tmp_path / "ca.pem", tmp_path / "ca.key"
    subject = "-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1"
    make = f"req -x509 -newkey rsa:2048 -nodes -days 2 {subject} -keyout {key} -out {certificate}"
    subprocess.run([require("openssl"), *make.split()], check=True, capture_output=True)
    settings = {
        "listenAddress": f"127.0.0.1:{ports}",
        "managementListenAddress": f"127.0.0.1:{ports + 1}",
        "certificate": str(certificate),
        "privateKey": str(key),
        "httpPort": ports + 2,
        "tlsPort": ports + 3,
    }
    config = tmp_path / "pebble.json"
    config.write_text(json.dumps({"pebble": settings}), encoding="utf-8")
    text = replaced(
        FILE.read_text(encoding="utf-8"),
        "{\n    servers {",
        f"{{\n    admin off\n    skip_install_trust\n    http_port {ports + 2}\n    https_port {ports + 3}\n"
        f"    acme_ca https://127.0.0.1:{ports}/dir\n    acme_ca_root {certificate}\n    servers {{",
    )
    text = replaced(text, "127.0.0.1:8080", f"127.0.0.1:{server.http.port}")
    file = tmp_path / "Caddyfile"
    file.write_text(text, encoding="utf-8")
    # Nobody can ask for the site at this machine's address, so the authority believes it.
    trusting = {"PEBBLE_VA_ALWAYS_VALID": "1", "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    with ExitStack() as stack:
        pebble = [require("pebble"), "-config", str(config)]
        stack.enter_context(running(pebble, ("127.0.0.1", ports), tmp_path, **trusting))
        command = [require("caddy"), "run", "--config", str(file)]
        stack.enter_context(running(command, ("127.0.0.1", ports + 3), tmp_path))
        answer = eventually(lambda: over_tls(ports + 3), 120, "the certificate")
    assert answer[0].startswith("Pebble Intermediate")
    assert answer[1].startswith(b"HTTP/1.1 200 ")


def over_tls(port: int) -> tuple[str, bytes] | None:
    """Who has signed the certificate of the site, and the answer of /health; None while there is none."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port)) as plain:
        try:
            with context.wrap_socket(plain, server_hostname=SITE) as secure:
                secure.sendall(request("/health", host=SITE))
                certificate = secure.getpeercert(binary_form=True)
                assert certificate
                return issuer_of(certificate), secure.recv(1 << 16)
        except ssl.SSLError:
            return None


def issuer_of(certificate: bytes) -> str:
    issuer = x509.load_der_x509_certificate(certificate).issuer
    return str(issuer.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
