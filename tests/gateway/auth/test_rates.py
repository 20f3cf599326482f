"""Buckets: how many tokens a payer has, when they come back, and who pays."""

import pytest

from imserver.gateway.auth import rates
from imserver.gateway.auth.rates import BucketList, Buckets, Rate, SenderRates, TooManyRequests
from imserver.gateway.transport.proxies import network_of
from imserver.plugin.identity import by_address
from tests.support import Clock

RATE = Rate("test", "things", "user", "3 in 30 seconds", "429")
BURST = Rate("messages", "messages", "user", "", "", burst=5)


def taken(buckets: Buckets, payer: str = "ann", number: float = 0) -> int:
    """How many tokens a payer gets at once."""
    count = 0
    while count < 1000 and buckets.take(payer, number=number):
        count += 1
    return count


def seconds_of(buckets: Buckets, payer: str = "ann", tokens: int = 1) -> int:
    """The seconds after which a request may be repeated; 0: it was within the limit."""
    try:
        buckets.require(payer, tokens)
    except TooManyRequests as refused:
        return refused.seconds
    return 0


@pytest.mark.parametrize("number", [1, 3, 7, 10, 49, 2.5])
def test_a_bucket_is_full_at_first_and_fills_up_again(clock: Clock, number: float) -> None:
    buckets = Buckets(RATE, number)
    for seconds in (1, 1, 3600):
        assert taken(buckets) == int(number)
        clock.now += seconds
    assert taken(buckets, "bob") == int(number), "each payer has a bucket"


def test_one_token_comes_after_another(clock: Clock) -> None:
    buckets = Buckets(RATE, 3, 30)
    assert [seconds_of(buckets) for _ in range(4)] == [0, 0, 0, 10]
    clock.now += 9.9
    assert seconds_of(buckets) == 1
    clock.now += 0.1
    assert [seconds_of(buckets) for _ in range(2)] == [0, 10]


@pytest.mark.parametrize("number", [0.5, 0.01])
def test_with_less_than_one_a_second_there_is_one(clock: Clock, number: float) -> None:
    buckets = Buckets(RATE, number)
    assert taken(buckets) == 1
    assert seconds_of(buckets) == 1 / number
    clock.now += 1 / number
    assert taken(buckets) == 1


def test_a_request_of_more_tokens_takes_all_or_none(clock: Clock) -> None:
    buckets = Buckets(RATE, 700, 86400)
    assert buckets.take("ann", 600)
    assert not buckets.take("ann", 101)
    assert buckets.take("ann", 100)
    assert not buckets.take("bob", 701), "it never fits"


def test_a_charge_may_be_more_than_there_is_and_is_paid_back(clock: Clock) -> None:
    buckets = Buckets(RATE, 10)
    buckets.charge("ann", 30)
    assert buckets.left("ann") == (0, 3)
    clock.now += 2.05
    assert not buckets.take("ann")
    clock.now += 0.1
    assert buckets.take("ann")


def test_a_success_gives_back_a_token_or_fills_the_bucket(clock: Clock) -> None:
    buckets = Buckets(RATE, 3, 30)
    buckets.give_back("ann")
    assert taken(buckets) == 3
    buckets.give_back("ann")
    assert taken(buckets) == 1
    buckets.forget("ann")
    assert taken(buckets) == 3


def test_without_a_limit_or_a_payer_nothing_is_counted(clock: Clock) -> None:
    buckets = Buckets(RATE)
    assert taken(buckets) == 1000
    limited = Buckets(RATE, 1)
    assert all(seconds_of(limited, by_address("shop", "127.0.0.1")) == 0 for _ in range(10))
    assert not buckets._full_at
    assert not limited._full_at


def test_a_payer_may_have_a_limit_of_its_own(clock: Clock) -> None:
    buckets = Buckets(RATE)
    assert taken(buckets, "slow", 2) == 2
    assert taken(buckets, "fast", 5) == 5
    clock.now += 0.5
    assert (taken(buckets, "slow", 2), taken(buckets, "fast", 5)) == (1, 2)


def test_a_new_limit_fills_all_buckets(clock: Clock) -> None:
    buckets = Buckets(RATE, 1)
    buckets.charge("ann", 1000)
    buckets.set(3)
    assert taken(buckets) == 3


