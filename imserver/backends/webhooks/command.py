"""``imserver app events``: events that the webhook of an app refused; and the
test event of ``imserver doctor``."""

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from time import perf_counter, time
from typing import Final
from urllib.parse import urlsplit

import click
import msgspec

from imserver.backends.webhooks.dead_events import (
    list_retries,
    next_try,
    send_again,
    waiting,
)
from imserver.backends.webhooks.declared import secret_of
from imserver.backends.webhooks.requests import (
    MISCONFIGURED,
    POST_SECONDS,
    Receiver,
    new_delivery_id,
)
from imserver.plugin.commands import (
    CommandLine,
    Finding,
    fail,
    opened,
    record_act,
    settings_options,
)
from imserver.plugin.identity import BadKey, Tenants
from imserver.plugin.runtime import Outgoing, Unreachable
from imserver.plugin.settings import Config
from imserver.plugin.storage import Store

_LISTED_EVENTS: Final = 1000
_ID_BYTES: Final = 6
_SHOWN_BYTES: Final = 200
"""The part of an answer that a finding shows."""
_SECOND_MS: Final = 1000
_HTTP_PORT: Final = 80
_HTTPS_PORT: Final = 443


@click.command(short_help="List or replay events that a webhook refused.")
@settings_options
@CommandLine.prints_data
@click.option(
    "--dead",
    is_flag=True,
    help="List events that the receiver did not accept for three days.",
)
@click.option(
    "--replay",
    metavar="ID",
    help="Send the event with this id again at once. ID can be all, for all refused events.",
)
@click.argument("name")
def events(
    path: str | None, data_dir: str | None, dead: bool, replay: str | None, name: str
) -> None:
    """List or replay events that a webhook refused, and count waiting events.

    Without --dead, the command lists the oldest 1000 refused events that the
    server tries again. If the receiver does not answer at all, later events
    wait in order, and the command counts them. GET /api/v1/webhooks shows the
    last answers of the receiver.
    """
    with opened(path, data_dir) as (settings, store, tenants):
        if tenants.get(name) is None:
            fail(f"app {name} does not exist")
        app = tenants.resolve(name)
        if replay is not None:
            _replay(settings, store, name, app, replay)
            return

        rows = list_retries(store, app, dead, after=0, limit=_LISTED_EVENTS)
        aside = _count_aside(store, app)
        next_time = 0
        if aside:
            next_time = store.read(partial(next_try, app=app))
        stored_events, entries = store.read_or((0, 0), partial(waiting, app=app))

    CommandLine.rows("event, user, attempts, first failed", rows, first_failed=_time)
    # The numbers are for people: JSON is one list of events.
    if dead or CommandLine.wants_json():
        return
    if aside:
        _say_aside(aside, next_time)
    if stored_events or entries:
        _say_waiting(name, stored_events, entries)


def _say_aside(count: int, next_time: int) -> None:
    """Print how many events were refused, and when the next one is tried."""
    click.echo(f"refused events: {count}; next try: {_time(next_time) or 'at once'}")


def _count_aside(store: Store, app: str) -> int:
    """Return how many refused events of an app are tried again."""
    counts = store.rows(
        "SELECT count(*) FROM event_retry WHERE app = %s AND dead = 0", (app,)
    )
    # Without a database there is no row with a count.
    return sum(count for (count,) in counts)


def _replay(settings: Config, store: Store, name: str, app: str, replay: str) -> None:
    """Send refused events of an app again, and print how many.

    ``replay``: the id of an event, or ``all``. ``name``: the app as the
    operator has called it. Ends the command if there is no such event.
    """
    # An event without an id stands for all refused events.
    event = "" if replay == "all" else replay
    count = send_again(store, app, event)
    if not count and event:
        fail(f"app {name} has no refused event {replay}")
    record_act(settings, store, "events.replay", app, id=replay, count=count)
    click.echo(f"events sent again: {count}")


def _say_waiting(name: str, stored_events: int, entries: int) -> None:
    """Print how much waits until the receiver of an app answers at all."""
    click.echo(
        f"waiting until the receiver answers: {stored_events} events, and at most "
        f"{entries} messages; to test the receiver: imserver doctor --webhook {name}"
    )


def _time(seconds: int) -> str:
    """Return a time in UTC, such as ``2026-05-03 14:05``; ``""`` for 0.

    ``seconds``: Unix seconds.
    """
    if seconds:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    return ""


