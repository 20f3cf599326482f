"""Deliveries: what is sent to which host and when, and what becomes of it."""

import gc
from collections.abc import Callable, Iterator, Sequence
from time import monotonic, time
from types import SimpleNamespace
from typing import Any

import gevent
import msgspec
import pytest
from gevent.event import Event as Flag
from msgspec.structs import replace

from imserver.backends.webhooks.consumer import DeliveryLease
from imserver.backends.webhooks.event_rows import NewEvent
from imserver.gateway.cluster.nodes import NodeQueries
from imserver.gateway.errors import StorageUnavailable
from imserver.notifications import delivery
from imserver.notifications.contract import Delivery, PushEndpoint, Shown
from imserver.notifications.delivery import Deliveries
from imserver.notifications.device_services import DeviceServices
from imserver.notifications.recent import RecentDeliveries
from imserver.notifications.rows import Results
from imserver.plugin.wire import PushNotice, PushResult
from tests.notifications.device_services import FakeService

TAKEN = PushResult("taken", 201)
GONE = PushResult("gone", 410)
FAILED = PushResult("later", 500, problem="it answered with status 500")


class FakeRows:
    """The rows of deliveries, in memory. ``is_away``: the database does not
    answer."""

    def __init__(self) -> None:
        self.waiting: dict[int, Delivery] = {}
        self.known: dict[int, PushEndpoint] = {}
        self.events: list[NewEvent] = []
        self.read: set[tuple[str, int, int]] = set()
        """User, conversation, entry: what was read."""
        self.looks = 0
        """How often it was looked what was read."""
        self.settled = 0
        """Transactions that stored results."""
        self.is_away = False
        self._last = 0

    def _wait(self) -> None:
        gevent.sleep(0)
        if self.is_away:
            raise StorageUnavailable("away")

    def add(self, url: str, user: str = "", **fields: Any) -> Delivery:
        """A delivery to an endpoint with this URL, which is added if it is
        missing."""
        user = user or f"user {len(self.known)}"
        found = [
            one for one in self.known.values() if (one.url, one.user) == (url, user)
        ]
        endpoint = (
            found[0]
            if found
            else PushEndpoint(len(self.known) + 1, "shop", user, url, "", "")
        )
        self.known[endpoint.id] = endpoint
        self._last += 1
        host = url.split("/")[2]
        one = Delivery(
            self._last, "shop", user, endpoint.id, host, "message", 7, 9, "topic", 600, 0, 0,
            int(time()), b"{}",
        )  # fmt: skip
        one = replace(one, **fields)
        for old in tuple(self.waiting.values()):
            if one.topic and (old.endpoint, old.topic) == (one.endpoint, one.topic):
                del self.waiting[old.id]
        self.waiting[one.id] = one
        return one

    def hosts(self, now_ms: int) -> dict[str, int]:
        self._wait()
        found: dict[str, int] = {}
        for one in self.waiting.values():
            found[one.host] = max(
                now_ms, min(one.next_try, found.get(one.host, one.next_try))
            )
        return found

    def deliveries(self, host: str, now_ms: int, limit: int) -> list[Delivery]:
        self._wait()
        found = [
            one
            for one in self.waiting.values()
            if one.host == host and one.next_try <= now_ms
        ]
        return sorted(found, key=lambda one: (one.next_try, one.id))[:limit]

    def endpoints_by_id(self, ids: Sequence[int]) -> dict[int, PushEndpoint]:
        self._wait()
        return {id: self.known[id] for id in ids if id in self.known}

    def is_read(self, app: str, messages: list[tuple[str, int, int]]) -> list[bool]:
        self._wait()
        self.looks += 1
        return [one in self.read for one in messages]

    def settle(self, results: Results) -> None:
        self._wait()
        self.settled += 1
        for id in results.done:
            self.waiting.pop(id, None)
        for id in results.gone:
            self.known.pop(id, None)
            for one in tuple(self.waiting.values()):
                if one.endpoint == id:
                    del self.waiting[one.id]
        for id, next_try in results.retry:
            if one := self.waiting.get(id):  # type: ignore[assignment]
                self.waiting[id] = replace(
                    one, next_try=next_try, attempts=one.attempts + 1
                )
        self.events += results.events


