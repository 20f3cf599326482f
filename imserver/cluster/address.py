"""The address of this machine that other nodes are told."""

from __future__ import annotations

import socket


def own_address() -> str:
    """The first address of this machine that is not loopback, else 127.0.0.1.

    Asks the routing table by connecting a datagram socket, which sends nothing.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
            address: str = sock.getsockname()[0]
        except OSError:
            return "127.0.0.1"
    return address


def node_name(advertise: str, rpc_port: int) -> str:
    """The id of a node: the address at which others reach it (found out unless ``advertise`` says), and port."""
    return f"{advertise or own_address()}:{rpc_port}"
