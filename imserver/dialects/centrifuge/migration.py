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


_PUBLIC_KEYS: Final = {"rsa_public_key": "RS256", "ecdsa_public_key": "ES256"}
"""Option with a public key → its algorithm."""
_VERBS: Final = {
    "subscribe": "subscribe",
    "publish": "publish",
    "presence": "read_presence",
    "history": "read_history",
}
"""Verb in the options of Centrifugo → the option of this server that says which
clients may do it."""


class _Permission(msgspec.Struct, frozen=True):
    """Who may do something in a namespace without a token.

    ``clients``: ``"anybody"``, ``"subscribers"`` or ``"nobody"``.
    ``anonymous``: whether clients without a user may do it, too.
    """

    clients: str
    anonymous: bool


def _permission(options: Options, verb: str) -> _Permission:
    """Who may do one thing in a namespace, for example ``publish``.

    Centrifugo has three options for each verb, such as
    ``allow_publish_for_client``. All three then count as translated.
    """
    client = options.take(f"allow_{verb}_for_client", bool, False)
    subscriber = options.take(f"allow_{verb}_for_subscriber", bool, False)
    anonymous = options.take(f"allow_{verb}_for_anonymous", bool, False)
    # If several options are set, the option that allows most clients counts.
    if client:
        return _Permission("anybody", anonymous)
    if subscriber:
        return _Permission("subscribers", anonymous)
    return _Permission("nobody", anonymous)