class FakePush:
    """Takes the place of :class:`WebPush`. ``answer`` says what becomes of a
    request; it may take its time."""

    def __init__(
        self, answer: Callable[[PushEndpoint], PushResult] = lambda _: TAKEN
    ) -> None:
        self.answer = answer
        self.sent: list[tuple[str, bytes, int, str, str]] = []
        """URL, body, ttl, urgency and topic of each request."""
        self.at_once: dict[str, int] = {}
        """Host → most requests at a time."""
        self._now: dict[str, int] = {}

    @property
    def urls(self) -> list[str]:
        return [url for url, *_ in self.sent]

    def encrypt(self, endpoint: PushEndpoint, body: bytes) -> bytes:
        return endpoint.url.encode() + b"\n" + body

    def hand_over(
        self, endpoint: PushEndpoint, content: bytes, ttl: int, urgency: str, topic: str
    ) -> PushResult:
        url, _, body = content.partition(b"\n")
        assert url.decode() == endpoint.url
        self.sent.append((endpoint.url, body, ttl, urgency, topic))
        host = endpoint.url.split("/")[2]
        self._now[host] = self._now.get(host, 0) + 1
        self.at_once[host] = max(self.at_once.get(host, 0), self._now[host])
        try:
            gevent.sleep(0)
            return self.answer(endpoint)
        finally:
            self._now[host] -= 1


URL = "https://push.example/"


_SHOWN = msgspec.json.encode(Shown("push", "tag", "Ann", "hello"))


class CountingService(FakeService):
    """Counts the requests that are under way together."""

    now = most = 0

    def send(self, app: str, token: str, notice: PushNotice) -> PushResult:
        self.now += 1
        self.most = max(self.most, self.now)
        result = super().send(app, token, notice)
        self.now -= 1
        return result


class Bench:
    """Deliveries with rows and push services in memory."""

    def __init__(self, requests_per_host: int = 4) -> None:
        self.rows = FakeRows()
        self.push = FakePush()
        self.services = DeviceServices()
        self.lease = DeliveryLease(monotonic() + 1000)
        self.wanted = {"notified", "gone"}
        rows: Any = self.rows
        push: Any = self.push
        core: Any = SimpleNamespace(
            queries=NodeQueries(), ask_others=lambda *_: ({}, [])
        )
        self.deliveries = Deliveries(
            rows,
            push,
            self.services,
            self.rows.is_read,
            self.lease,
            self._wants,
            requests_per_host,
            RecentDeliveries(core),
        )
        self.greenlet = gevent.spawn(self.deliveries.run)

    def _wants(self, app: str, kind: str) -> bool:
        return app == "shop" and kind in self.wanted

    def fill(self, count: int) -> None:
        """Deliveries to different users wait for one host."""
        for number in range(count):
            self.rows.add(f"{URL}{number}")

    def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        deadline = monotonic() + seconds
        while not condition():
            assert monotonic() < deadline, (self.rows.waiting, self.push.sent)
            gevent.sleep(0.001)

    def all_gone(self) -> None:
        """Wait until nothing waits to be sent."""
        self.deliveries.wake()
        self.until(lambda: not self.rows.waiting)

    def count(self, result: str) -> int:
        return sum(
            number
            for (_, _, of), number in self.deliveries.counts.items()
            if of == result
        )


@pytest.fixture(autouse=True)
def _short_pauses(hasty_consumers: None, constants: Callable[..., None]) -> None:
    constants(
        delivery, RENEW_SECONDS=0.02, LEAST_LOOK_SECONDS=0.0, FIRST_RETRY_SECONDS=0.01
    )
    constants(delivery, SLICE_SECONDS=1.0, STOP_SECONDS=0.3)


@pytest.fixture
def bench() -> Iterator[Bench]:
    one = Bench()
    yield one
    one.deliveries.stop()
    one.greenlet.join(5)
    assert one.greenlet.ready()


