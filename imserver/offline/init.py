"""``imserver init``: a settings file with an app, an API key and a secret,
ready to serve."""

import json
import os
import sys
from pathlib import Path
from secrets import token_hex
from typing import Final
from urllib.parse import urlsplit

import click

from imserver import FEATURES
from imserver.gateway.config.load import DEFAULT_FILE
from imserver.gateway.config.values import valid_name
from imserver.gateway.terminal import fail, server_address
from imserver.gateway.transport.proxies import is_here, is_loopback

_SETTINGS: Final = """\
# Settings of this imserver. "imserver check-config --defaults" explains all that can be set;
# "imserver check-config --production" says what to change before strangers can reach the server.

server:
  host: {host}            # 0.0.0.0 accepts other machines; then put TLS in front (nginx, Caddy)
  data_dir: data             # database, uploads and the server's secret
  # origins: [localhost]     # hosts of your own pages, for example of a development server on another port

app:
  http_port: {port:<15} # pages and the HTTP API
  websocket_port: {ws_port:<10} # WebSockets; http_port accepts them too
{url}
api:
  keys:
    # Your back end sends it as "Authorization: Bearer ...". Keep it out of browsers and phones.
    - {{key: "{key}", scopes: [push, read], apps: [{apps}]}}
    # Yours: with it you change users, groups and apps by HTTP. No back end needs it.
    - {{key: "{admin_key}", scopes: [admin, push, read]}}
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
{chat}"""

_CHAT: Final = """\
  # The chat for people, /home/messages, is the app gochat. It is not here, so that its owner changes its
  # settings while it runs, in "Manage" on the page. "imserver app show gochat" shows them.

accounts:                    # an office of 200 behind one address comes in within its first hour
  guests_per_address: 500
  registrations_per_address: 500

# smtp:                      # a mail server, for invitations by e-mail and forgotten passwords
#   {{host: smtp.example.org, user: chat, password: "...", sender: chat@example.org}}

chat:                        # how the chat looks to people
  name: {name}
  # colour: "#2457a6"
  # picture: logo.png        # a square PNG of 192 to 1024 pixels
"""
_NEXT: Final = """\
Wrote {file}: app {app}, an API key, one with the scope admin, a secret for session tokens. Next:

  imserver serve{option}
  imserver token create{option} {app}/ann
  curl -H 'Authorization: Bearer {key}' \\
    -d '{{"app":"{app}","user":"ann","text":"hello","store":true}}' http://127.0.0.1:{port}/api/v1/push
"""

_WS_PORT: Final = 9
"""How much greater the port of WebSockets is than the port of HTTP. The gap
lets several servers run on a machine."""
_HTTP_PORT: Final = 80
"""The port of an address with http and without a port."""
_DEFAULT_PORT: Final = 8080
_LAST_PORT: Final = 65_535
_KEY_BYTES: Final = 32
_NAME_CHARACTERS: Final = 40
_CHAT_APP: Final = "gochat"
_NEXT_CHAT: Final = """\
Wrote {file}: a chat, app {app}, an API key, one with the scope admin, a secret for session tokens. Next:

  imserver serve{option}

"""


@click.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--app",
    default="default",
    show_default=True,
    metavar="NAME",
    help="Name of the app.",
)
@click.option(
    "--chat/--no-chat",
    default=None,
    help="Whether to add a chat page for people. Without this option, the command asks at a terminal.",
)
@click.option(
    "--name", default=None, metavar="NAME", help="Name of the chat, which people see."
)
@click.option(
    "--url",
    default="",
    metavar="URL",
    help="The address at which people open the chat: http://192.168.1.7:8080 or https://chat.example.org.",
)
@click.pass_context
def init(
    context: click.Context,
    folder: Path,
    app: str,
    chat: bool | None,
    name: str | None,
    url: str,
) -> None:
    """Write imserver.yaml into FOLDER (default: here) with an app, an API key
    and a secret.

    Only your user may read the file. An existing file is not changed. Commands
    that run in FOLDER use the file without -c.

    With --chat, people chat on the page /home/messages. The command prints a
    link for the owner and a link for others, as "imserver chat" does.
    """
    _check_app(app)
    if url:
        url = server_address(_with_scheme(url)).rstrip("/")
    port = _port_of(url)
    file = folder / DEFAULT_FILE

    # Neither --chat nor --no-chat was given.
    if chat is None:
        chat = _ask_for_chat(file)
    name = _name_of_chat(name, chat)
    key = token_hex(_KEY_BYTES)
    secret = token_hex(_KEY_BYTES)
    if chat:
        text = _settings(app, key, secret, url, port, chat=name)
    else:
        text = _settings(app, key, secret, url, port, chat=None)
    _write(file, text)

    next_steps = _NEXT
    if chat:
        next_steps = _NEXT_CHAT
    option = _option_of_settings(folder, file)
    steps = next_steps.format(file=file, app=app, key=key, option=option, port=port)
    click.echo(steps, nl=False)
    if chat:
        _print_links(context, file)


def _option_of_settings(folder: Path, file: Path) -> str:
    """Return the option by which other commands find the new file.

    It is ``""`` in the present folder, where they look by themselves.
    """
    if folder.resolve() == Path.cwd():
        return ""
    return f" -c {file}"


