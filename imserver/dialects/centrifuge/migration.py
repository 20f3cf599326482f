"""``imserver from-centrifugo``: translates settings of Centrifugo into settings
of this server, and lists the ones without an equivalent.

Options have the names of Centrifugo 6, with dots. The flat names of version 5
are translated to them first.
"""

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from imserver.dialects.centrifuge.migration_options import (
    NAMESPACE_NO_EQUIVALENT,
    WITHOUT_NAMESPACE,
    BadSettings,
    Document,
    Options,
    nested,
    rows_of,
    seconds_of,
)
from imserver.plugin.commands import CommandLine, fail, read_yaml
from imserver.plugin.settings import ConfigError, valid_name

MIN_SECRET_BYTES: Final = 32
MIN_KEY_CHARACTERS: Final = 20
MAX_HISTORY: Final = 100_000
_DEFAULT_PORT: Final = 8000
_MIN_BACK_END_SECONDS: Final = 0.1
_MAX_BACK_END_SECONDS: Final = 30.0
"""The range of values of ``back_ends.seconds``."""
_NOT_FOR_OWN_CHANNEL: Final = ("subscribe", "user_limited", "anonymous")
"""Options that have no meaning for the channel of a user."""


_VERBS: Final = {
    "subscribe": "subscribe",
    "publish": "publish",
    "presence": "read_presence",
    "history": "read_history",
}
"""Verb in the options of Centrifugo → the option here that says which clients
may do it."""


class _Permission(msgspec.Struct, frozen=True):
    """The permission to do something in a namespace without a token: which
    clients have it, and whether clients without a user have it, too."""

    clients: str
    anonymous: bool


def _permission(options: Options, verb: str) -> _Permission:
    """Who may do what ``verb`` names in a namespace. The options that say so
    count as translated."""
    client = options.take(f"allow_{verb}_for_client", bool, False)
    subscriber = options.take(f"allow_{verb}_for_subscriber", bool, False)
    anonymous = options.take(f"allow_{verb}_for_anonymous", bool, False)
    if client:
        return _Permission("anybody", anonymous)
    if subscriber:
        return _Permission("subscribers", anonymous)
    return _Permission("nobody", anonymous)


