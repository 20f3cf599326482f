"""``imserver serve --processes N``: a supervisor that forks the nodes of one
machine and restarts them.

It imports everything first, so that the nodes share that memory, and keeps the
listening sockets open, so that no handshake is lost when a node is replaced. It
has no gevent loop.
"""