def _check_app(app: str) -> None:
    """End the command if an app of the file cannot have this name."""
    is_plain = app.isascii() and app.replace("-", "").replace("_", "").isalnum()
    if not (valid_name(app) and is_plain):
        fail(f"expected a name of ASCII letters, digits, - and _, got {app!r}")
    if app == _CHAT_APP:
        fail(f"the app {app} belongs to --chat: give another name")


def _port_of(url: str) -> int:
    """Return the port on which the server must listen.

    ``url`` ``""``: no address is known.
    """
    parts = urlsplit(url)
    if parts.scheme == "unix":
        fail(
            "--url: expected the http:// or https:// address at which people open the server"
        )
    if parts.scheme == "http":
        return parts.port or _HTTP_PORT
    # Behind a proxy the port of the address is the proxy's.
    return _DEFAULT_PORT


def _ask_for_chat(file: Path) -> bool:
    """Ask whether to add a chat page.

    Returns False without a question if nobody can answer, or if the command is
    going to end because the file exists.
    """
    if file.exists() or not sys.stdin.isatty():
        return False
    return click.confirm(
        "Do you want a chat page with accounts, for people who chat in the browser?",
        err=True,
    )


def _name_of_chat(given: str | None, is_chat: bool) -> str:
    """Return the name of the chat that people see; ``""`` for no name.

    ``given``: the option; None if it was left out. Then somebody at a terminal
    is asked. Ends the command if the name is not possible.
    """
    if given is None and is_chat and sys.stdin.isatty():
        given = click.prompt(
            "The name of the chat, which people see (Enter: none)",
            default="",
            show_default=False,
            err=True,
        )
    name = (given or "").strip()
    if len(name) > _NAME_CHARACTERS or not name.isprintable():
        fail(f"expected a name of at most {_NAME_CHARACTERS} characters, got {name!r}")
    # Nobody would see the name, so this is a mistake.
    if name and not is_chat:
        fail("--name needs --chat, because it is the name of a chat")
    return name


def _write(file: Path, text: str) -> None:
    """Write the settings into a new file, which only its owner may read.

    Ends the command if the file exists, or cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        fail(f"{file} exists already; nothing was changed")
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}")
    try:
        with open(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
    except OSError as error:
        # Keys may be missing in an incomplete file. A server that used it would
        # be in demo mode.
        file.unlink()
        fail(f"{file} cannot be written: {error.strerror}")


def _print_links(context: click.Context, file: Path) -> None:
    """Print the links with which people enter the chat.

    ``file``: the new settings.
    """
    command = context.find_root().command
    assert isinstance(command, click.Group)
    links = command.get_command(context, "chat")
    assert links is not None, "the feature of invitations is always installed"
    # Whether the server can show previews of links in messages.
    previews = any(package.endswith(".previews") for package in FEATURES)
    context.invoke(
        links,
        path=str(file),
        data_dir=None,
        group="Everybody",
        owner=False,
        previews=previews,
    )


def _with_scheme(url: str) -> str:
    """Return the address with a scheme, such as ``https://chat.example.org``.

    Without a scheme, an IP address or a host of this machine gets http. Any
    other name gets https, because it belongs to a proxy with TLS. Ends the
    command if a name has a port, because then both are possible.
    """
    if "://" in url or url.startswith("unix:"):
        return url
    # The host ends at the first slash, and its port follows a colon.
    host, _, port = url.partition("/")[0].partition(":")
    if is_here(host) or host.replace(".", "").isdecimal() or url.startswith("["):
        return f"http://{url}"
    if port:
        fail(f"--url {url}: say whether it is http://{url} or https://{url}")
    return f"https://{url}"


def _settings(
    app: str, key: str, secret: str, url: str, port: int, chat: str | None
) -> str:
    """Return the text of the file.

    ``url``: where people open the server; ``""``: not known. ``chat``: the name
    of the chat; None if the file has no chat.
    """
    host = "127.0.0.1"
    if _is_open(url):
        host = "0.0.0.0   "  # as long as the other one, to align the comments
    ws_port = port + _WS_PORT
    if ws_port > _LAST_PORT:
        ws_port = port - _WS_PORT
    url_line = ""
    if url:
        url_line = f"  http_url: {url}    # where people open the server, for links\n"
    apps = f'"{app}"'
    chat_lines = ""
    if chat is not None:
        apps += f', "{_CHAT_APP}"'
        chat_lines = _CHAT.format(name=json.dumps(chat, ensure_ascii=False))
    return _SETTINGS.format(
        key=key,
        admin_key=token_hex(_KEY_BYTES),
        secret=secret,
        app=app,
        apps=apps,
        host=host,
        port=port,
        ws_port=ws_port,
        url=url_line,
        chat=chat_lines,
    )


def _is_open(url: str) -> bool:
    """Whether other machines open the server by http.

    Then there is no proxy in front of it, and it must listen on all addresses.
    """
    is_plain = url.lower().startswith("http:")
    return is_plain and not is_loopback(urlsplit(url).hostname or "")
