"""``check-config --production``: settings that a careful operator changes
before strangers reach the server."""

import ipaddress
import stat
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from msgspec import Struct

from imserver.gateway.cluster.redis.connection import RedisAddress, address_of
from imserver.gateway.config.declared import marked
from imserver.gateway.config.settings import (
    Config,
    Finding,
    ServerSettings,
    TenantSettings,
)
from imserver.gateway.config.values import Locations, short_sign_key
from imserver.gateway.node.feature_list import load_features
from imserver.gateway.storage.address import database_address
from imserver.gateway.transport.proxies import is_here
from imserver.plugin.settings import on_several_machines

WIDE_PREFIX: Final = {4: 24, 6: 64}
"""IP version → prefix length below which a trusted network is reported."""
_DAY_SECONDS: Final = 86_400


class Deployment(Struct, frozen=True):
    """The input of the check.

    ``file``: the path of the settings; ``""`` if there is no file. ``keyed``:
    an API key exists or has existed in the database. ``apps``: all apps by
    name, also the ones that were created at run time.
    """

    config: Config
    file: str = ""
    keyed: bool = False
    apps: Mapping[str, TenantSettings] = {}

    @property
    def demo(self) -> bool:
        """Whether the server is in demo mode: anybody may do everything."""
        return (
            self.config.demo
            and not self.keyed
            and not any(app.ends_demo for app in self.apps.values())
        )


def access(deployment: Deployment) -> Iterator[Finding]:
    """Find settings with which strangers can log in or push.

    Each finding names a setting, and says why and how to change it.
    """
    if deployment.demo:
        yield (
            "api.keys",
            "demo mode: anybody may log in and push; make a key with 'imserver key create push'",
        )
    # A short key can be guessed, and then anybody makes tokens.
    weak = short_sign_key(deployment.config)
    if weak:
        yield "jwt.sign_key", weak
    if deployment.config.server.insecure:
        yield (
            "server.insecure",
            "demo mode is allowed on addresses other than loopback; set this to false",
        )
    for name, app in deployment.apps.items():
        if app.open:
            why = (
                "anybody may log in as any user; set this to false, and set jwt, authorise_url "
                "or account_tokens"
            )
            yield f"apps.{name}.open", why


def encryption(deployment: Deployment) -> Iterator[Finding]:
    """Find connections of clients that are not encrypted.

    The settings of the server and its proxies tell, so a proxy that is not in
    them is not known.
    """
    server = deployment.config.server
    proxies = [
        ipaddress.ip_network(each, strict=False) for each in server.trusted_proxies
    ]
    reachable = _reachable_hosts(server)
    if reachable and all(network.is_loopback for network in proxies):
        # A proxy on this machine needs no address that others can reach.
        why = f"{reachable[0]} accepts unencrypted connections, and no proxy on another machine is trusted; "
        mend = "put a proxy with TLS in front and list its address here, or set server.host to 127.0.0.1"
        yield "server.trusted_proxies", why + mend
    if not proxies:
        yield (
            "server.trusted_proxies",
            "no proxy is trusted, so limits by address see only the address of the proxy",
        )
    if server.public_ws_url.startswith("ws://"):
        yield (
            "server.public_ws_url",
            "clients are sent to an unencrypted address; use wss://",
        )


def wide_networks(deployment: Deployment) -> Iterator[Finding]:
    """Find trusted networks with many machines.

    A network may be trusted to name the addresses of clients, or to push.
    """
    for network in _wide(deployment.config.server.trusted_proxies):
        why = f"every machine in {network} may claim any client address; name individual proxies"
        yield "server.trusted_proxies", why
    for name, app in deployment.apps.items():
        # Programs of this machine are strangers here, if other people use it.
        for network in _wide(app.api_allow_from, loopback=False):
            why = f"every machine in {network} may push without a key; name individual back ends"
            yield f"apps.{name}.api_allow_from", why


def any_origin(deployment: Deployment) -> Iterator[Finding]:
    """Find origin policies with which every web page may connect."""
    policies = {"server": deployment.config.server.origin_policy}
    policies |= {
        f"apps.{name}": app.origin_policy for name, app in deployment.apps.items()
    }
    for where, policy in policies.items():
        if policy == "any":
            yield (
                f"{where}.origin_policy",
                "pages of every site may connect; set same_host and list origins",
            )


