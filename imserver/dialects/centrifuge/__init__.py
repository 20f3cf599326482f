"""Centrifugo's protocol with its streams, and its server API, for the clients and libraries of Centrifugo."""

from __future__ import annotations

from typing import TYPE_CHECKING

from imserver.dialects.centrifuge import api, streams
from imserver.dialects.centrifuge.declared import SETTINGS
from imserver.dialects.centrifuge.emulation import Emulation
from imserver.dialects.centrifuge.service import NAME, CentrifugeAnswers, CentrifugeService
from imserver.dialects.centrifuge.streams import FallbackStreams
from imserver.dialects.centrifuge.uni import UniStreams
from imserver.dialects.centrifuge.wire import CentrifugeDialect, CentrifugeProtobufDialect
from imserver.plugin import DialectParts, Feature, FeatureParts
from imserver.plugin.services import Core

if TYPE_CHECKING:
    from imserver.plugin.messages import Messaging


def _build(core: Core) -> FeatureParts:
    answers = CentrifugeAnswers(core.identity.back_ends)
    core.channels.commands.answers[NAME] = answers
    service = CentrifugeService(core, answers, _messaging(core))
    both_ways, one_way = FallbackStreams(core, service), UniStreams(core, service)
    return FeatureParts(
        Emulation(core.sessions, core.cluster),
        service.rows(),
        {NAME: DialectParts(service.opened, service.check_ends)},
        streams=lambda serve: {**both_ways.paths(serve), **one_way.paths()},
    )


def _messaging(core: Core) -> Messaging | None:
    if "messages" not in core.features:
        return None
    from imserver.plugin.messages import MessageServices  # imports the messenger

    return core.service(MessageServices).messaging


FEATURE = Feature(
    NAME,
    _build,
    (CentrifugeDialect(), CentrifugeProtobufDialect()),
    (*api.ROUTES, *streams.ROUTES),
    uses=("messages?",),
    settings=SETTINGS,
    commands={
        "from-centrifugo": (
            "imserver.dialects.centrifuge.command",
            "from_centrifugo",
            "Print the settings that correspond to those of Centrifugo.",
        )
    },
)
