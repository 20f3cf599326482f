"""The address of this machine that other nodes are told."""

from __future__ import annotations

import _socket


def own_address() -> str:
    """The first address of this machine that is not loopback, else 127.0.0.1.

    Asks the routing table by connecting a datagram socket, which sends nothing. A raw one: the process that
    forks the nodes asks too, and a patched socket would make a loop in it.
    """
    sock = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
    try:
        sock.connect(("192.0.2.1", 9))
        address: str = sock.getsockname()[0]
    except OSError:
        return "127.0.0.1"
    finally:
        sock.close()
    return address


def node_name(advertise: str, rpc_port: int) -> str:
    """The id of a node: the address at which others reach it, unless ``advertise`` says it, and its port."""
    return f"{advertise or own_address()}:{rpc_port}"