def limits(deployment: Deployment) -> Iterator[Finding]:
    """Find limits that are off or unusually high.

    Without limits, a single client can take all of the server's time.
    """
    seconds = deployment.config.api.page_token_seconds
    limits = deployment.config.limits
    if seconds > _DAY_SECONDS:
        yield (
            "api.page_token_seconds",
            f"page tokens are valid for {seconds:g} seconds; an hour is usual",
        )
    # These limits protect from a single client or key.
    unlimited = {
        "limits.max_connections_per_address": limits.max_connections_per_address,
        "limits.messages_per_second": limits.messages_per_second,
        "limits.login_seconds": limits.login_seconds,
        "api.requests_per_second": deployment.config.api.requests_per_second,
    }
    for setting, limit in unlimited.items():
        if not limit:
            yield setting, "0 means no limit; set a limit"


def readable_files(deployment: Deployment) -> Iterator[Finding]:
    """Find secret files that every user of this machine may read."""
    for setting, file in _secret_files(deployment).items():
        if file and _world_readable(Path(file)):
            yield (
                setting,
                f"{file} is readable by every user of this machine; run: chmod o-rwx {file}",
            )


def _reachable_hosts(server: ServerSettings) -> list[str]:
    """Return the hosts on which other machines reach the server."""
    hosts = [server.host, *(row.host for row in server.extra_listen if row.host)]
    return [host for host in hosts if not is_here(host)]


def _secret_files(deployment: Deployment) -> dict[str, str]:
    """Return setting → the secret file or folder that it names, or ``""``.

    These are the data folder, secrets, the database, private keys, and often
    the settings themselves.
    """
    config = deployment.config
    files = {
        "server.data_dir": config.server.data_dir,
        "server.secret_file": config.server.secret_file,
    }
    if _has_secrets(config):
        files["configuration file"] = deployment.file
    database = database_address(config.storage, config.server.data_dir).file
    if config.storage.url and database is not None:
        files["storage.url"] = str(database)
    for name, app in deployment.apps.items():
        for setting, file in _secret_files_of_app(app):
            files[f"apps.{name}.{setting}"] = file
    return files


def _has_secrets(config: Config) -> bool:
    """Whether the file of the settings has a secret itself.

    It may be a password in a URL.
    """
    urls = config.storage.url + config.redis.url
    return "@" in urls or any(marked(config, "secret"))


def _secret_files_of_app(app: TenantSettings) -> Iterator[tuple[str, str]]:
    """Yield (setting, file) of the private keys that an app names."""
    # All algorithms except HS256 have public keys.
    public = {
        f"jwt[{number}].key_file"
        for number, row in enumerate(app.jwt)
        if row.algorithm != "HS256"
    }
    for setting, file in marked(app, "file"):
        if setting not in public:
            yield setting, file


def cluster(deployment: Deployment) -> Iterator[Finding]:
    """Find settings with which several nodes do not work together.

    Also find a port for other nodes that strangers may reach.
    """
    config = deployment.config
    if on_several_machines(config):
        yield from _missing_on_several_machines(config)
    # All nodes trust the Redis, and the port of other nodes.
    if config.clustered:
        yield from _redis(address_of(config.redis))
    bind = config.cluster.bind or config.cluster.advertise
    if config.clustered and bind and not _is_private(bind):
        why = f"the port for other nodes listens on {bind}; use an address of a private network"
        yield "cluster.bind", why


def _redis(address: RedisAddress) -> Iterator[Finding]:
    """Find settings that do not protect the link to a remote Redis.

    On the network, others could read and change what nodes tell each other.
    """
    if address.is_local:
        return
    if not address.options.get("password"):
        yield (
            "redis.password",
            "Redis is on another machine and has no password; set a password",
        )
    if not address.tls:
        yield (
            "redis.url",
            "Redis is on another machine and its connection is not encrypted; use rediss://",
        )
        return
    # TLS alone does not prove that the other end is this Redis.
    checks = address.options.get("ssl_cert_reqs", "required")
    if checks != "required":
        why = (
            f"with ssl_cert_reqs={checks} anybody on the network path can pretend to be "
            "Redis; remove this parameter"
        )
        yield "redis.url", why
    elif not address.options.get("ssl_check_hostname", True):
        why = "with ssl_check_hostname=false another server can pretend to be Redis; remove this parameter"
        yield "redis.url", why


