"""TLS of a connection to Redis. It is a separate module, so that nodes without
TLS do not load ``ssl``."""

import ssl
from errno import ECONNRESET
from typing import Any, Final

from imserver.gateway.cluster.redis.connection import DirectSocket

_CHECKS: Final = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}
_RECORD_BYTES: Final = 65536
"""How many bytes are read at once."""


def context_of(options: dict[str, Any]) -> ssl.SSLContext:
    """Return the TLS context for the options of an address.

    This loads the files that the options name. Raises OSError and ValueError.
    """
    context = ssl.create_default_context()
    checks = options.get("ssl_cert_reqs", "required")
    checks_name = options.get("ssl_check_hostname", True)
    # This comes first, because Python refuses to skip the check of certificates
    # as long as names are checked.
    context.check_hostname = checks != "none" and checks_name
    context.verify_mode = _CHECKS[checks]

    _load_files(context, options)
    if "ssl_min_version" in options:
        context.minimum_version = options["ssl_min_version"]
    if "ssl_ciphers" in options:
        context.set_ciphers(options["ssl_ciphers"])
    return context


def _load_files(context: ssl.SSLContext, options: dict[str, Any]) -> None:
    """Load the certificate of this node, and the authorities that it trusts.

    Raises OSError and ValueError.
    """
    certificate = options.get("ssl_certfile")
    if certificate:
        key = options.get("ssl_keyfile")
        context.load_cert_chain(certificate, key, options.get("ssl_password"))
    # If the options name no authorities, the authorities of the system are
    # trusted.
    authorities = [options.get(f"ssl_ca_{name}") for name in ("certs", "path", "data")]
    if any(authorities):
        context.load_verify_locations(*authorities)


class TlsSocket(DirectSocket):
    """A connected socket that encrypts.

    The state of its TLS does no I/O, so callbacks of the loop may also encrypt
    and decrypt. Owner of that state.
    """

    def __init__(self, plain: DirectSocket, context: ssl.SSLContext, host: str) -> None:
        """Take over the socket ``plain``, which must not be used any more.
        ``host`` is the name in the certificate of the server."""
        # The new object takes the descriptor over.
        seconds = plain.gettimeout()
        super().__init__(plain.family, plain.type, plain.proto, plain.detach())
        self.settimeout(seconds)
        self._received = ssl.MemoryBIO()
        self._to_send = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._received, self._to_send, server_hostname=host
        )

    def shake_hands(self) -> None:
        """Agree on keys, and check the certificate of the server.

        Switches greenlets. Raises OSError.
        """
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                pass  # the server must answer first
            finally:
                # After an error, the data is an alert, which tells the server
                # the error.
                super().sendall(self._to_send.read())
            data = super().recv(_RECORD_BYTES)
            if not data:
                raise ConnectionResetError(ECONNRESET, "Connection closed by server")
            self._received.write(data)

    def encrypted(self, data: bytes) -> bytes:
        """Return the bytes to send for ``data``."""
        self._tls.write(data)
        return self._to_send.read()

    def decrypted(self, data: bytes) -> bytes:
        """Decrypt ``data``, which the server has sent.

        Returns ``b""`` while no whole record has arrived. Raises OSError.
        """
        self._received.write(data)
        parts = []
        try:
            while part := self._tls.read(_RECORD_BYTES):
                parts.append(part)
        except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            # All data was decrypted. The second error means the end of the
            # stream.
            pass
        return b"".join(parts)

    def sendall(self, data: bytes, flags: int = 0) -> None:  # type: ignore[override]
        """Send all bytes. Switches greenlets if the kernel does not accept them
        at once."""
        super().sendall(self.encrypted(data), flags)

    def recv(self, size: int) -> bytes:  # type: ignore[override]
        """Receive bytes of the server, decrypted. Returns ``b""`` when the
        server has closed the connection. Switches greenlets."""
        # A part of a record cannot be decrypted yet, so the result is empty.
        while data := super().recv(size):
            plain = self.decrypted(data)
            if plain:
                return plain
        return b""
