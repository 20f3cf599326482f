"""Measures what TLS costs in front of a node: ``python -m tools.measure_wss
[haproxy] [nginx] [caddy]``.

Clients of the load tool speak no TLS, so a haproxy on their side encrypts for
them: each proxy that is measured decrypts connections of TLS 1.3 (ECDSA,
P-256). Clients are silent, and answer a ping each 25 seconds. Memory and CPU
are those of the proxy alone.
"""

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from socket import create_connection

from bench.servers import (
    NodeProcess,
    ServerProcess,
    WorkerPool,
    found_program,
    free_block,
)

CONNECTIONS = {"haproxy": 15_000, "nginx": 15_000, "caddy": 7_500}
"""A connection takes two files of a process. There are two processes; one of
Caddy, which shares no port."""
SECONDS = 50
HAPROXY = """
global
    nbthread 1
    maxconn 9000
defaults
    mode tcp
    timeout connect 9s
    timeout client 400s
    timeout server 400s
listen im
    bind 127.0.0.1:{port} {bind}
    server node 127.0.0.1:{to} {server}
"""
NGINX = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
worker_processes 2;
events {{ worker_connections 18000; }}
http {{
    access_log off;
    ssl_protocols TLSv1.3;
    ssl_certificate {pem};
    ssl_certificate_key {pem};
    proxy_http_version 1.1;
    proxy_read_timeout 400s;
    proxy_send_timeout 400s;
    server {{
        listen 127.0.0.1:{port} ssl reuseport backlog=4096;
        location / {{
            proxy_pass http://127.0.0.1:{to};
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
        }}
    }}
}}
"""
CADDY = """{{
    admin off
    auto_https off
}}
https://:{port} {{
    tls {pem} {pem}
    reverse_proxy 127.0.0.1:{to}
}}
"""


class Proxy(ServerProcess):
    """A process of ``program`` with the configuration ``text``; listens at
    ``port`` beside others like it."""

    def __init__(self, program: str, port: int, text: str, **values: object) -> None:
        super().__init__({"HOME": "/tmp"})
        self.port = port
        file = self.folder / "config"
        file.write_text(text.format(folder=self.folder, port=port, **values))
        arguments = {
            "haproxy": ["-db", "-f", str(file)],
            "nginx": ["-c", str(file)],
            "caddy": ["run", "--adapter", "caddyfile", "--config", str(file)],
        }
        self.words = [found_program(program), *arguments[program]]

    def command(self) -> list[str]:
        return self.words

    def ready(self) -> bool:
        create_connection(("127.0.0.1", self.port), timeout=1).close()
        return True


def measured(name: str, pem: Path) -> str:
    """What ``imserver bench idle`` says of this proxy in front of a node."""
    with ExitStack() as stack:
        pool = WorkerPool()
        stack.callback(pool.end)
        port, plain, listening = (free_block(1) for _ in range(3))
        listen = json.dumps([{"port": listening, "proxy_protocol": True}])
        settings = {"IMSERVER_WEBSOCKET_PING_SECONDS": "25", "IMSERVER_FEATURES": "[]"}
        node = NodeProcess(
            environment={**settings, "IMSERVER_SERVER_EXTRA_LISTEN": listen}
        )
        pool.start(node)
        to = listening if name == "haproxy" else node.ws_port
        values = {
            "pem": pem,
            "to": to,
            "bind": f"ssl crt {pem} ssl-min-ver TLSv1.3",
            "server": "send-proxy-v2",
        }
        text = {"haproxy": HAPROXY, "nginx": NGINX, "caddy": CADDY}[name]
        proxies = [
            pool.start(Proxy(name, port, text, **values))
            for _ in range(2 if name == "haproxy" else 1)
        ]
        encrypt = "ssl verify none sni str(localhost)"
        for _ in range(2):
            pool.start(
                Proxy("haproxy", plain, HAPROXY, bind="", to=port, server=encrypt)
            )
        pids = [
            pid
            for each in proxies
            for pid in (each.pids[1:] if name == "nginx" else each.pids[:1])
        ]
        where = [
            "--url",
            f"http://127.0.0.1:{node.http_port}",
            "--ws",
            f"ws://127.0.0.1:{plain}/acc",
        ]
        words = [
            "--connections",
            str(CONNECTIONS[name]),
            "--seconds",
            str(SECONDS),
            "--json",
            "--no-pin",
        ]
        command = [sys.executable, "-m", "imserver", "bench", "idle", *where, *words]
        command += [word for pid in pids for word in ("--pid", str(pid))]
        figures = json.loads(
            subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        )["figures"]
        memory = (
            (figures["rss_full_mb"] - figures["rss_empty_mb"])
            * 1e3
            / figures["connections"]
        )
        cpu, count, dropped = (
            figures[key] for key in ("ping_cpu_us", "connections", "dropped")
        )
        return f"{memory:.1f} KB a connection, {cpu:.1f} µs a ping; {count} connections, {dropped} dropped"


def main() -> None:
    with ExitStack() as stack:
        folder = Proxy("haproxy", 1, "").folder
        stack.callback(lambda: subprocess.run(["rm", "-r", folder], check=False))
        pem = folder / "pem"
        make = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ]
        make += [
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-days",
            "2",
        ]
        subprocess.run(
            [*make, "-keyout", folder / "key", "-out", pem],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        pem.write_bytes(pem.read_bytes() + (folder / "key").read_bytes())
        for name in sys.argv[1:] or ["haproxy", "nginx", "caddy"]:
            print(f"{name}: {measured(name, pem)}", flush=True)


if __name__ == "__main__":
    main()
