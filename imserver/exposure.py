"""Whether strangers could reach a server on which anybody may push."""

from __future__ import annotations

import ipaddress
import socket

from imserver.config.settings import Config
from imserver.errors import StartError
from imserver.storage.address import database_address


def keys_may_be_kept(config: Config) -> bool:
    """Whether there is a database, in which keys may be; only a node looks into it."""
    place = database_address(config.storage, config.server.data_dir)
    return place.configured or place.exists


def refuse_open_demo(config: Config, closed: bool | None = None) -> None:
    """Raise StartError if strangers could reach a server on which anybody may push.

    ``closed``: whether something that is kept has ended demo mode; None: it is not known yet, and where it
    may be so nothing is refused.
    """
    server = config.server
    if not config.demo or server.insecure or (keys_may_be_kept(config) if closed is None else closed):
        return
    hosts = {"server.host": server.host}
    hosts |= {f"server.extra_listen[{n}].host": row.host for n, row in enumerate(server.extra_listen)}
    for name, host in hosts.items():
        if host and not _is_loopback(host):
            raise StartError(
                f"{name} {host} is beyond loopback and no API key exists, so strangers could push: "
                "make one (imserver key create), set api.keys, or start with --insecure"
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass  # a name
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise StartError(f"server.host {host} cannot be resolved: {error.strerror}") from None
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)
