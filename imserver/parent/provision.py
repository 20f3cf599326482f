"""The settings of each child, made from those of the parent."""

from typing import Any, Final

import msgspec

from imserver.cluster.address import node_name, own_address
from imserver.config import Config
from imserver.errors import StartError
from imserver.parent.listening import resolve

_PORTS_PER_NODE: Final = 2
_LAST_PORT: Final = 65535
#: What the parent has made for all its life, or what it and its children must agree on.
_FIXED: Final = {
    "app": ("log_file", "http_port", "websocket_port", "rpc_port"),
    "server": ("host", "reuse_port", "extra_listen", "data_dir", "secret_file", "backlog", "processes"),
    "redis": ("url", "addr", "db"),
    "cluster": ("advertise", "bind"),
}


def check(config: Config) -> None:
    """Raise StartError if the private ports of several nodes do not fit between the others."""
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


def located(config: Config) -> Config:
    """The same with addresses found out: those to listen on, and the one that names the nodes."""
    extra = [
        msgspec.structs.replace(row, host=row.host and resolve(row.host))
        for row in config.server.extra_listen
    ]
    return _replaced(
        config,
        server={"host": resolve(config.server.host), "extra_listen": tuple(extra)},
        cluster={"advertise": config.cluster.advertise or own_address()},
    )


def of_slot(config: Config, number: int) -> Config:
    """The settings of the child in a slot: two private ports each, of which the first names the node."""
    return msgspec.structs.replace(
        _replaced(config, app={"rpc_port": config.app.rpc_port + _PORTS_PER_NODE * number}),
        warnings=(),  # the parent has said them
    )


def name_of(config: Config) -> str:
    """The id of the node with these settings: what others call it."""
    return node_name(config.cluster.advertise, config.app.rpc_port)


def reread(config: Config, given: Config, used: Config) -> tuple[Config, list[str]]:
    """Settings read again without those that only a restart of the parent can change; the names of these.

    ``given`` are the settings as they were read at the start, ``used`` those that the parent made of them.
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
