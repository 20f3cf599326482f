"""``imserver serve --processes N``: a supervisor that forks the nodes of one
machine and restarts them.

The supervisor imports everything first, so that the nodes share that memory. It
keeps the listening sockets open, so that no handshake is lost when a node is
replaced. It has no gevent loop.
"""