class Migration:
    """The translation of the settings of a Centrifugo.

    ``settings`` is the result, in the form of this server's file. ``notes`` has
    a line for each option without an equivalent. ``with_secrets``: whether the
    result has the values of secrets. Otherwise it has placeholders, with which
    the server does not start. Raises :class:`BadSettings`.
    """

    def __init__(
        self, document: Document, app: str, with_secrets: bool = False
    ) -> None:
        """Translate ``document``, with ``app`` as the name of the app for the
        clients."""
        self.notes: list[str] = []
        self._app: Document = {}
        self._with_secrets = with_secrets
        self._options = Options(nested(document))
        self._back_ends: Document = {}
        self.settings = self._convert(app)
        # All options that nothing above has read have no equivalent.
        self.notes += self._options.notes_of_untaken()

    def _convert(self, app: str) -> Document:
        """Translate one group of options after the other.

        Returns the settings of this server. The methods for each group read
        their options with ``take``, put settings of the app into ``self._app``,
        and add notes. The order of the groups is the order of the notes.
        """
        settings: Document = {"centrifuge": {"app": app}}
        settings |= self._sections()
        self._logins()
        limit = self._options.take("client.connection_limit", int, 0)
        if limit:
            settings.setdefault("limits", {})["max_connections"] = limit

        # Centrifugo refuses channels whose namespace is not in the settings.
        self._app["known_channels_only"] = True
        rows = self._channels()
        self._app["channels"] = rows
        self._own_channel(rows)
        self._proxies()
        if self._back_ends:
            self._use_back_ends()
        settings["apps"] = {app: self._app}
        settings |= self._api(app)
        return settings

    def _use_back_ends(self) -> None:
        """Put the addresses of the back ends into the settings of the app, with
        a secret that the operator must choose."""
        self._app["webhook"] = {"secret": "replace-me: openssl rand -hex 32"}
        self._app["back_ends"] = self._back_ends
        self.notes.append(
            "webhook.secret: choose a secret; it signs the requests to your back end"
        )

    def _api(self, app: str) -> Document:
        """The section ``api`` with the key of the server API. It is empty if
        Centrifugo has no such key."""
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
        """Tell the operator that an option has no equivalent, and what to
        do."""
        self.notes.append(f"{option}: {why or 'no equivalent'}")

    def _secret(self, option: str, value: str) -> str:
        """The value of a secret, or a placeholder if secrets must not be
        shown."""
        if self._with_secrets:
            return value
        return f"replace-me: the value of {option}"

    # --- sections -------------------------------------------------------------

    def _sections(self) -> Document:
        """The sections with the addresses and limits of a node.

        An option that is not set, or is 0, is left out. Then the default of
        this server applies. Raises BadSettings.
        """
        sections: Document = {"server": {"extra_listen": [self._listener()]}}
        limits = self._limits()
        if limits:
            sections["limits"] = limits
        websocket = self._websocket()
        if websocket:
            sections["websocket"] = websocket
        url = self._redis()
        if url:
            sections["redis"] = {"url": url}
        return sections

    def _limits(self) -> Document:
        """The section ``limits``, without limits that are not set."""
        take = self._options.take
        limits = {
            "message_bytes": take("websocket.message_size_limit", int, 0),
            "outbox_bytes": take("client.queue_max_size", int, 0),
            "login_seconds": self._options.seconds("client.stale_close_delay"),
        }
        # A 0 means that the limit is not set, or that there is no limit.
        return {name: value for name, value in limits.items() if value}

    def _websocket(self) -> Document:
        """The section ``websocket``: the time between pings, and compression."""
        section: Document = {}
        ping = self._options.seconds("client.ping_interval")
        if ping:
            section["client_ping_seconds"] = ping
        if self._options.take("websocket.compression", bool, False):
            section["deflate"] = True
        return section

    def _listener(self) -> Document:
        """The address at which the clients of Centrifugo connect. Raises
        BadSettings."""
        take = self._options.take
        port = take("http_server.port", (int, str), _DEFAULT_PORT)
        host = take("http_server.address", str, "") or "0.0.0.0"  # as Centrifugo does
        if not str(port).isdecimal():
            raise BadSettings("http_server.port: expected a number")
        return {"port": int(port), "host": host}

    def _redis(self) -> str:
        """The address of Redis, with its credentials.

        Returns ``""`` if the settings name no Redis, or several servers, which
        the operator must write anew. All options of Redis count as translated.
        """
        take = self._options.take
        kind = take("engine.type", str, "memory")
        addresses = take("engine.redis.address", (str, list), [])
        if not isinstance(addresses, list):
            addresses = addresses.split(",")
        db = take("engine.redis.db", int, 0)
        user = take("engine.redis.user", str, "")
        password = take("engine.redis.password", str, "")
        if not self._is_usable_engine(kind, addresses):
            return ""

        address = "127.0.0.1:6379"
        if addresses:
            address = str(addresses[0])
        if "://" in address:
            # Such an address has its own credentials and number of a database.
            return self._without_password(address)
        login = self._redis_login(user, password)
        return f"redis://{login}{address}/{db}"

    def _is_usable_engine(self, kind: str, addresses: list[Any]) -> bool:
        """Whether the engine of Centrifugo is one server of Redis.

        A note tells the operator of another engine. The engine in memory needs
        no note.
        """
        if kind != "redis":
            if kind != "memory":
                self._note("engine.type", "use Redis")
            return False
        if self._has_several_servers(addresses):
            self._note(
                "engine.redis",
                "set redis.url yourself, with redis+sentinel:// or redis+cluster://",
            )
            return False
        return True

    def _has_several_servers(self, addresses: list[Any]) -> bool:
        """Whether the settings name a cluster of Redis, its sentinels, or more
        than one address."""
        has = self._options.has
        return (
            has("engine.redis.cluster_address")
            or has("engine.redis.sentinel_address")
            or len(addresses) > 1
        )

    def _redis_login(self, user: str, password: str) -> str:
        """The credentials in front of an address of Redis, such as
        ``alice:secret@``; ``""`` without a password."""
        if not password:
            return ""
        if not self._with_secrets:
            self._note("engine.redis.password", "it is not shown")
            password = "replace-me"
        return f"{user}:{password}@"

    def _without_password(self, url: str) -> str:
        """A URL of Redis with a placeholder for its credentials, if it has some
        and secrets must not be shown."""
        if "@" not in url or self._with_secrets:
            return url
        scheme, _, login_and_host = url.partition("://")
        self._note("engine.redis.address", "its password is not shown")
        host = login_and_host.rpartition("@")[2]
        return f"{scheme}://replace-me@{host}"

    # --- logins ---------------------------------------------------------------

    def _logins(self) -> None:
        """Translate the rules for logins into settings of the app.

        The rules are the keys that verify tokens, the origins of pages, and
        whether clients without a user are admitted.
        """
        take = self._options.take
        rows = self._tokens("client.token")
        if take("client.subscription_token.enabled", bool, False):
            subscription_rows = self._tokens("client.subscription_token")
            if subscription_rows:
                self._note(
                    "client.subscription_token",
                    "the keys of this section may sign connection tokens, too",
                )
            # This server has one list of keys, for both kinds of tokens.
            rows += [row for row in subscription_rows if row not in rows]
        # An app with keys cannot be open here as well.
        if rows:
            self._app["jwt"] = rows
        self._origins()
        self._anonymous_logins(has_keys=bool(rows))

    def _anonymous_logins(self, has_keys: bool) -> None:
        """Translate whether clients without a user may log in.

        ``has_keys``: whether the app has keys that verify tokens.
        """
        take = self._options.take
        refuses_anonymous = take(
            "client.disallow_anonymous_connection_tokens", bool, False
        )
        if has_keys and not refuses_anonymous:
            self._app["anonymous_tokens"] = True
        option = "client.allow_anonymous_connect_without_token"
        if not take(option, bool, False):
            return
        if has_keys:
            self._note(
                option,
                "an app with keys refuses clients without a token; use a connect back end",
            )
        else:
            self._app["open"] = True

    def _origins(self) -> None:
        """Translate the origins of pages from which browsers may connect.

        Centrifugo takes patterns such as ``https://*.example.com``, this server
        only whole origins or any origin.
        """
        origins = self._options.take("client.allowed_origins", list, [])
        if "*" in origins:
            self._app["origin_policy"] = "any"
            return
        # Now only patterns remain. A note tells the operator of them.
        hosts = [each for each in origins if isinstance(each, str) and "*" not in each]
        if len(hosts) < len(origins):
            self._note(
                "client.allowed_origins",
                "patterns have no equivalent: list each host",
            )
        if hosts:
            self._app["origins"] = hosts

    def _tokens(self, where: str) -> list[Document]:
        """The rows of the setting ``jwt`` for a section with keys of tokens.

        ``where`` is the name of the section, for example ``client.token``.
        """
        take = self._options.take
        rows = self._keys(where)
        if rows:
            self._note(
                where,
                "if your back end signs with 384 or 512 bits, add an entry for that algorithm",
            )
        rows += self._issuer(where)
        # A pattern for issuers cannot be translated: a key belongs to one
        # issuer.
        for name in ("issuer_regex", "audience_regex"):
            if take(f"{where}.{name}", str, ""):
                self._note(f"{where}.{name}", "name one issuer and one audience")
        return rows

    def _keys(self, where: str) -> list[Document]:
        """The rows of ``jwt`` for the secret and the public keys that a section
        contains."""
        take = self._options.take
        rows = list[Document]()
        option = f"{where}.hmac_secret_key"
        secret = take(option, str, "")
        if secret:
            rows.append(self._key_row_of_secret(option, secret))
        for name, algorithm in _PUBLIC_KEYS.items():
            key = take(f"{where}.{name}", str, "")
            if key:
                rows.append({"algorithm": algorithm, "key": key})
        return rows

    def _key_row_of_secret(self, option: str, secret: str) -> Document:
        """The row of ``jwt`` for a secret. A note tells the operator of a
        secret that is too short."""
        # This server refuses short secrets, which can be guessed.
        if len(secret.encode()) < MIN_SECRET_BYTES:
            self._note(option, f"choose one with at least {MIN_SECRET_BYTES} bytes")
        return {"algorithm": "HS256", "key": self._secret(option, secret)}

    def _issuer(self, where: str) -> list[Document]:
        """The row of ``jwt`` for a section whose keys are at an address (JWKS).

        Returns an empty list, after a note, if the section has no such address,
        or if this server cannot use it.
        """
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
        has_fixed_address = "{{" not in jwks
        if not (issuer and audience and has_fixed_address):
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
        """The setting ``channels``: the name of a namespace → its settings.

        Channels without a namespace have the row ``""``.
        """
        take = self._options.take
        plain = Options(take(WITHOUT_NAMESPACE, dict, {}))
        rows = {"": self._namespace_row(WITHOUT_NAMESPACE, plain)}
        namespaces = take("channel.namespaces", list, [])
        for row in rows_of(namespaces, "channel.namespaces"):
            name = str(row.pop("name"))
            if self._is_free_name(name):
                rows[name] = self._namespace_row(f"namespace {name}", Options(row))
        return rows

    def _is_free_name(self, name: str) -> bool:
        """Whether a namespace may have a name. A note tells the operator of a
        name that it may not have.

        Here ``user`` and ``group`` are the namespaces of users and groups, with
        rules of their own.
        """
        if name not in ("user", "group"):
            return True
        why = f"{name}:<id> is the channel of a {name}; rename the namespace"
        self._note(f"namespace {name}", why)
        return False

    def _own_channel(self, rows: Document) -> None:
        """Translate the options of the channels of users, such as ``#alice``.

        In Centrifugo such a channel has the options of a namespace that the
        settings name. Here it has options of its own, so the row of that
        namespace is copied to the row ``user`` of ``rows``.
        """
        take = self._options.take
        where = "client.subscribe_to_user_personal_channel"
        enabled = take(f"{where}.enabled", bool, False)
        namespace = take(f"{where}.personal_channel_namespace", str, "")
        self._app["subscribe_to_own_channel"] = enabled
        if take(f"{where}.single_connection", bool, False):
            self._note(f"{where}.single_connection", "see login_policy of the app")
        # Without the option the channels of users have no options either.
        if not enabled:
            return
        if namespace:
            self._note(
                f"{where}.personal_channel_namespace",
                "the channel of a user is #<user>",
            )

        row = self._row_of_users(where, rows.get(namespace, {}))
        if row:
            rows["user"] = row

    def _row_of_users(self, where: str, namespace_row: Document) -> Document:
        """The row of the channels of users: a copy of the row of a namespace,
        without options that have no meaning there."""
        row = {
            name: value
            for name, value in namespace_row.items()
            if name not in _NOT_FOR_OWN_CHANNEL
        }
        # This server asks no back end about these channels.
        if row.get("publish") == "back_end":
            self._note(
                where,
                "back ends are not asked about publications to the channel of a user",
            )
            del row["publish"]
        return row

    def _namespace_row(self, where: str, options: Options) -> Document:
        """The settings of a namespace.

        Everything that Centrifugo does not allow is forbidden. ``where`` names
        the namespace in notes. Each option that nothing has read in the end
        gets a note, too.
        """
        take = options.take
        permissions = {verb: _permission(options, verb) for verb in _VERBS}
        row = self._access_rules(where, options, permissions)
        if take("allow_user_limited_channels", bool, False):
            row["user_limited"] = True

        row |= self._presence(where, options, permissions["presence"].clients)
        row |= self._history(where, options, permissions["history"].clients)
        # True is the default of this server.
        if not self._admits_anonymous(where, row, permissions):
            row["anonymous"] = False
        self._note_rest(where, options)
        return row

    def _presence(self, where: str, options: Options, readers: str) -> Document:
        """The settings of a namespace about who is subscribed, and about
        notices of clients that come and go. ``readers``: which clients may see
        it."""
        take = options.take
        row: Document = {}
        if take("presence", bool, False):
            row["presence"] = True
            row["read_presence"] = readers
        is_forced = take("force_push_join_leave", bool, False)
        if take("join_leave", bool, False):
            row["join_leave"] = True
            # In Centrifugo a client asks for these notices.
            if not is_forced:
                self._note(
                    f"{where}.join_leave",
                    "all subscribers are notified, not only clients that ask",
                )
        return row

    def _access_rules(
        self, where: str, options: Options, permissions: Mapping[str, _Permission]
    ) -> Document:
        """The settings of a namespace about who may subscribe and publish.

        A back end that decides comes before all other rules.
        """
        row: Document = {"subscribe": "token"}
        if permissions["subscribe"].clients == "anybody":
            row["subscribe"] = "anybody"
        if self._is_decided_by_back_end(where, options, "subscribe"):
            row["subscribe"] = "back_end"
        publishers = permissions["publish"].clients
        if self._is_decided_by_back_end(where, options, "publish"):
            row["publish"] = "back_end"
        elif publishers != "nobody":
            row["publish"] = publishers

        # A back end can renew only subscriptions that it has decided about.
        is_renewed = self._is_decided_by_back_end(where, options, "sub_refresh")
        if is_renewed and row["subscribe"] != "back_end":
            why = "this option needs subscribe: back_end"
            self._note(f"{where}.sub_refresh_proxy_enabled", why)
        return row

    def _admits_anonymous(
        self, where: str, row: Document, permissions: Mapping[str, _Permission]
    ) -> bool:
        """Whether clients without a user may do what other clients may do in a
        namespace.

        Here one setting decides about all verbs. Centrifugo has an option for
        each verb. If these options differ, the result is False. Verbs that need
        a token do not count.
        """
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
        """Note the options of a namespace that nothing has read. They have no
        equivalent on this server."""
        for option, value in options.untaken():
            section = option.partition(".")[0]
            why = NAMESPACE_NO_EQUIVALENT.get(section, "unknown option")
            # All channels here are streams of JSON, so these values need no
            # note.
            if value not in ("stream", "json"):
                self._note(f"{where}.{option}", why)

    def _history(self, where: str, options: Options, readers: str) -> Document:
        """The settings of a namespace about its history.

        They are empty if the namespace has no history. ``readers``: which
        clients may read it (``"anybody"``, ``"subscribers"`` or ``"nobody"``).
        """
        take = options.take
        size = take("history_size", int, 0)
        ttl = options.seconds("history_ttl")
        # "|" and not "or": both options must be read, or a note names the
        # second.
        has_recovery = self._is_forced_or_allowed(options, "recovery")
        has_positions = self._is_forced_or_allowed(options, "positioning")
        deltas = take("allowed_delta_types", list, [])
        # This option is read only so that no note names it. On this server,
        # deltas need only the type.
        take("delta_publish", bool, False)
        mode = take("force_recovery_mode", str, "")

        if not (size > 0 and ttl > 0):
            return {}
        row = {
            "history_size": self._bounded_size(where, size),
            "history_seconds": ttl,
            "read_history": readers,
        }
        if mode == "cache":
            row["recovery_mode"] = mode
        if has_recovery:
            row["recovery"] = True
        elif has_positions:
            why = "clients ask for positions, or have recovery"
            self._note(f"{where}.force_positioning", why)
        if "fossil" in deltas:
            row["delta"] = True
        return row

    def _bounded_size(self, where: str, size: int) -> int:
        """The size of a history, at most the maximum of this server. A note
        tells the operator of a larger size."""
        if size > MAX_HISTORY:
            self._note(f"{where}.history_size", f"the maximum is {MAX_HISTORY}")
        return min(size, MAX_HISTORY)

    @staticmethod
    def _is_forced_or_allowed(options: Options, feature: str) -> bool:
        """Whether a namespace forces or allows a feature of its history. Both
        options are read, so that no note names the other one."""
        is_forced: bool = options.take(f"force_{feature}", bool, False)
        is_allowed: bool = options.take(f"allow_{feature}", bool, False)
        return is_forced or is_allowed

    # --- proxies --------------------------------------------------------------

    def _is_decided_by_back_end(self, where: str, options: Options, call: str) -> bool:
        """Whether the back end decides about one thing in a namespace.

        ``call`` is the thing that the back end decides about, for example
        ``publish``. The address to which Centrifugo sends these questions
        becomes a setting of the app.
        """
        enabled = options.take(f"{call}_proxy_enabled", bool, False)
        name = options.take(f"{call}_proxy_name", str, "default")
        return enabled and self._use_proxy(
            f"{where}.{call}_proxy_enabled", call, f"channel.proxy.{call}", name
        )

    def _use_proxy(
        self, option: str, call: str, default: str, name: str = "default"
    ) -> bool:
        """Send a kind of call to the HTTP address of its proxy.

        A *proxy* of Centrifugo is a back end that it asks. ``name`` is the name
        of a proxy in the list ``proxies``; ``"default"`` means the proxy in the
        option ``default``. Returns False, after a note on ``option``, if the
        proxy has no such address.
        """
        proxy = self._proxy_named(name, default)
        url = str(proxy.get("endpoint", ""))
        if not url:
            self._note(option, "the proxy has no HTTP address")
            return False
        if not url.startswith(("http://", "https://")):
            self._note(option, "gRPC is not supported")
            return False

        # Centrifugo has a proxy for each namespace, and this server one address
        # for each call of the app.
        if self._back_ends.setdefault(call, url) != url:
            self._note(
                option, f"all namespaces have the first address of back_ends.{call}"
            )
        self._add_headers(proxy)
        self._raise_timeout(proxy, option)
        return True

    def _proxy_named(self, name: str, default: str) -> Document:
        """The settings of a proxy in the list ``proxies``, or in the option
        ``default``. The settings are empty if there is no such proxy."""
        if name in ("", "default"):
            proxy: Document = self._options.peek(default, dict, {})
            return proxy
        rows = rows_of(self._options.peek("proxies", list, []), "proxies")
        return next((row for row in rows if row["name"] == name), {})

    def _add_headers(self, proxy: Document) -> None:
        """Add the headers of a proxy to the headers for all back ends."""
        headers = [str(each) for each in proxy.get("http_headers") or ()]
        headers_so_far = self._back_ends.get("headers", [])
        new = [each for each in headers if each not in headers_so_far]
        if new:
            self._back_ends["headers"] = headers_so_far + new

    def _raise_timeout(self, proxy: Document, option: str) -> None:
        """Set how long back ends may take to the longest time of any proxy.

        On this server, the time is the same for all back ends. Raises
        BadSettings.
        """
        timeout = proxy.get("timeout")
        if not timeout:
            return
        given = seconds_of(timeout, f"{option}: timeout")
        seconds = min(max(given, _MIN_BACK_END_SECONDS), _MAX_BACK_END_SECONDS)
        longest = self._back_ends.get("seconds", 0.0)
        self._back_ends["seconds"] = max(seconds, longest)

    def _proxies(self) -> None:
        """Translate the calls to back ends that do not belong to a namespace of
        channels: logins, renewals of sessions, and methods (RPC)."""
        take = self._options.take
        # These calls are about the client itself.
        for call in ("connect", "refresh"):
            where = f"client.proxy.{call}"
            name = take(f"{where}.proxy_name", str, "default")
            if take(f"{where}.enabled", bool, False):
                self._use_proxy(where, call, where, name)

        self._rpc_proxies()
        self._note_back_ends()
        self._options.drop_proxies()

    def _rpc_proxies(self) -> None:
        """Translate the calls of methods, with a namespace and without."""
        take = self._options.take
        self._use_rpc_proxy(
            "rpc.without_namespace", take("rpc.without_namespace", dict, {})
        )
        for row in rows_of(take("rpc.namespaces", list, []), "rpc.namespaces"):
            self._use_rpc_proxy(f"rpc namespace {row['name']}", row)

    def _note_back_ends(self) -> None:
        """Note differences of the back ends that were translated."""
        # Without this prefix all methods would go to the back end.
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

    def _use_rpc_proxy(self, where: str, row: Document) -> None:
        """Send the methods of a namespace of methods to their back end."""
        if row.get("proxy_enabled"):
            name = str(row.get("proxy_name", "default"))
            self._use_proxy(where, "rpc", "rpc.proxy", name)


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
    _print_notes(migration.notes)
    CommandLine.yaml(migration.settings)


def _print_notes(notes: list[str]) -> None:
    """Print notes as comments.

    If the output goes to a file, print the notes on standard error, too,
    because the operator does not see the comments in the file.
    """
    if notes:
        click.echo("# Not the same as in Centrifugo (docs/guides/from-centrifugo.md):")
    for note in notes:
        click.echo(f"# - {note}")
        if not sys.stdout.isatty():
            click.echo(f"imserver: {note}", err=True)


def _document(file: str) -> dict[str, Any]:
    """Read the settings of Centrifugo as JSON, YAML or TOML.

    ``-`` as file means standard input. Ends the command with an error if the
    settings are unreadable.
    """
    text = _text_of(file)
    try:
        if file.endswith(".toml"):
            return tomllib.loads(text)
        # The name of a file need not end in .json, and standard input has no
        # name.
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


def _text_of(file: str) -> str:
    """Read a file, or standard input (``-``). Ends the command with an error if
    it cannot be read."""
    try:
        if file == "-":
            return sys.stdin.read()
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        fail(f"{file} cannot be read: {why}")
