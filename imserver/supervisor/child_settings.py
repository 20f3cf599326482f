"""Derive the settings of each child from those of the supervisor."""

from typing import Any, Final

import msgspec

from imserver.cluster.registry import node_name, own_address
from imserver.config.settings import Config
from imserver.errors import StartError
from imserver.supervisor.listening import resolve

_PORTS_PER_NODE: Final = 2
_LAST_PORT: Final = 65535
#: Settings that the supervisor has already applied, or on which all processes must agree.
_FIXED: Final = {
    "app": ("log_file", "http_port", "websocket_port", "rpc_port"),
    "server": ("host", "reuse_port", "extra_listen", "data_dir", "secret_file", "backlog", "processes"),
    "redis": ("url", "addr", "db"),
    "cluster": ("advertise", "bind"),
}


def check(config: Config) -> None:
    """Check that the RPC ports of all nodes fit between the other ports. Raises StartError."""
    first, count = config.app.rpc_port, config.server.processes
    last = first + _PORTS_PER_NODE * count - 1
    if count == 1:
        return
    if first == 0:
        raise StartError(f"app.rpc_port 0: {count} nodes need a port of their own each, which names them")
    if last > _LAST_PORT:
        raise StartError(f"app.rpc_port {first}: {count} nodes need the ports up to {last}")
    ports = {"app.http_port": config.app.http_port, "app.websocket_port": config.app.websocket_port}
    ports |= {f"server.extra_listen[{n}]": row.port for n, row in enumerate(config.server.extra_listen)}
    for name, port in ports.items():
        if first <= port <= last:
            raise StartError(
                f"app.rpc_port {first}: {count} nodes need the ports up to {last}, and {name} is {port}"
            )


def resolve_addresses(config: Config) -> Config:
    """Resolve the listen addresses and the advertised address once, for all nodes."""
    extra = [
        msgspec.structs.replace(row, host=row.host and resolve(row.host))
        for row in config.server.extra_listen
    ]
    return _replaced(
        config,
        server={"host": resolve(config.server.host), "extra_listen": tuple(extra)},
        cluster={"advertise": config.cluster.advertise or own_address()},
    )


def for_child(config: Config, number: int) -> Config:
    """Settings of child ``number``: each has two RPC ports, the first one is part of its node id."""
    return msgspec.structs.replace(
        _replaced(config, app={"rpc_port": config.app.rpc_port + _PORTS_PER_NODE * number}),
        warnings=(),  # the supervisor has logged them
    )


def name_of(config: Config) -> str:
    """The node id for these settings."""
    return node_name(config.cluster.advertise, config.app.rpc_port)


def apply_reload(config: Config, given: Config, used: Config) -> tuple[Config, list[str]]:
    """Reloaded settings without those that only a full restart can change; and the names of these.

    ``given`` are the settings as read at the start, ``used`` those after :func:`resolve_addresses`.
    """
    changed: list[str] = []
    kept: dict[str, dict[str, Any]] = {}
    for section, keys in _FIXED.items():
        old, new = getattr(given, section), getattr(config, section)
        kept[section] = {key: getattr(getattr(used, section), key) for key in keys}
        changed += [f"{section}.{key}" for key in keys if getattr(old, key) != getattr(new, key)]
    return _replaced(config, **kept), changed


def _replaced(config: Config, **sections: dict[str, Any]) -> Config:
    parts = {name: msgspec.structs.replace(getattr(config, name), **keys) for name, keys in sections.items()}
    return msgspec.structs.replace(config, **parts)
