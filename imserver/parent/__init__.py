"""``imserver serve --processes N``: a parent that forks the nodes of one machine and watches over them.

The parent imports everything, so that the children share that memory; makes the listening sockets and keeps
them, so that no handshake is lost when a child is replaced; and waits. It has no loop: what runs in gevent
when it forks would run in the child too.
"""

from imserver.parent.parent import run
from imserver.parent.provision import check

__all__ = ["check", "run"]