class TestSending:
    def test_each_is_sent_once(self, bench: Bench) -> None:
        for number in range(250):
            bench.rows.add(f"{URL}{number}", body=b"%d" % number)
        bench.all_gone()
        assert sorted(bench.push.urls) == sorted(
            f"{URL}{number}" for number in range(250)
        )
        assert bench.push.at_once == {"push.example": 4}
        assert bench.deliveries.counts == {("shop", "message", "taken"): 250}
        assert bench.rows.looks <= 5
        assert bench.rows.settled <= 5

    def test_a_service_that_the_operator_has_chosen_gets_more_at_a_time(
        self, bench: Bench
    ) -> None:
        service = CountingService("fake")
        bench.services.by_name["fake"] = service
        for number in range(90):
            bench.rows.add(f"fake:t{number}//shop", host="fake/shop", body=_SHOWN)
        bench.all_gone()
        assert len(service.sent) == 90
        assert service.most == delivery.REQUESTS_TO_SERVICE
        service.sent = []
        service.failures = 2  # each attempt has the same id
        bench.rows.add("fake:t1//shop", host="fake/shop", body=_SHOWN)
        bench.all_gone()
        assert len(service.sent) == 3
        assert len({notice.id for _, notice in service.sent}) == 1

    def test_a_request(self, bench: Bench) -> None:
        now = int(time())
        bench.rows.add(URL, body=b"1", topic="a", ttl=3600, created=now - 100)
        bench.rows.add(
            URL + "2", body=b"2", topic="b", kind="close", ttl=10, created=now - 20
        )
        bench.all_gone()
        (one, other) = bench.push.sent
        assert one[:2] + one[3:] == (URL, b"1", "high", "a")
        assert one[2] in (3499, 3500)
        assert other == (URL + "2", b"2", 0, "normal", "b")

    def test_what_was_read_is_not_sent(self, bench: Bench) -> None:
        """It is looked as late as possible, for many together. What closes a
        notification is sent anyway."""
        for number in range(20):
            one = bench.rows.add(f"{URL}{number}")
            if number % 2:
                bench.rows.read.add((one.user, one.conversation, one.entry))
        for kind in ("push", "close", "test"):
            one = bench.rows.add(f"{URL}{kind}", kind=kind)
            bench.rows.read.add((one.user, one.conversation, one.entry))
        bench.all_gone()
        even = [f"{URL}{number}" for number in range(0, 20, 2)]
        assert sorted(bench.push.urls) == sorted([*even, f"{URL}close"])
        assert bench.count("read") == 12

    def test_a_slow_host_is_asked_anew_what_was_read(self, bench: Bench) -> None:
        def slowly(endpoint: PushEndpoint) -> PushResult:
            gevent.sleep(1.1 * delivery.LOOK_SECONDS)
            bench.rows.read |= {(one.user, 7, 9) for one in bench.rows.waiting.values()}
            return TAKEN

        bench.push.answer = slowly
        bench.fill(50)
        bench.all_gone()
        assert len(bench.push.sent) == 1
        assert bench.count("read") == 49

    def test_what_is_late_is_dropped(self, bench: Bench) -> None:
        now = int(time())
        bench.rows.add(URL + "late", created=now - 601)
        bench.rows.add(URL + "early", created=now - 590)
        bench.rows.add(URL + "at once", ttl=0, created=now - 5)
        bench.rows.add(URL + "too late", ttl=0, created=now - 40)
        bench.all_gone()
        assert sorted(bench.push.urls) == [URL + "at once", URL + "early"]
        assert bench.count("expired") == 2

    def test_only_the_newest_of_a_topic_is_sent(self, bench: Bench) -> None:
        for number in range(3):
            one = bench.rows.add(URL, "ann", body=b"%d" % number, topic="a")
            bench.rows.waiting[one.id] = one
        bench.rows.waiting |= {id: replace(one, id=id) for id in (1, 2)}
        bench.rows.add(URL, "ann", topic="b")
        bench.rows.add(URL, "ann", topic="")
        bench.rows.add(URL, "ann", topic="")
        bench.all_gone()
        assert [topic for *_, topic in bench.push.sent].count("a") == 1
        assert len(bench.push.sent) == 4
        assert bench.count("replaced") == 2

    def test_endpoints_that_are_off_or_away(self, bench: Bench) -> None:
        off = bench.rows.add(URL + "off")
        away = bench.rows.add(URL + "away")
        bench.rows.known[off.endpoint] = replace(
            bench.rows.known[off.endpoint], enabled=False
        )
        del bench.rows.known[away.endpoint]
        bench.all_gone()
        assert bench.push.sent == []
        assert bench.count("removed") == 2

    def test_nothing_is_sent_without_the_lease(self, bench: Bench) -> None:
        bench.lease.until = 0.0
        bench.rows.add(URL)
        bench.deliveries.wake()
        gevent.sleep(0.1)
        assert bench.push.sent == []
        bench.lease.until = monotonic() + 1000
        bench.all_gone()


