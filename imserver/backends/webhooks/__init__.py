"""Webhooks: the back ends of apps receive events, review messages, and decide
about clients."""

from imserver.backends.webhooks import api, metrics, parts
from imserver.backends.webhooks.consumer import Failure
from imserver.backends.webhooks.declared import SETTINGS, TABLES
from imserver.backends.webhooks.log_window import HookSender, LogHook, LogHooks
from imserver.backends.webhooks.parts import offline, webhooks_of
from imserver.backends.webhooks.webhooks import Webhooks
from imserver.plugin import CommandOf, FeatureRow

__all__ = [
    "FEATURE",
    "Failure",
    "HookSender",
    "LogHook",
    "LogHooks",
    "Webhooks",
    "webhooks_of",
]


FEATURE = FeatureRow(
    "webhooks",
    parts.build,
    settings=SETTINGS,
    routes=api.routes.rows,
    metrics=metrics.rows,
    answers=parts.answers,
    offline=offline,
    tables=TABLES,
    uses=("messages?",),
    commands=(
        CommandOf(
            "events",
            "imserver.backends.webhooks.command:events",
            "List or replay events that a webhook refused.",
            parent="app",
        ),
        CommandOf(
            "--webhook",
            "imserver.backends.webhooks.command:webhook",
            "Send a test event to the back end of an app.",
            parent="doctor",
            metavar="APP",
        ),
    ),
)