class Migration:
    """The translated settings, in the form of this server's file, and notes
    about options without an equivalent.

    ``with_secrets``: secrets have their values. Otherwise they are
    placeholders, and the server does not start with them. Raises
    :class:`BadSettings`.
    """

    def __init__(
        self, document: Document, app: str, with_secrets: bool = False
    ) -> None:
        self.notes: list[str] = []
        self._app: Document = {}
        self._with_secrets = with_secrets
        self._options = Options(nested(document))
        self._back_ends: Document = {}
        self.settings = self._convert(app)
        self.notes += self._options.notes_of_untaken()

    def _convert(self, app: str) -> Document:
        """The settings of this server. Translates one group of options after
        the other, and collects the settings of the app in ``self._app``."""
        take = self._options.take
        settings = dict[str, Any]()
        settings["centrifuge"] = {"app": app}
        settings |= self._sections()
        self._logins()
        limit = take("client.connection_limit", int, 0)
        if limit:
            settings.setdefault("limits", {})["max_connections"] = limit

        self._app["known_channels_only"] = True
        rows = self._channels()
        self._app["channels"] = rows
        self._own_channel(rows)
        self._proxies()
        if self._back_ends:
            self._app["webhook"] = {"secret": "replace-me: openssl rand -hex 32"}
            self._app["back_ends"] = self._back_ends
            self.notes.append(
                "webhook.secret: choose a secret; it signs the requests to your back end"
            )
        settings["apps"] = {app: self._app}
        settings |= self._api(app)
        return settings

    def _api(self, app: str) -> Document:
        """The section with the key of the server API, if there is a key."""
        key = self._options.take("http_api.key", str, "")
        if not key:
            return {}
        if len(key) < MIN_KEY_CHARACTERS:
            self._note(
                "http_api.key",
                f"choose one with at least {MIN_KEY_CHARACTERS} characters",
            )
        row = {
            "key": self._secret("http_api.key", key),
            "scopes": ["admin"],
            "apps": [app],
        }
        return {"api": {"keys": [row]}}

    def _note(self, option: str, why: str) -> None:
        self.notes.append(f"{option}: {why or 'no equivalent'}")

    def _secret(self, option: str, value: str) -> str:
        if self._with_secrets:
            return value
        return f"replace-me: the value of {option}"

    # --- sections -------------------------------------------------------------

    def _sections(self) -> Document:
        """Addresses and limits of the node."""
        take = self._options.take
        seconds = self._options.seconds
        port = take("http_server.port", (int, str), _DEFAULT_PORT)
        host = take("http_server.address", str, "") or "0.0.0.0"  # as Centrifugo does
        if not str(port).isdecimal():
            raise BadSettings("http_server.port: expected a number")

        sections: Document = {
            "server": {"extra_listen": [{"port": int(port), "host": host}]}
        }
        limits = {
            "message_bytes": take("websocket.message_size_limit", int, 0),
            "outbox_bytes": take("client.queue_max_size", int, 0),
            "login_seconds": seconds("client.stale_close_delay"),
        }
        limits = {name: value for name, value in limits.items() if value}
        if limits:
            sections["limits"] = limits

        ping = seconds("client.ping_interval")
        if ping:
            sections["websocket"] = {"client_ping_seconds": ping}
        if take("websocket.compression", bool, False):
            sections.setdefault("websocket", {})["deflate"] = True
        url = self._redis()
        if url:
            sections["redis"] = {"url": url}
        return sections

    def _redis(self) -> str:
        """The address of Redis, with its credentials. Returns ``""`` if the
        settings name no Redis, or an arrangement that the operator must write
        anew. All options of Redis count as translated."""
        take = self._options.take
        kind = take("engine.type", str, "memory")
        addresses = take("engine.redis.address", (str, list), [])
        if not isinstance(addresses, list):
            addresses = addresses.split(",")
        db = take("engine.redis.db", int, 0)
        user = take("engine.redis.user", str, "")
        password = take("engine.redis.password", str, "")
        if kind != "redis":
            if kind != "memory":
                self._note("engine.type", "use Redis")
            return ""
        has = self._options.has
        if (
            has("engine.redis.cluster_address")
            or has("engine.redis.sentinel_address")
            or len(addresses) > 1
        ):
            self._note(
                "engine.redis",
                "set redis.url yourself, with redis+sentinel:// or redis+cluster://",
            )
            return ""

        if addresses:
            address = str(addresses[0])
        else:
            address = "127.0.0.1:6379"
        if "://" in address:
            if "@" in address and not self._with_secrets:
                scheme, _, login_and_host = address.partition("://")
                self._note("engine.redis.address", "its password is not shown")
                host = login_and_host.rpartition("@")[2]
                return f"{scheme}://replace-me@{host}"
            return address
        if not password:
            return f"redis://{address}/{db}"
        if not self._with_secrets:
            self._note("engine.redis.password", "it is not shown")
            password = "replace-me"
        return f"redis://{user}:{password}@{address}/{db}"

    # --- logins ---------------------------------------------------------------

    def _logins(self) -> None:
        """Translate the rules for logins: keys of tokens, origins, and clients
        without a user."""
        take = self._options.take
        rows = self._tokens("client.token")
        if take("client.subscription_token.enabled", bool, False):
            subscription_rows = self._tokens("client.subscription_token")
            if subscription_rows:
                self._note(
                    "client.subscription_token",
                    "the keys of this section may sign connection tokens, too",
                )
            rows += [row for row in subscription_rows if row not in rows]
        if rows:
            self._app["jwt"] = rows
        self._origins()

        refuses_anonymous = take(
            "client.disallow_anonymous_connection_tokens", bool, False
        )
        if rows and not refuses_anonymous:
            self._app["anonymous_tokens"] = True
        option = "client.allow_anonymous_connect_without_token"
        if not take(option, bool, False):
            return
        if rows:
            self._note(
                option,
                "an app with keys refuses clients without a token; use a connect back end",
            )
        else:
            self._app["open"] = True

    def _origins(self) -> None:
        """Translate the origins from which browsers may connect."""
        origins = self._options.take("client.allowed_origins", list, [])
        if "*" in origins:
            self._app["origin_policy"] = "any"
            return
        hosts = [each for each in origins if isinstance(each, str) and "*" not in each]
        if len(hosts) < len(origins):
            self._note(
                "client.allowed_origins",
                "patterns have no equivalent: list each host",
            )
        if hosts:
            self._app["origins"] = hosts

    def _tokens(self, where: str) -> list[Document]:
        """The rows of ``jwt`` for a section of keys."""
        take = self._options.take
        rows = self._keys(where)
        if rows:
            self._note(
                where,
                "if your back end signs with 384 or 512 bits, add an entry for that algorithm",
            )
        rows += self._issuer(where)
        for name in ("issuer_regex", "audience_regex"):
            if take(f"{where}.{name}", str, ""):
                self._note(f"{where}.{name}", "name one issuer and one audience")
        return rows

    def _keys(self, where: str) -> list[Document]:
        """The rows of a section's secret and public keys."""
        take = self._options.take
        rows = list[Document]()
        secret = take(f"{where}.hmac_secret_key", str, "")
        if secret:
            option = f"{where}.hmac_secret_key"
            if len(secret.encode()) < MIN_SECRET_BYTES:
                self._note(option, f"choose one with at least {MIN_SECRET_BYTES} bytes")
            rows.append({"algorithm": "HS256", "key": self._secret(option, secret)})
        for name, algorithm in (
            ("rsa_public_key", "RS256"),
            ("ecdsa_public_key", "ES256"),
        ):
            key = take(f"{where}.{name}", str, "")
            if key:
                rows.append({"algorithm": algorithm, "key": key})
        return rows

    def _issuer(self, where: str) -> list[Document]:
        """The row of a section whose keys are at an address, if it has such
        keys."""
        take = self._options.take
        jwks = take(f"{where}.jwks_public_endpoint", str, "")
        issuer = take(f"{where}.issuer", str, "")
        audience = take(f"{where}.audience", str, "")
        claim = take(f"{where}.user_id_claim", str, "")
        if not jwks:
            if issuer or audience or claim:
                self._note(
                    where,
                    "issuer, audience and user_id_claim count only with jwks_public_endpoint",
                )
            return []
        # Centrifugo replaces braces in the address by parts of the issuer.
        if not issuer or not audience or "{{" in jwks:
            self._note(
                f"{where}.jwks_public_endpoint",
                "a JWKS endpoint needs a fixed address, an issuer and an audience",
            )
            return []

        row = {"issuer": issuer, "audience": audience, "jwks_url": jwks}
        if claim:
            row["user_claim"] = claim
        return [row]

    # --- channels -------------------------------------------------------------

    def _channels(self) -> Document:
        """The rows of ``channels``: name of a namespace → its settings.
        Channels without a namespace have the row ``""``."""
        take = self._options.take
        plain = Options(take(WITHOUT_NAMESPACE, dict, {}))
        rows = {"": self._namespace_row(WITHOUT_NAMESPACE, plain)}
        namespaces = take("channel.namespaces", list, [])
        for row in rows_of(namespaces, "channel.namespaces"):
            name = str(row.pop("name"))
            if name in ("user", "group"):
                why = f"{name}:<id> is the channel of a {name}; rename the namespace"
                self._note(f"namespace {name}", why)
            else:
                rows[name] = self._namespace_row(f"namespace {name}", Options(row))
        return rows

    def _own_channel(self, rows: Document) -> None:
        """Translate the options of the channels of users, and add the row
        ``user`` to ``rows``. In Centrifugo such a channel has the options of a
        namespace that the settings name."""
        take = self._options.take
        where = "client.subscribe_to_user_personal_channel"
        enabled = take(f"{where}.enabled", bool, False)
        namespace = take(f"{where}.personal_channel_namespace", str, "")
        self._app["subscribe_to_own_channel"] = enabled
        if take(f"{where}.single_connection", bool, False):
            self._note(f"{where}.single_connection", "see login_policy of the app")
        if not enabled:
            return
        if namespace:
            self._note(
                f"{where}.personal_channel_namespace",
                "the channel of a user is #<user>",
            )

        row = {
            name: value
            for name, value in rows.get(namespace, {}).items()
            if name not in _NOT_FOR_OWN_CHANNEL
        }
        if row.get("publish") == "back_end":
            self._note(
                where,
                "back ends are not asked about publications to the channel of a user",
            )
            del row["publish"]
        if row:
            rows["user"] = row

    def _namespace_row(self, where: str, options: Options) -> Document:
        """The row of a namespace. Everything that Centrifugo does not allow is
        forbidden."""
        take = options.take
        permissions = {verb: _permission(options, verb) for verb in _VERBS}
        row: Document = {"subscribe": "token"}
        if permissions["subscribe"].clients == "anybody":
            row["subscribe"] = "anybody"
        if self._is_decided_by_back_end(where, options, "subscribe"):
            row["subscribe"] = "back_end"
        if self._is_decided_by_back_end(where, options, "publish"):
            row["publish"] = "back_end"
        elif permissions["publish"].clients != "nobody":
            row["publish"] = permissions["publish"].clients

        if (
            self._is_decided_by_back_end(where, options, "sub_refresh")
            and row["subscribe"] != "back_end"
        ):
            self._note(
                f"{where}.sub_refresh_proxy_enabled",
                "this option needs subscribe: back_end",
            )
        if take("allow_user_limited_channels", bool, False):
            row["user_limited"] = True

        if take("presence", bool, False):
            row["presence"] = True
            row["read_presence"] = permissions["presence"].clients
        forced = take("force_push_join_leave", bool, False)
        if take("join_leave", bool, False):
            row["join_leave"] = True
            if not forced:
                self._note(
                    f"{where}.join_leave",
                    "all subscribers are notified, not only clients that ask",
                )

        row |= self._history(where, options, permissions["history"].clients)
        if not self._admits_anonymous(where, row, permissions):
            row["anonymous"] = False
        self._note_rest(where, options)
        return row

    def _admits_anonymous(
        self, where: str, row: Document, permissions: Mapping[str, _Permission]
    ) -> bool:
        """Whether clients without a user may do everything that clients may do
        without a token."""
        admitted = {
            permissions[verb].anonymous
            for verb, option in _VERBS.items()
            if row.get(option) in ("anybody", "subscribers")
        }
        if len(admitted) > 1:
            self._note(
                where,
                "the allow_…_for_anonymous options differ, so clients without a user may do nothing",
            )
        return False not in admitted

    def _note_rest(self, where: str, options: Options) -> None:
        """Note the options of a namespace that have no equivalent here."""
        for option, value in options.untaken():
            section = option.partition(".")[0]
            why = NAMESPACE_NO_EQUIVALENT.get(section, "unknown option")
            # All channels here are streams of JSON, so these values need no
            # note.
            if value not in ("stream", "json"):
                self._note(f"{where}.{option}", why)

    def _history(self, where: str, options: Options, readers: str) -> Document:
        """The settings of a namespace about its history. Empty if it has no
        history. ``readers``: which clients may read the history."""
        take = options.take
        size = take("history_size", int, 0)
        ttl = options.seconds("history_ttl")
        recovery = take("force_recovery", bool, False) | take(
            "allow_recovery", bool, False
        )
        positions = take("force_positioning", bool, False) | take(
            "allow_positioning", bool, False
        )
        deltas = take("allowed_delta_types", list, [])
        # Counts as translated: deltas here need only the type.
        take("delta_publish", bool, False)
        mode = take("force_recovery_mode", str, "")

        if not (size > 0 and ttl > 0):
            return {}
        if size > MAX_HISTORY:
            self._note(f"{where}.history_size", f"the maximum is {MAX_HISTORY}")
        row: Document = {"history_size": min(size, MAX_HISTORY), "history_seconds": ttl}
        row["read_history"] = readers
        if mode == "cache":
            row["recovery_mode"] = mode
        if recovery:
            row["recovery"] = True
        elif positions:
            self._note(
                f"{where}.force_positioning",
                "clients ask for positions, or have recovery",
            )
        if "fossil" in deltas:
            row["delta"] = True
        return row

    # --- proxies --------------------------------------------------------------

    def _is_decided_by_back_end(self, where: str, options: Options, call: str) -> bool:
        """Whether the back end decides about ``call`` in a namespace. Then the
        address of its proxy becomes the address of the app for this call."""
        enabled = options.take(f"{call}_proxy_enabled", bool, False)
        name = options.take(f"{call}_proxy_name", str, "default")
        return enabled and self._use_proxy(
            f"{where}.{call}_proxy_enabled", call, f"channel.proxy.{call}", name
        )

    def _use_proxy(
        self, option: str, call: str, default: str, name: str = "default"
    ) -> bool:
        """Send a call to the HTTP address of its proxy. Returns False, after a
        note, if the proxy has no such address.

        ``default``: the option with the proxy for this call, which is used
        unless ``name`` names one of the list ``proxies``.
        """
        if name in ("", "default"):
            proxy = self._options.peek(default, dict, {})
        else:
            rows = rows_of(self._options.peek("proxies", list, []), "proxies")
            proxy = next((row for row in rows if row["name"] == name), {})
        url = str(proxy.get("endpoint", ""))
        if not url:
            self._note(option, "the proxy has no HTTP address")
            return False
        if not url.startswith(("http://", "https://")):
            self._note(option, "gRPC is not supported")
            return False

        if self._back_ends.setdefault(call, url) != url:
            self._note(
                option, f"all namespaces have the first address of back_ends.{call}"
            )
        headers = [str(each) for each in proxy.get("http_headers") or ()]
        headers_so_far = self._back_ends.get("headers", [])
        new = [each for each in headers if each not in headers_so_far]
        if new:
            self._back_ends["headers"] = headers_so_far + new

        timeout = proxy.get("timeout")
        if timeout:
            given = seconds_of(timeout, f"{option}: timeout")
            seconds = min(max(given, _MIN_BACK_END_SECONDS), _MAX_BACK_END_SECONDS)
            longest = self._back_ends.get("seconds", 0.0)
            self._back_ends["seconds"] = max(seconds, longest)
        return True

    def _proxies(self) -> None:
        """Translate the calls that do not belong to a namespace of channels."""
        take = self._options.take
        for call in ("connect", "refresh"):
            where = f"client.proxy.{call}"
            name = take(f"{where}.proxy_name", str, "default")
            if take(f"{where}.enabled", bool, False):
                self._use_proxy(where, call, where, name)

        plain = take("rpc.without_namespace", dict, {})
        if plain.get("proxy_enabled"):
            name = str(plain.get("proxy_name", "default"))
            self._use_proxy("rpc.without_namespace", "rpc", "rpc.proxy", name)
        for row in rows_of(take("rpc.namespaces", list, []), "rpc.namespaces"):
            if row.get("proxy_enabled"):
                name = str(row.get("proxy_name", "default"))
                self._use_proxy(
                    f"rpc namespace {row['name']}", "rpc", "rpc.proxy", name
                )

        if "rpc" in self._back_ends:
            self._note(
                "back_ends.rpc",
                "methods of this server, such as send, have the prefix imserver:",
            )
        if "headers" in self._back_ends:
            self._note(
                "back_ends.headers",
                "headers that an SDK sets belong in emulated_headers",
            )
        self._options.drop_proxies()


