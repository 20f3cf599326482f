"""Centrifugo's protocol with its streams, and its server API. Clients and
libraries of Centrifugo use them unchanged."""

from imserver.dialects.centrifuge import api, streams
from imserver.dialects.centrifuge.declared import SETTINGS
from imserver.dialects.centrifuge.service import (
    NAME,
    CentrifugeAnswers,
    CentrifugeService,
)
from imserver.dialects.centrifuge.streams import CentrifugeStreams, Emulation
from imserver.dialects.centrifuge.wire import (
    CentrifugeDialect,
    CentrifugeProtobufDialect,
)
from imserver.plugin import CommandOf, FeatureRow, Parts
from imserver.plugin.services import Core


def _build(core: Core) -> Parts:
    """Make the services of the dialect for one node.

    On a node without stored messages there is no ``messaging``.
    """
    messaging = None
    if "messages" in core.features:
        # This module imports the messenger.
        from imserver.plugin.messages import MessageServices

        messaging = core.service(MessageServices).messaging
    answers = CentrifugeAnswers(core)
    service = CentrifugeService(core, answers, messaging)
    return Parts(
        services=(Emulation(core), answers),
        commands=service.commands(),
        opened={NAME: service.opened},
        checks={NAME: service.check_ends},
        streams=CentrifugeStreams(core, service).paths,
    )


FEATURE = FeatureRow(
    NAME,
    _build,
    (CentrifugeDialect(), CentrifugeProtobufDialect()),
    (*api.ROUTES, *streams.ROUTES),
    uses=("messages?",),
    settings=SETTINGS,
    commands=(
        CommandOf(
            "from-centrifugo",
            "imserver.dialects.centrifuge.migration:from_centrifugo",
            "Print the settings that correspond to those of Centrifugo.",
        ),
    ),
)
