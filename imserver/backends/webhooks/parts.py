"""The parts of webhooks on one node. They follow the settings of apps."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal

import gevent
import msgspec

from imserver.backends.webhooks.back_ends import BackEndHook
from imserver.backends.webhooks.declared import secret_of
from imserver.backends.webhooks.requests import AuthoriseHook, Receiver
from imserver.backends.webhooks.reviews import ReviewHook
from imserver.backends.webhooks.webhooks import QUERY, Webhooks
from imserver.plugin import Parts
from imserver.plugin.identity import AppSecrets, Tenant, Tenants
from imserver.plugin.runtime import every
from imserver.plugin.services import Channels, Core
from imserver.plugin.settings import Config, TenantSettings
from imserver.plugin.storage import Erasure, PooledStatements, Store, text_of
from imserver.plugin.wire import Connection


def erase_user(store: Store, app: str, user: str, name: str) -> None:
    """Delete the events of a user, and events that name the user.

    The event that the account was removed stays. If ``name`` is empty, the
    messages of the user stay, and so do their events. Otherwise ``name``
    replaces the user. Switches greenlets. Raises StorageUnavailable.
    """
    if not name:
        return
    # The name in JSON, with and without escapes.
    spellings = (msgspec.json.encode(user), json.dumps(user).encode())
    # Each table, with the column that numbers its rows.
    for table, number in (("event", "id"), ("event_retry", "number")):
        columns = f"{number}, member, body"
        # No index finds the names in the bodies, so all rows are read.
        for rows in store.pages(table, number, columns, "app = %s", (app,)):
            erased = [
                (app, row_number)
                for row_number, member, body in rows
                if _is_about(user, spellings, member, bytes(body))
            ]
            if erased:
                _delete_rows(store, table, number, erased)


def _is_about(user: str, spellings: Iterable[bytes], member: Any, body: bytes) -> bool:
    """Whether a row has an event of the user, or one that names the user.

    ``spellings``: of the user in JSON. ``member`` and ``body``: the columns of
    the row. The event that the account was removed does not count.
    """
    if b'"change":"removed"' in body:
        return False
    if text_of(member) == user:
        return True
    return any(spelling in body for spelling in spellings)


def _delete_rows(
    store: Store, table: str, number: str, rows: list[tuple[str, int]]
) -> None:
    """Delete rows of a table, each named by its app and its number."""
    delete = partial(
        PooledStatements.execute_many,
        statement=f"DELETE FROM {table} WHERE app = %s AND {number} = %s",
        rows=rows,
    )
    store.write(delete)


def _erase_app(_app: str) -> None:
    """Do nothing: the core deletes the rows of a deleted app."""


def _erasure(store: Store) -> Erasure:
    """Return the functions that erase a user or an app from the events."""
    return Erasure(frozenset(), partial(erase_user, store), _erase_app)


@contextmanager
def offline(
    _config: Config, store: Store, _tenants: object
) -> Iterator[tuple[Erasure]]:
    """Yield the function that erases users in a command, where no node runs."""
    yield (_erasure(store),)


VACATED_SECONDS: Final = 3.0
"""How long a channel has no subscribers before it is reported as vacated:
clients may reconnect."""
_OCCUPANCY: Final = frozenset({"occupied", "vacated"})
_MEMBERSHIP: Final = frozenset({"joined", "left"})


class Occupancy:
    """Tells back ends which channels become occupied, and which are vacated.

    A channel is *occupied* when it gets its first subscriber on any node. It is
    *vacated* a few seconds after the last one has gone. An app without webhooks
    costs one look-up.
    """

    def __init__(
        self,
        channels: Channels,
        connection_id: Callable[[Connection], str],
        webhooks: Webhooks,
    ) -> None:
        """Follow the subscriptions of this node from now on."""
        self._channels = channels
        self._connection_id = connection_id
        self._webhooks = webhooks
        self._empty: dict[tuple[str, str], gevent.Greenlet[..., None]] = {}
        """(app, channel) without subscribers → the greenlet that will report
        it."""
        self._channels.members.report_to(self._joined, self._parted, self._emptied)

    def _joined(self, connection: Connection, channel: str, is_first: bool) -> None:
        """Report a subscription, and that its channel became occupied.

        ``is_first``: no connection on any node was subscribed before.
        """
        app = connection.app or ""
        if not self._webhooks.has_receiver(app):
            return
        vacating = self._empty.pop((app, channel), None)
        if vacating is not None:
            # The channel was not reported as vacated, so it is still occupied.
            vacating.kill(block=False)
        elif is_first:
            self._webhooks.channel(app, "occupied", channel, {})
        self._report_member("joined", connection, channel)

    def _parted(self, connection: Connection, channel: str, _is_last: bool) -> None:
        """Report that a connection has left a channel."""
        self._report_member("left", connection, channel)

    def _emptied(self, app: str, channel: str) -> None:
        """Begin to wait, because a channel has no subscriber any more.

        A client may only be reconnecting.
        """
        is_wanted = self._webhooks.wants_any(app, _OCCUPANCY)
        if is_wanted and (app, channel) not in self._empty:
            greenlet = gevent.spawn_later(VACATED_SECONDS, self._vacate, app, channel)
            self._empty[app, channel] = greenlet

    def _vacate(self, app: str, channel: str) -> None:
        """Greenlet: report a channel as vacated, if it is still empty."""
        del self._empty[app, channel]
        if not self._channels.members.count(app, channel):
            self._webhooks.channel(app, "vacated", channel, {})

    def _report_member(
        self, event: Literal["joined", "left"], connection: Connection, channel: str
    ) -> None:
        """Report that a connection has joined a channel, or has left it."""
        app = connection.app or ""
        if self._webhooks.wants_any(app, _MEMBERSHIP):
            # The facts are made only if somebody wants them: subscriptions are
            # frequent.
            facts = {
                "user": connection.user or "",
                "device": connection.device,
                "dialect": connection.encoding.dialect.name,
                "connection": self._connection_id(connection),
            }
            self._webhooks.channel(app, event, channel, facts)


LAST_SECONDS: Final = 2.0
"""Time limit for sending the last events."""
EVENTS: Final = frozenset(
    {"connect", "disconnect", "login", "message", "group", "account", "absent"}
)
"""The events of an app that selects none. Events of channels and notifications
are left out, because they are too many."""


def receiver_of(app: str, settings: TenantSettings, secret: bytes) -> Receiver | None:
    """Return the receiver of the events of an app.

    None: the app has no webhook, or no ``secret`` to sign with.
    """
    webhook = settings.webhook
    # Without a URL the back end reads the events itself, and nothing is signed.
    if webhook.url:
        has_receiver = secret != b""
    else:
        has_receiver = bool(webhook.events)
    if not has_receiver:
        return None
    return Receiver(
        app,
        webhook.url,
        secret,
        events=frozenset(webhook.events) or EVENTS,
        absent_seconds=webhook.absent_seconds,
    )


def follow_apps(tenants: Tenants, webhooks: Webhooks) -> AppSecrets:
    """Pass the settings and secrets of all apps to the webhooks.

    That happens now and at each change.
    """

    def set_hooks(tenant: Tenant, secret: bytes) -> None:
        """Take over the settings of an app.

        ``secret`` ``b""``: there is no usable secret.
        """
        app = tenant.name
        # Each address of the settings is a hook of its own.
        authorise = _authorise_hook(tenant, secret)
        webhooks.reviews.set(app, _review_hook(tenant, secret))
        webhooks.back_ends.set(
            app, _back_end_hook(tenant, secret), authorise, is_ready=bool(secret)
        )
        webhooks.set(app, receiver_of(app, tenant, secret))

    def forget(app: str) -> None:
        """Ask and tell nobody about an app that was deleted."""
        webhooks.reviews.set(app, None)
        webhooks.back_ends.set(app, None)
        webhooks.set(app, None)

    return AppSecrets(tenants, secret_of, set_hooks, forget)


def _review_hook(tenant: Tenant, secret: bytes) -> ReviewHook | None:
    """Return where the messages of an app are reviewed; None: nowhere."""
    webhook = tenant.webhook
    if not webhook.review_url:
        return None
    return ReviewHook(
        tenant.name,
        webhook.review_url,
        secret,
        seconds=webhook.review_seconds,
        allows_failure=webhook.review_failure == "allow",
    )


def _back_end_hook(tenant: Tenant, secret: bytes) -> BackEndHook | None:
    """Return who decides about the clients of an app; None: nobody."""
    back_ends = tenant.back_ends
    if not back_ends.urls:
        return None
    return BackEndHook(
        tenant.name,
        secret,
        urls=back_ends.urls,
        seconds=back_ends.seconds,
        headers=back_ends.headers,
        emulated_headers=back_ends.emulated_headers,
    )


def webhooks_of(core: Core) -> Webhooks:
    """Return the webhooks of a node."""
    return core.service(Webhooks)


def answers(base: Core) -> tuple[object, ...]:
    """Build the services that the core asks, before there are logins.

    They are observers of connections, reviews of messages, and decisions of
    back ends.
    """

    def node() -> str:
        """The name of this node, which it has only after it has joined."""
        return base.registry.lease.node

    webhooks = Webhooks(base.outgoing, base.connection_table.id_of, node, base.store)
    return webhooks, webhooks.reviews, webhooks.back_ends


def _authorise_hook(tenant: Tenant, secret: bytes) -> AuthoriseHook | None:
    """Return the hook that decides about logins; None: the app has none."""
    url = tenant.webhook.authorise_url
    if not url:
        return None
    return AuthoriseHook(tenant.name, url, secret)


def build(core: Core) -> Parts:
    """Build the services of webhooks that use services of the core.

    Two greenlets run: one delivers durable events, one deletes old ones.
    """
    webhooks = webhooks_of(core)
    core.queries.add(QUERY, list[str], webhooks.parts_of)
    apps = follow_apps(core.tenants, webhooks)
    Occupancy(core.channels, core.connection_table.id_of, webhooks)
    if "messages" in core.features:
        _follow_messages(core, webhooks)

    expire = every(
        core.config.storage.expire_seconds,
        partial(webhooks.feeds.events.expire, webhooks.feeds.feeds),
        "events could not be expired",
    )
    return Parts(
        (_erasure(core.store),),
        configure=apps.configure,
        run=(webhooks.feeds.run, expire),
        stop=partial(webhooks.stop, LAST_SECONDS),
    )


def _follow_messages(core: Core, webhooks: Webhooks) -> None:
    """Report stored messages to back ends, and users who miss them."""
    # Imported here to save memory on a node without stored messages.
    from imserver.backends.webhooks.absences import Absences
    from imserver.plugin.messages import MessageLog, MessageServices

    absences = Absences(
        webhooks.feeds,
        core.presence,
        is_registry_up=core.registry.healthy,
        store=core.store,
        accounts_of=core.accounts.those_of,
    )
    webhooks.feeds.attach(core.store.part(MessageLog), absences.make_consumer)
    core.service(MessageServices).observers.append(webhooks)