_NOTHING: Final = "the back end gets no events of the app"
_MENDS: Final = (
    ("NameResolutionError", "no name server knows the host", "getent ahosts {host}"),
    (
        "SSLError",
        "its certificate is not trusted, or it does not speak TLS",
        "openssl s_client -connect {host}:{port}",
    ),
    (
        "ProtocolError",
        "it closed the connection before its answer was complete",
        "curl -v {url}",
    ),
    ("NewConnectionError", "no connection to its address is possible", "curl -v {url}"),
)
"""The beginning of a problem's text → the cause, and a command that shows
it."""


def webhook(
    _config: Config, _store: Store, tenants: Tenants, name: str
) -> Iterator[Finding]:
    """Send a test event to the back end of an app.

    ``name``: the app. Yields one finding: whether the back end has accepted the
    event, or why nothing was sent.
    """
    app = tenants.resolve(name)
    tenant = tenants.find(app)
    label = f"webhook of {name}"
    if tenant is None:
        yield _unsent(label, "there is no such app", "imserver app list")
        return
    url = tenant.webhook.url
    if not url:
        yield _unsent(label, "webhook.url is not set", "set it for the app")
        return
    # The secret may be in a file that this user may not read.
    try:
        secret = secret_of(tenant)
    except BadKey as bad:
        yield _unsent(label, str(bad), "set webhook.secret for the app")
        return
    yield _test(label, Receiver(app, url, secret, frozenset()))


def _unsent(label: str, found: str, mend: str) -> Finding:
    """Return the finding that no test event could be sent."""
    return Finding("fail", label, found, "nothing was sent", mend)


def _test(label: str, receiver: Receiver) -> Finding:
    """Send a test event to a receiver, and return the finding about the answer.

    The event has the form of a real one, so the back end also checks the
    signature.
    """
    now = int(time())
    event = _test_event(receiver.app, now)
    outgoing = Outgoing()
    # The finding also tells the operator how slow the receiver is.
    began = perf_counter()
    try:
        status, answer = outgoing.post(
            receiver.url,
            receiver.secret,
            receiver.body(event),
            now,
            new_delivery_id(),
            POST_SECONDS,
        )
    except Unreachable as problem:
        return _unreachable(label, receiver.url, problem)
    finally:
        outgoing.close()

    took = f"{(perf_counter() - began) * _SECOND_MS:.0f} ms"
    return _answered(label, receiver.url, status, answer, took)


def _test_event(app: str, now: int) -> bytes:
    """Return an event ``test`` as JSON. ``now``: the time in Unix seconds."""
    event = {
        "id": f"test-{token_hex(_ID_BYTES)}",
        "event": "test",
        "app": app,
        "time": now,
        "node": "doctor",
    }
    return msgspec.json.encode(event)


def _answered(label: str, url: str, status: int, answer: bytes, took: str) -> Finding:
    """Return the finding about the answer to a test event.

    ``took``: the time of the request in words, such as "12 ms".
    """
    if 200 <= status < 300:
        return Finding(
            "ok", label, f"{url} accepted a test with status {status} in {took}"
        )
    # The answer of another server could have signs that a terminal obeys.
    text = ascii(answer[:_SHOWN_BYTES].decode("utf-8", "replace"))
    meaning = "the server sends the event again, and later events wait"
    if 400 <= status < 500 and status not in MISCONFIGURED:
        meaning = "the server tries a refused event again for three days; then the event is dead"
    return Finding(
        "fail",
        label,
        f"{url} answered with status {status} in {took}: {text}",
        meaning,
        "let the receiver answer 2xx as soon as it has the events; it must accept our "
        "signature and unknown events",
    )


def _unreachable(label: str, url: str, problem: Unreachable) -> Finding:
    """Return the finding that the address of a webhook does not answer.

    Its remedy is a command that shows the cause.
    """
    address = urlsplit(url)
    host = address.hostname or ""
    # The command needs a port, which most addresses leave out.
    usual_port = _HTTPS_PORT if address.scheme == "https" else _HTTP_PORT
    port = address.port or usual_port
    cause, mend = _cause_of(problem)
    command = mend.format(url=url, host=host, port=port)
    return Finding("fail", label, f"{url}: {cause}", _NOTHING, command)


def _cause_of(problem: Unreachable) -> tuple[str, str]:
    """Return the cause of a problem, and a command that shows it.

    In the command, ``{url}``, ``{host}`` and ``{port}`` stand for the address.
    """
    if problem.is_refused:
        return "it refuses connections: no program listens there", "curl -v {url}"
    text = str(problem)
    for begin, cause, mend in _MENDS:
        if text.startswith(begin):
            return cause, mend
    return text, "curl -v {url}"
