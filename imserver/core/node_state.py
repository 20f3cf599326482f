"""What a node is: its ports, its data folder, its counters, and whether it serves."""

from __future__ import annotations

from time import time
from typing import Final

from msgspec import Struct

from imserver import __version__
from imserver.config.settings import Config
from imserver.logging import RequestLog
from imserver.metrics import Metrics
from imserver.process import DataDirectory, derive_key


class NodeState:
    """Owner of what changes about a node as a whole.

    Features read ``version``, ``started_at`` (Unix seconds), ``http_port`` and ``ws_port``. They log requests
    that they answer themselves with ``request_log``. They append structs of numbers to ``counters``, which
    the state of the node shows.
    """

    def __init__(self, config: Config, request_log: RequestLog) -> None:
        self.request_log = request_log
        self.version: Final = __version__
        self.started_at = time()
        self.metrics = Metrics()
        self.data = DataDirectory(config.server.data_dir, shared=config.clustered)
        self.counters: list[Struct] = []
        """Numbers of features since the start, for its state."""
        self.serving = False
        """True from the end of the start to the beginning of the drain."""
        self.draining = False
        self.max_connections = 0
        """As many as this process may open files for."""
        self.chat_page = ""
        """Address of this server's own page for chats, which a feature sets; ``""``: it has none."""
        self.http_port = config.app.http_port
        self.ws_port = config.app.websocket_port
        self._secret_file = config.server.secret_file
        self._secret = b""

    def start(self) -> bytes:
        """Take the data folder. Returns the common secret of all nodes. Raises StartError."""
        self.data.start()
        self._secret = self.data.secret(self._secret_file)
        return self._secret

    def key_for(self, purpose: str) -> bytes:
        """A key for one purpose, which all nodes derive from their common secret."""
        return derive_key(self._secret, purpose)
