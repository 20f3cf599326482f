"""The tests of ``imserver doctor``: a notification to the devices of a user,
and a mail."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from time import perf_counter, time

from imserver.notifications.contract import SECOND_MS, Delivery, PushEndpoint
from imserver.notifications.declared import VAPID, NotificationSettings
from imserver.notifications.device_services import DeviceServices, notice_of
from imserver.notifications.pushes import delivery_of_test
from imserver.notifications.rows import NotificationRows
from imserver.notifications.webpush import WebPush
from imserver.people.accounts import AccountStore
from imserver.people.accounts.declared import SmtpSettings
from imserver.people.accounts.mailing import Mail, NotSent, send
from imserver.plugin.commands import Finding, key_for, offline_parts
from imserver.plugin.identity import Tenants
from imserver.plugin.runtime import PublicRequests
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Store
from imserver.plugin.wire import PushResult, PushService

_MENDS = {
    # Outcome of a request → what the operator can do.
    "gone": "the device must subscribe again; the server removes the endpoint at the next notification",
    "later": "check the name servers, the firewall and the proxy of this machine, which must reach the host",
    "refused": "read the answer of the push service, and check whether its keys or the secret "
    "of this server have changed",
}


def notify(
    config: Config, store: Store, tenants: Tenants, user: str
) -> Iterator[Finding]:
    """Send a test notification to the endpoints of a user.

    ``user``: the app, a slash, and the id or login of the user, such as
    ``shop/ann``. Yields a finding for each endpoint. If nothing can be sent,
    the only finding says why.
    """
    label = f"notification to {user}"
    with (
        offline_parts(config, store, PushService) as parts,  # type: ignore[type-abstract]
        closing(DeviceServices(service for _, service in parts)) as services,
    ):
        app, _, name = user.partition("/")
        app = tenants.resolve(app)
        tenant = tenants.find(app)
        if tenant is None:
            yield Finding("fail", label, "there is no such app", "nothing was sent")
            return
        # With accounts, the operator may give the login. Endpoints are stored
        # with the id.
        if tenant.wants_accounts(app):
            row = AccountStore(store).by_id_or_login(app, name)
            if row is None:
                yield Finding(
                    "fail", label, "there is no such account", "nothing was sent"
                )
                return
            name = row[0].user
        rows = NotificationRows(store, services.host_of)
        endpoints = rows.endpoints_of(app, name)
        if not endpoints:
            yield Finding("fail", label, "the user has no endpoint", "nothing was sent")
            return
        yield from _test_endpoints(config, services, endpoints)


def _test_endpoints(
    config: Config, services: DeviceServices, endpoints: Iterable[PushEndpoint]
) -> Iterator[Finding]:
    """Send a test to each endpoint of a user."""
    webpush = _make_webpush(config)
    for endpoint in endpoints:
        yield _test_endpoint(endpoint, services, webpush)
    webpush.close()


def _make_webpush(config: Config) -> WebPush:
    """Make a sender of Web Push with the key that the server has."""
    settings = settings_of(config, NotificationSettings)
    requests = PublicRequests(settings.allow_loopback)
    return WebPush(requests, settings, key_for(config, VAPID), config.address)


def _test_endpoint(
    endpoint: PushEndpoint, services: DeviceServices, webpush: WebPush
) -> Finding:
    """Send a test to an endpoint, unless it is switched off.

    Returns whether the push service has accepted it, and if not, what the
    operator can do.
    """
    delivery = delivery_of_test(endpoint, time())
    label = f"notification to {delivery.host}"
    if endpoint.device:
        label += f" ({endpoint.device})"
    if not endpoint.enabled:
        return Finding("ok", label, "the user has switched it off; nothing was sent")

    began = perf_counter()
    result = _send(delivery, endpoint, services, webpush)
    return _finding_of_result(label, result, seconds=perf_counter() - began)


def _finding_of_result(label: str, result: PushResult, seconds: float) -> Finding:
    """Return the finding about the answer of a push service."""
    if result.outcome == "taken":
        took_ms = seconds * SECOND_MS
        text = f"accepted with status {result.status} in {took_ms:.0f} ms"
        return Finding("ok", label, text)

    # Only an endpoint that is gone has no problem in words.
    problem = result.problem or f"the endpoint is gone (status {result.status})"
    mend = _MENDS[result.outcome]
    return Finding("fail", label, problem, "the device shows nothing", mend)


def _send(
    delivery: Delivery,
    endpoint: PushEndpoint,
    services: DeviceServices,
    webpush: WebPush,
) -> PushResult:
    """Send a delivery by Web Push, or by the push service of its endpoint."""
    device = services.find(endpoint.url)
    if device is not None:
        service, token = device
        return service.send(endpoint.app, token, notice_of(delivery))
    return webpush.send(
        endpoint,
        delivery.body,
        ttl=delivery.ttl,
        urgency="high",
        topic=delivery.topic,
    )


def mail(
    config: Config, _store: Store, _tenants: Tenants, address: str
) -> Iterator[Finding]:
    """Send a test mail.

    Yields one finding: whether the mail server has accepted the mail.
    """
    smtp = settings_of(config, SmtpSettings)
    if not smtp.host:
        label = f"mail to {address}"
        found = "smtp.host is not set"
        yield Finding("fail", label, found, "nothing was sent", "set it")
        return

    label = f"mail to {address} by {smtp.host}:{smtp.port}"
    subject = "imserver: test"
    text = "This server can send mail to this address.\n"
    # The mail server answers whether it accepts the mail; the mail may still be
    # lost later.
    try:
        send(smtp, Mail(address, subject, text))
    except NotSent as error:
        mend = "check section smtp, and the log of the mail server"
        yield Finding("fail", label, str(error), "users get no mail", mend)
        return
    yield Finding("ok", label, f"accepted; the sender is {smtp.sender}")