@click.command(
    "from-centrifugo",
    short_help="Print the settings that correspond to those of Centrifugo.",
)
@click.option(
    "--app",
    default="default",
    show_default=True,
    metavar="NAME",
    help="The app for the clients of Centrifugo.",
)
@click.option(
    "--secrets", is_flag=True, help="Print keys and secrets instead of placeholders."
)
@click.argument("file")
def from_centrifugo(app: str, secrets: bool, file: str) -> None:
    """Print the settings that correspond to FILE, the configuration of a
    Centrifugo 5 or 6.

    FILE is JSON, YAML or TOML, or - for standard input. Comments list the
    options without an equivalent. If the output is redirected, standard error
    lists them, too. Environment variables of Centrifugo are not read.
    """
    if not valid_name(app):
        fail(f"{app!r} is not a valid name of an app")
    try:
        migration = Migration(_document(file), app, secrets)
    except BadSettings as error:
        fail(f"{file}: {error}")
    if migration.notes:
        click.echo("# Not the same as in Centrifugo (docs/guides/from-centrifugo.md):")
    for note in migration.notes:
        click.echo(f"# - {note}")
        if not sys.stdout.isatty():
            click.echo(f"imserver: {note}", err=True)
    CommandLine.yaml(migration.settings)


def _document(file: str) -> dict[str, Any]:
    """Read the settings of Centrifugo as JSON, YAML or TOML, from a file or
    from standard input (``-``). Ends the command with an error if they are
    unreadable."""
    try:
        if file == "-":
            text = sys.stdin.read()
        else:
            text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        fail(f"{file} cannot be read: {why}")

    try:
        if file.endswith(".toml"):
            return tomllib.loads(text)
        if text.lstrip().startswith("{"):
            document = msgspec.json.decode(text)
        else:
            document = read_yaml(text, file)
    except ConfigError as error:
        fail(error)
    except (ValueError, RecursionError) as error:
        fail(f"{file}: {error}")
    if not isinstance(document, dict):
        fail(f"{file}: expected an object")
    return document
