"""Load tools: what this server (or any other of the cmd dialect) costs, measured from outside.

The command line (:mod:`.cli`) starts generator processes (:mod:`.worker`) that speak raw non-blocking
sockets, so a figure never depends on the code of the server under test. Nothing here imports another part of
imserver.
"""