class TestResults:
    def test_events(self, bench: Bench) -> None:
        refusal = PushResult("refused", 400, problem="it answered with status 400")
        results = {"gone": GONE, "refused": refusal}
        bench.push.answer = lambda endpoint: results.get(
            endpoint.url.removeprefix(URL), TAKEN
        )
        refused = bench.rows.add(URL + "refused")
        taken = bench.rows.add(URL + "taken")
        gone = bench.rows.add(URL + "gone")
        for kind in ("close", "test"):
            bench.rows.add(URL + kind, kind=kind)
        bench.rows.add(URL + "push", kind="push", conversation=0, entry=0)
        bench.all_gone()
        found = {
            (each.kind, each.user): msgspec.json.decode(each.body)
            for each in bench.rows.events
        }
        assert len(found) == len(bench.rows.events) == 3
        assert found["notified", taken.user] == {
            "user": taken.user,
            "kind": "message",
            "conversation": 7,
            "entry": 9,
            "endpoint": taken.endpoint,
        }
        expected = {
            "user": gone.user,
            "endpoint": gone.endpoint,
            "host": "push.example",
        }
        assert found["gone", gone.user] == expected
        assert (bench.count("refused"), bench.push.urls.count(URL + "refused")) == (
            1,
            1,
        )
        assert refused.endpoint in bench.rows.known

    def test_an_endpoint_that_is_gone_goes_with_all_that_waits(
        self, bench: Bench
    ) -> None:
        def answer(_: PushEndpoint) -> PushResult:
            gevent.sleep(0.01)
            return GONE

        bench.push.answer = answer
        for number in range(30):
            bench.rows.add(URL, "ann", topic=str(number))
        bench.rows.add(URL + "other", "bob")
        bench.all_gone()
        assert bench.rows.known == {}
        assert bench.push.urls.count(URL) <= 4
        assert [each.kind for each in bench.rows.events].count("gone") <= 5

    def test_results_are_stored_while_others_wait(self, bench: Bench) -> None:
        """A node that is killed leaves little to be sent again."""
        goes_on = Flag()

        def answer(endpoint: PushEndpoint) -> PushResult:
            if endpoint.url.endswith("09"):
                goes_on.wait()
            gevent.sleep(delivery.SETTLE_SECONDS / 4)
            return TAKEN

        bench.push.answer = answer
        for number in range(30):
            bench.rows.add(f"{URL}{number:02}")
        bench.deliveries.wake()
        bench.until(lambda: len(bench.rows.waiting) < 20)
        assert any(one.endpoint == 10 for one in bench.rows.waiting.values())
        goes_on.set()
        bench.all_gone()