def test_full_buckets_are_forgotten(clock: Clock) -> None:
    buckets = Buckets(RATE, 1)
    for number in range(100):
        buckets.take(f"user {number}")
    clock.now += 12
    for number in range(60):
        buckets.take(f"another {number}")
    assert len(buckets._full_at) == 60


def test_of_too_many_payers_those_that_paid_longest_ago_are_forgotten(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "MAX_PAYERS", 2)
    buckets = Buckets(RATE, 1)
    assert [buckets.take(payer) for payer in ("ann", "bob", "ann", "cid", "ann")] == [
        True,
        True,
        False,
        True,
        True,
    ]
    assert not buckets.take("cid")
    assert len(buckets._full_at) == 2


def test_nodes_count_together_and_each_by_itself_while_the_registry_does_not_answer(clock: Clock) -> None:
    answers: list[float | None] = [0, 0, 12.5, None, None, 0, 0]
    request = []

    def shared(*arguments: object) -> float | None:
        request.append(arguments)
        return answers.pop(0)

    buckets = Buckets(RATE, 3, 30, shared)
    assert [seconds_of(buckets) for _ in range(3)] == [0, 0, 13]
    assert [seconds_of(buckets) for _ in range(2)] == [0, 10], "what nodes counted together counts here, too"
    buckets.give_back("ann")
    buckets.forget("ann")
    assert request == [("test:'ann'", 3, 10.0, weight) for weight in (1, 1, 1, 1, 1, -1, -3)]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::1", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_addresses_that_one_client_has_count_as_one(address: str, network: str) -> None:
    assert network_of(address) == network


@pytest.mark.parametrize(
    ("address", "payer"),
    [("203.0.113.7", ("shop", "203.0.113.7")), ("2001:db8:1:2::3", ("shop", "2001:db8:1:2::"))]
    + [(address, None) for address in ("", "127.0.0.1", "::1")],
)
def test_a_network_pays_in_each_app_and_this_machine_does_not(
    address: str, payer: tuple[str, str] | None
) -> None:
    assert by_address("shop", address) == payer


def test_senders_with_a_rate_may_send_as_much_as_their_buckets_hold(clock: Clock) -> None:
    bots, of_bots, of_guests = SenderRates(), Buckets(BURST, 2), Buckets(BURST, 1)
    bots.limit("a", "7", of_bots)
    assert [bots.take("a", "7") for _ in range(11)] == [True] * 10 + [False]
    clock.now += 0.5
    assert [bots.take("a", "7") for _ in range(2)] == [True, False]
    clock.now += 1000
    assert [bots.take("a", "7") for _ in range(11)] == [True] * 10 + [False]
    assert all(bots.take("a", "8") for _ in range(100))
    bots.limit("a", "9", of_guests)
    assert [bots.take("a", "9") for _ in range(6)] == [True] * 5 + [False]
    bots.lift("a", "9", of_bots)
    assert not bots.take("a", "9")
    bots.lift("a", "9", of_guests)
    assert all(bots.take("a", "9") for _ in range(100)), "a guest has become a member"
    unlimited = SenderRates()
    unlimited.limit("a", "7", Buckets(BURST, 0))
    assert all(unlimited.take("a", "7") for _ in range(100))


def test_what_is_counted_for_long_outlasts_a_restart() -> None:
    def digest(payer: object) -> bytes:
        return repr(payer)[::-1].encode()

    def start() -> tuple[BucketList, Buckets, Buckets]:
        one = BucketList()
        return one, one.make(RATE, 3, 3600), one.make(Rate("short", "things", "user", "", ""), 3, 30)

    before, hour, short = start()
    assert (taken(hour), taken(short), hour.take("bob")) == (3, 3, True)
    state = before.state(digest)
    assert b"ann" not in state
    after, hour, short = start()
    after.restore(state, digest)
    assert (taken(hour), taken(short), taken(hour, "carl")) == (0, 3, 3)
    assert 1190 < seconds_of(hour) <= 1200
    again = after.state(digest)
    after, hour, _ = start()
    after.restore(again, digest)
    assert (taken(hour), taken(hour, "bob")) == (0, 2), "of those who did not ask in between, too"
    hour.forget("ann")
    assert taken(hour) == 3
    after, hour, _ = start()
    after.restore(again, digest)
    hour.forget("ann")
    assert taken(hour) == 3, "also of those who did not ask since the restart"
