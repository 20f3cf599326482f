"""Page tokens: what the server's own pages give their visitors."""

from __future__ import annotations

import math
from typing import Final

from itsdangerous import BadSignature, URLSafeTimedSerializer

from imserver.config.settings import Config
from imserver.process import Secret

PAGE_TOKEN_PREFIX: Final = "page."


class PageTokens:
    """Makes and reads page tokens, for the visitors of the server's own pages.

    A page token is ``page.`` and a signed text, which names an app and a user. It is valid for
    ``api.page_token_seconds`` and signed with a key derived from the node's secret. A page uses it to log in,
    list the app's users and send to all of them.
    """

    def __init__(self, config: Config, secret: Secret) -> None:
        # The library signs with the last key, and verifies with each.
        keys = [*reversed(secret.keys("page tokens"))]
        self._signer = URLSafeTimedSerializer(keys, salt="page")
        self.reload(config)

    def reload(self, config: Config) -> None:
        """Take the lifetime of tokens from ``config``."""
        self._seconds = math.ceil(config.api.page_token_seconds)

    def make(self, app: str, user: str) -> str:
        """Make a token for the page of ``user`` in ``app``."""
        signed = self._signer.dumps([app, user])
        return PAGE_TOKEN_PREFIX + (signed if isinstance(signed, str) else signed.decode())

    def read(self, token: str) -> tuple[str, str] | None:
        """Return (app, user) of a valid page token, else None."""
        if not token.startswith(PAGE_TOKEN_PREFIX):
            return None
        try:
            app, user = self._signer.loads(token[len(PAGE_TOKEN_PREFIX) :], max_age=self._seconds)
        except BadSignature:
            return None
        return app, user

    def fits(self, app: str, user: str, token: str) -> bool:
        """Whether an open app accepts a login of ``user`` with this token.

        A page token must name exactly this app and user. Any other token is ignored, as the originals do.
        """
        return not token.startswith(PAGE_TOKEN_PREFIX) or self.read(token) == (app, user)
