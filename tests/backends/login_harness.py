"""Logins of which a back end hears that a test scripts, and about which it is
asked."""

from imserver.backends.webhooks.back_ends import BackEndRequests
from imserver.backends.webhooks.parts import follow_apps
from imserver.backends.webhooks.webhooks import Webhooks
from imserver.gateway.config.settings import Config, TenantSettings
from tests.gateway.core.back_end import AwayStore, BackEnd
from tests.gateway.core.login_harness import LoginHarness


def webhooks_of(back_end: BackEnd) -> Webhooks:
    """The webhooks of a node without a database."""
    return Webhooks(
        back_end, lambda c: f"id of {c.peer}", lambda: "node:1", AwayStore()
    )  # type: ignore[arg-type]


class WebhookHarness(LoginHarness):
    """Logins of one node with webhooks."""

    def listen(self) -> tuple[BackEndRequests, Webhooks]:
        self.webhooks = webhooks_of(self.back_end)
        self.webhook_apps = follow_apps(self.apps, self.webhooks)  # type: ignore[arg-type]
        self.webhook_apps.configure(Config())
        return self.webhooks.back_ends, self.webhooks

    def change(self, name: str, settings: TenantSettings) -> None:
        self.webhook_apps.changed(self.apps.put(name, settings))
        super().change(name, settings)
