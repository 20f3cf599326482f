"""What is counted for an hour or a day outlasts a restart of a node without Redis."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable
from hashlib import blake2b
from typing import Final

import gevent

from imserver.core.services import NodeState
from imserver.process import open_private, write_all

_EVERY_SECONDS: Final = 60
"""A node that is killed forgets what was counted since."""

log = logging.getLogger(__name__)


class LastingRates:
    """Owner of the file ``rates`` in the data folder. It names nobody: payers are digests, whose key is made
    of the secret of the server."""

    def __init__(self, node: NodeState) -> None:
        self._buckets = node.buckets
        self._node = node
        self._file = node.data.path / "rates"

    def start(self) -> None:
        """Read the file. What cannot be read counts for nothing."""
        try:
            self._buckets.restore(self._file.read_bytes(), self._digest)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            log.warning("%s is not read, so rates begin anew: %s", self._file, error)

    def run(self) -> None:
        """Write the file now and then."""
        while True:
            gevent.sleep(_EVERY_SECONDS)
            self.write()

    def write(self) -> None:
        """Write the file. Switches."""
        content = self._buckets.state(self._digest)
        new = self._file.with_name("rates.new")
        try:
            descriptor = open_private(new)
            try:
                os.ftruncate(descriptor, 0)
                write_all(descriptor, content)
            finally:
                os.close(descriptor)
            os.replace(new, self._file)
        except OSError as error:
            log.warning("%s cannot be written, so a restart forgets rates: %s", self._file, error)

    def _digest(self, payer: Hashable) -> bytes:
        return blake2b(repr(payer).encode(), digest_size=16, key=self._node.key_for("rates")[:64]).digest()