class TestFailures:
    def test_it_is_dropped_after_its_time_to_live_also_if_the_wanted_pause_is_longer(
        self, bench: Bench
    ) -> None:
        bench.push.answer = lambda _: PushResult("later", 429, 4000.0)
        bench.rows.add(URL)
        bench.all_gone()
        assert bench.count("expired") == 1
        bench.deliveries.restart()
        one = bench.rows.add(URL)

        def answer(_: PushEndpoint) -> PushResult:
            bench.rows.waiting[one.id] = replace(one, created=one.created - 2 * one.ttl)
            return FAILED

        bench.push.answer = answer
        bench.all_gone()
        assert bench.count("expired") == 2
        assert bench.count("later") >= 1

    @pytest.mark.parametrize("status", [429, 503])
    def test_retry_after_is_obeyed(self, bench: Bench, status: int) -> None:
        """By the first delivery, and by all others to a host that has not
        answered well since."""
        times: list[float] = []

        def answer(_: PushEndpoint) -> PushResult:
            times.append(monotonic())
            return PushResult("later", status, 0.3) if len(times) == 1 else TAKEN

        bench.push.answer = answer
        bench.fill(10)
        bench.all_gone()
        assert len(times) == 11
        assert times[1] - times[0] >= 0.3

    def test_one_device_that_is_refused_for_now_delays_no_other(
        self, bench: Bench
    ) -> None:
        """A host that answers is paused only when no request succeeds."""

        def answer(endpoint: PushEndpoint) -> PushResult:
            return (
                PushResult("later", 429, 500.0)
                if endpoint.url.endswith("limited")
                else TAKEN
            )

        bench.push.answer = answer
        for number in range(30):
            bench.rows.add(f"{URL}{number}")
            if number % 5 == 4:
                bench.rows.add(f"{URL}{number}limited")
        bench.deliveries.wake()
        bench.until(lambda: len(bench.rows.waiting) == 6)
        assert bench.count("taken") == 30

    def test_a_host_that_fails_gets_one_request_at_a_time(self, bench: Bench) -> None:
        def take(_: PushEndpoint) -> PushResult:
            gevent.sleep(0.01)
            return TAKEN

        bench.push.answer = take
        bench.fill(20)
        bench.all_gone()
        assert bench.push.at_once == {"push.example": 4}
        bench.push.answer = lambda _: FAILED
        for number in range(50):
            bench.rows.add(f"{URL}{number}", f"user {number}")
        bench.deliveries.wake()
        bench.until(lambda: bench.count("later") >= 4)
        bench.push.at_once.clear()
        bench.until(lambda: bench.count("later") >= 8)
        assert bench.push.at_once == {"push.example": 1}
        bench.push.answer = take
        bench.all_gone()
        assert bench.push.at_once == {"push.example": 4}

    @pytest.mark.parametrize("how", ["hangs", "fails", "breaks"])
    def test_a_host_delays_no_other(self, bench: Bench, how: str) -> None:
        never = Flag()

        def answer(endpoint: PushEndpoint) -> PushResult:
            if "bad" not in endpoint.url:
                return TAKEN
            if how == "hangs":
                never.wait()
            if how == "breaks":
                raise RuntimeError("a bug of ours")
            return FAILED

        bench.push.answer = answer
        for number in range(300):
            bench.rows.add(f"https://bad.example/{number}")
            bench.rows.add(f"{URL}{number}")
        bench.deliveries.wake()
        bench.until(
            lambda: (
                not any(
                    one.host == "push.example" for one in bench.rows.waiting.values()
                )
            )
        )
        assert bench.count("taken") == 300
        assert len(bench.rows.waiting) == 300
        never.set()

    def test_many_hosts_that_hang_delay_none_that_answers(self, bench: Bench) -> None:
        """Those that have not answered lately share some slots; those that have
        do not need them."""
        never = Flag()
        bench.push.answer = lambda endpoint: (
            never.wait() and FAILED if "bad" in endpoint.url else TAKEN
        )
        bench.rows.add(URL)
        bench.all_gone()
        for number in range(delivery.MOST_OTHERS + 20):
            bench.rows.add(f"https://bad{number}.example/")
        bench.deliveries.wake()
        bench.until(lambda: len(bench.push.sent) == 1 + delivery.MOST_OTHERS)
        bench.fill(20)
        bench.deliveries.wake()
        bench.until(lambda: bench.count("taken") == 21)
        assert sum("bad" in url for url in bench.push.urls) == delivery.MOST_OTHERS
        never.set()

    def test_many_hosts_that_answer_late_delay_neither_fast_nor_new_ones(
        self, bench: Bench
    ) -> None:
        late = Flag()

        def answer(endpoint: PushEndpoint) -> PushResult:
            if "slow" in endpoint.url:
                late.wait()
            return TAKEN

        def add_slow() -> None:
            for number in range(80):
                for device in range(3):
                    bench.rows.add(f"https://slow{number}.example/{device}")
            bench.deliveries.wake()

        bench.push.answer = answer
        bench.rows.add(URL)
        bench.all_gone()
        add_slow()
        bench.until(
            lambda: (
                sum("slow" in url for url in bench.push.urls) >= delivery.MOST_OTHERS
            )
        )
        gevent.sleep(1.2 * delivery.SLICE_SECONDS)  # so long that the answers are late
        late.set()
        bench.all_gone()
        late.clear()
        add_slow()
        bench.until(
            lambda: (
                len({url for url in bench.push.urls[241:] if "slow" in url})
                >= delivery.MOST_SLOW
            )
        )
        bench.rows.add(f"{URL}known")
        bench.rows.add("https://new.example/")
        bench.deliveries.wake()
        bench.until(lambda: bench.count("taken") == 243, 5)
        late.set()
        bench.all_gone()

    def test_fast_hosts_that_hang_leave_their_places_to_others(
        self, bench: Bench
    ) -> None:
        late = Flag()
        fast = delivery.MOST_FAST
        bad = [f"https://bad{number}.example/" for number in range(fast)]
        for url in (URL, *bad):
            bench.rows.add(url)
        bench.all_gone()
        bench.push.answer = lambda endpoint: (
            TAKEN if "bad" not in endpoint.url or late.wait() else FAILED
        )
        for url in bad:
            bench.rows.add(url)
        bench.deliveries.wake()
        bench.until(lambda: len(bench.push.sent) == 1 + 2 * fast)
        bench.rows.add(URL)
        bench.deliveries.wake()
        bench.until(lambda: bench.count("taken") == 2 + fast, 5)
        late.set()
        bench.all_gone()

    def test_hosts_take_turns(
        self, bench: Bench, constants: Callable[..., None]
    ) -> None:
        constants(delivery, MOST_OTHERS=1, MOST_FAST=1, PAGE=10)
        for number in range(100):
            bench.rows.add(f"https://busy.example/{number}")
        for host in ("one", "two"):
            bench.rows.add(f"https://{host}.example/")
        bench.all_gone()
        order = [url.split("/")[2].partition(".")[0] for url in bench.push.urls]
        assert max(order.index("one"), order.index("two")) <= 40

    def test_hosts_are_forgotten(self, bench: Bench) -> None:
        count = delivery.MOST_REMEMBERED + 500
        for number in range(count):
            bench.rows.add(f"https://{number}.example/")
        bench.all_gone()
        assert len(bench.push.sent) == count
        gc.collect()
        hosts = sum(isinstance(each, delivery.Host) for each in gc.get_objects())
        assert (
            hosts
            <= delivery.MOST_REMEMBERED + delivery.MOST_FAST + delivery.MOST_OTHERS
        )


