"""Centrifugo's protocol with its streams, and its server API, for the clients and libraries of Centrifugo."""

from __future__ import annotations

from imserver.dialects.centrifuge import api, streams
from imserver.dialects.centrifuge.emulation import Emulation
from imserver.dialects.centrifuge.service import NAME, CentrifugeAnswers, CentrifugeService
from imserver.dialects.centrifuge.settings import CentrifugeOfApp, CentrifugeSettings
from imserver.dialects.centrifuge.streams import FallbackStreams
from imserver.dialects.centrifuge.uni import UniStreams
from imserver.dialects.centrifuge.wire import CentrifugeDialect, CentrifugeProtobufDialect
from imserver.plugin import Feature, FeatureParts
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of


def _build(core: Core) -> FeatureParts:
    settings = settings_of(core.config, CentrifugeSettings)
    answers = CentrifugeAnswers(core.back_ends)
    core.channel_commands.answers[NAME] = answers
    service = CentrifugeService(
        core.sessions,
        core.logins,
        core.channels,
        core.channel_commands,
        core.channel_consent,
        answers,
        core.back_ends,
        core.connections,
        core.queries,
        core.messaging.catch_up,
        core.tenants.get,
        settings.app,
        core.config.websocket.client_ping_seconds,
        core.dispatcher.run,
    )
    limit = core.config.limits.message_bytes
    both_ways = FallbackStreams(core.request_log, service, limit)
    one_way = UniStreams(core.request_log, service, limit)
    return FeatureParts(
        Emulation(core.table, core.queries, core.others),
        service.rows(),
        {NAME: service.opened},
        checks={NAME: service.check_ends},
        streams=lambda serve: {**both_ways.paths(serve), **one_way.paths()},
    )


FEATURE = Feature(
    NAME,
    _build,
    (CentrifugeDialect(), CentrifugeProtobufDialect()),
    (*api.ROUTES, *streams.ROUTES),
    settings=CentrifugeSettings,
    commands={
        "from-centrifugo": (
            "imserver.dialects.centrifuge.command",
            "from_centrifugo",
            "Print the settings that correspond to those of Centrifugo.",
        )
    },
    app_settings=CentrifugeOfApp,
)
