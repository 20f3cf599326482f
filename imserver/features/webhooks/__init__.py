"""Webhooks: the back ends of apps hear what happens, review messages, and decide about clients."""

from imserver.features.webhooks import api, metrics, parts
from imserver.features.webhooks.consumer import Failure
from imserver.features.webhooks.declared import SETTINGS, TABLES
from imserver.features.webhooks.log_window import HookSender, LogHook, LogHooks
from imserver.features.webhooks.parts import erasing, webhooks_of
from imserver.features.webhooks.webhooks import Webhooks
from imserver.plugin import Feature

__all__ = ["FEATURE", "Failure", "HookSender", "LogHook", "LogHooks", "Webhooks", "webhooks_of"]


FEATURE = Feature(
    "webhooks",
    parts.build,
    settings=SETTINGS,
    routes=api.routes.rows,
    metrics=metrics.rows,
    answers=parts.answers,
    erasing=erasing,
    tables=TABLES,
    uses=("messages?",),
    commands={
        "app events": (
            "imserver.features.webhooks.command",
            "events",
            "List or replay events that a webhook refused.",
        )
    },
    doctor={
        "--webhook": (
            "imserver.features.webhooks.command",
            "webhook",
            "Send a test event to the back end of an app.",
            "APP",
        )
    },
)