def _missing_on_several_machines(config: Config) -> Iterator[Finding]:
    """Find what nodes on several machines lack: a database or a secret."""
    if database_address(config.storage, config.server.data_dir).engine == "sqlite":
        yield (
            "storage.url",
            "nodes on several machines cannot share SQLite; use PostgreSQL or MySQL",
        )
    if not config.server.secret_file:
        yield (
            "server.secret_file",
            "nodes on several machines need the same secret; name a file with it",
        )


def database(deployment: Deployment) -> Iterator[Finding]:
    """Find settings that do not protect the link to a remote database.

    A database on this machine needs no protection on the network.
    """
    address = database_address(
        deployment.config.storage, deployment.config.server.data_dir
    )
    if address.engine == "sqlite":
        return
    url = urlsplit(address.url)
    options = dict(parse_qsl(url.query))
    # The host may be in the URL itself, or in its parameters.
    hosts = (url.hostname or options.get("host", ""), options.get("unix_socket", ""))
    if not all(_is_on_this_machine(host) for host in hosts):
        yield from _lacks_of_remote(address.engine, options)


def _lacks_of_remote(engine: str, options: Mapping[str, str]) -> Iterator[Finding]:
    """Find a link to a remote database without verified encryption.

    ``options``: the parameters of the database's URL.
    """
    if engine == "postgresql" and options.get("sslmode") != "verify-full":
        why = "the connection to PostgreSQL on another machine may be unencrypted, or lead to another server; "
        yield "storage.url", why + "add ?sslmode=verify-full"
    if engine == "mysql" and not options.get("ssl_ca"):
        why = "the connection to the database on another machine is not encrypted, or leads to another server; "
        yield "storage.url", why + "add ?ssl_ca=/path/ca.pem"


def _is_on_this_machine(host: str) -> bool:
    """Whether a host of a URL is this machine.

    ``host``: an address, the path of a socket, or ``""``, with which the driver
    connects to this machine.
    """
    return not host or host.startswith("/") or is_here(host)


def webhooks(deployment: Deployment) -> Iterator[Finding]:
    """Find addresses that get data of users without encryption.

    Addresses on this machine are left out.
    """
    for name, app in deployment.apps.items():
        for key, text in marked(app, "url"):
            # On this machine nobody else can read the data.
            url = urlsplit(text)
            if url.scheme == "http" and not is_here(url.hostname or ""):
                yield (
                    f"apps.{name}.{key}",
                    "users' data is sent unencrypted; use https://",
                )


def debugging(deployment: Deployment) -> Iterator[Finding]:
    """Find a path for tests that anybody may use."""
    if deployment.config.debug.echo_path:
        yield (
            "debug.echo_path",
            "anybody may open echo connections; leave this setting empty",
        )


def features(deployment: Deployment) -> Iterator[Finding]:
    """Let features check their settings."""
    for feature in load_features(deployment.config):
        yield from (
            feature.settings.check(deployment.config, Locations(deployment.file)) or ()
        )


CHECKS: Final[tuple[Callable[[Deployment], Iterator[Finding]], ...]] = (
    access,
    encryption,
    wide_networks,
    any_origin,
    limits,
    readable_files,
    cluster,
    database,
    webhooks,
    debugging,
    features,
)


def findings(deployment: Deployment) -> list[Finding]:
    """Return all open risks, in the order of :data:`CHECKS`."""
    return list(chain.from_iterable(check(deployment) for check in CHECKS))


def _is_private(host: str) -> bool:
    """Whether an address belongs to a private network. A name counts as private."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return True  # a name, which is not looked up
    return address.is_private and not address.is_unspecified


def _wide(networks: tuple[str, ...], *, loopback: bool = True) -> Iterator[str]:
    """Yield the networks with too many machines.

    ``loopback``: leave out networks of loopback addresses.
    """
    for text in networks:
        network = ipaddress.ip_network(text, strict=False)
        if loopback and network.is_loopback:
            continue
        if network.prefixlen < WIDE_PREFIX[network.version]:
            yield text


def _world_readable(path: Path) -> bool:
    """Whether every user of this machine may read or change a file."""
    try:
        return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
    except OSError:
        # If it does not exist, the start of the server makes it with mode 0700,
        # or reports an error.
        return False