class TestDatabaseAway:
    def test_sending_stops_while_no_result_can_be_stored_and_each_is_sent_once(
        self, bench: Bench
    ) -> None:
        def answer(_: PushEndpoint) -> PushResult:
            if len(bench.push.sent) >= 25:
                bench.rows.is_away = True
                gevent.sleep(1.1 * delivery.SETTLE_SECONDS)
            return TAKEN

        bench.push.answer = answer
        bench.fill(90)
        bench.deliveries.wake()
        bench.until(lambda: bench.rows.is_away)
        gevent.sleep(0.3)
        assert 25 <= len(bench.push.sent) < 40
        bench.push.answer = lambda _: TAKEN
        bench.rows.is_away = False
        bench.all_gone()
        assert len(bench.push.sent) == len(set(bench.push.urls)) == 90


class TestLease:
    def test_a_node_that_had_lost_it_begins_anew(self, bench: Bench) -> None:
        """What is under way is stored; the rest is read anew."""
        goes_on = Flag()
        bench.push.answer = lambda _: goes_on.wait() and TAKEN
        bench.fill(40)
        bench.deliveries.wake()
        bench.until(lambda: bench.push.sent)
        bench.lease.until = 0.0
        (first,) = bench.push.urls
        for one in tuple(bench.rows.waiting.values())[10:]:  # another node sends these
            del bench.rows.waiting[one.id]
        bench.deliveries.restart()
        goes_on.set()
        bench.until(lambda: len(bench.rows.waiting) == 9)
        bench.lease.until = monotonic() + 1000
        bench.all_gone()
        assert len(bench.push.sent) == len(set(bench.push.urls)) == 10
        assert bench.push.urls[0] == first

    def test_the_end_waits_for_what_is_under_way_but_not_for_long(self) -> None:
        bench = Bench()
        bench.rows.add(URL)
        bench.all_gone()
        goes_on = Flag()
        bench.push.answer = lambda _: goes_on.wait() and TAKEN
        bench.fill(20)
        bench.deliveries.wake()
        bench.until(lambda: len(bench.push.sent) == 5)
        gevent.spawn_later(0.05, goes_on.set)
        bench.deliveries.stop()
        assert len(bench.rows.waiting) == 16
        gevent.sleep(0.05)
        assert (len(bench.push.sent), len(bench.rows.waiting)) == (5, 16)
        bench = Bench()
        never = Flag()
        bench.push.answer = lambda _: never.wait() and TAKEN
        bench.rows.add(URL)
        bench.deliveries.wake()
        bench.until(lambda: bench.push.sent)
        begin = monotonic()
        bench.deliveries.stop()
        assert monotonic() - begin < 1.0
        assert len(bench.rows.waiting) == 1


def test_a_large_audience_hides_nothing_of_other_users() -> None:
    bench = Bench()
    recent = bench.deliveries.recent
    one = bench.rows.add(f"{URL}1", "ann")
    recent.note(one, "refused", "it is too long")
    for number in range(200):
        recent.note(replace(one, user=str(number)), "taken")
    assert [each.outcome for each in recent.of("shop", "ann", 9)[0]] == ["refused"]
    assert len(recent.of("shop", "", 1000)[0]) == 100
    for number in range(9):
        recent.note(one, str(number))
    assert [each.outcome for each in recent.of("shop", "ann", 9)[0]] == [
        "8",
        "7",
        "6",
        "5",
        "4",
    ]
    bench.deliveries.stop()
