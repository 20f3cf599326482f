"""Load tools: measure the costs of this server, or of another server of the cmd
dialect, from outside.

The command line (:mod:`.cli`) starts generator processes (:mod:`.worker`) with
raw non-blocking sockets, so a figure never depends on the code of the server
under test. Of imserver, only the messages of the protobuf dialect are imported.
"""
