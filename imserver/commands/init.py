"""``imserver init``: a settings file with an app, an API key and a secret, ready to serve."""

from __future__ import annotations

import os
from pathlib import Path
from secrets import token_hex
from typing import Final

import click

from imserver.config.load import DEFAULT_FILE
from imserver.config.values import valid_name
from imserver.terminal import fail

_SETTINGS: Final = """\
# Settings of this imserver. "imserver check-config --defaults" explains all that can be set;
# "imserver check-config --production" says what to change before strangers can reach the server.

server:
  host: 127.0.0.1            # 0.0.0.0 accepts other machines; then put TLS in front (nginx, Caddy)
  data_dir: data             # database, uploads and the server's secret
  # origins: [localhost]     # hosts of your own pages, for example of a development server on another port

app:
  http_port: 8080            # pages and the HTTP API
  websocket_port: 8089       # WebSockets; port 8080 accepts them too

api:
  keys:
    # Your back end sends it as "Authorization: Bearer ...". Keep it out of browsers and phones.
    - {{key: "{key}", scopes: [push, read], apps: ["{app}"]}}
  requests_per_second: 1000    # of one key or user; more get 429

limits:
  max_connections_per_address: 1000    # many people may share an address; this machine is not limited
  login_seconds: 30            # a connection must log in within this time
  messages_per_second: 50      # of one connection; more close it

apps:
  "{app}":
    # Users log in with a session token that your back end signs with this secret (HS256):
    # the claims are sub (the user id), app ("{app}") and exp (Unix seconds).
    jwt:
      - {{algorithm: HS256, key: "{secret}"}}
    # channels:              # what the channels of a namespace can do, here orders:17 and so on
    #   orders: {{history_size: 100, history_seconds: 600, presence: true}}
    # webhook:               # notify your back end, for example of absent users
    #   url: http://127.0.0.1:5000/im/events
    #   secret: "..."        # make one with: openssl rand -hex 32
    #   events: [absent]
"""

_NEXT: Final = """\
Wrote {file}: app {app}, an API key, a secret for session tokens. Next:

  imserver serve{option}
  imserver token create{option} --app {app} ann
  curl -H 'Authorization: Bearer {key}' \\
    -d '{{"app":"{app}","user":"ann","text":"hello","store":true}}' http://127.0.0.1:8080/api/v1/push
"""


@click.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--app", default="default", show_default=True, metavar="NAME", help="Name of the app.")
def init(folder: Path, app: str) -> None:
    """Write imserver.yaml into FOLDER (default: here) with an app, an API key and a secret.

    Only your user may read the file. A file that exists is left alone. Commands that run in FOLDER use it
    without -c.
    """
    if not valid_name(app) or not (app.isascii() and app.replace("-", "").replace("_", "").isalnum()):
        fail(f"expected a name of ASCII letters, digits, - and _, got {app!r}")
    file = folder / DEFAULT_FILE
    key, secret = token_hex(32), token_hex(32)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{file} exists already; nothing was changed")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    try:
        with open(descriptor, "w", encoding="utf-8") as opened:
            opened.write(_SETTINGS.format(key=key, secret=secret, app=app))
    except OSError as error:
        file.unlink()  # an incomplete file would lack the keys that end demo mode
        fail(f"{file} cannot be written: {error.strerror}")
    option = "" if folder.resolve() == Path.cwd() else f" -c {file}"
    click.echo(_NEXT.format(file=file, app=app, key=key, option=option), nl=False)
