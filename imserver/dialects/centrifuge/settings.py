"""The settings of the centrifuge dialect."""

from __future__ import annotations

from msgspec import Struct

from imserver.config.settings import DEFAULT_APP, AppName


class CentrifugeSettings(Struct, frozen=True):
    """Section ``centrifuge``: clients of Centrifugo.

    ``app``: their app on ``/connection/websocket``, and of API requests with a key for all apps.
    """

    app: AppName = DEFAULT_APP
