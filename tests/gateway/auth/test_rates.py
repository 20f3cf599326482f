"""Buckets: how many tokens a payer has, when they come back, and who pays."""

import math
import os
import time
from pathlib import Path

import pytest

from imserver.gateway.auth import rates
from imserver.gateway.auth.rates import (
    BucketList,
    Buckets,
    LastingRates,
    MutedUsers,
    Rate,
    SenderRates,
    TooManyRequests,
)
from imserver.plugin.identity import by_address
from tests.support import Clock, until

RATE = Rate("test", "things", "user", "3 in 30 seconds", "429")
BURST = Rate("messages", "messages", "user", "", "", burst=5)


def taken(buckets: Buckets, payer: str = "ann", number: float = 0) -> int:
    count = 0
    while count < 1000 and buckets.take(payer, number=number):
        count += 1
    return count


def seconds_of(buckets: Buckets, payer: str = "ann") -> int:
    """The seconds after which a request may be repeated; 0: it was within the
    limit."""
    try:
        buckets.require(payer)
    except TooManyRequests as refused:
        return refused.seconds
    return 0


@pytest.mark.parametrize("number", [1, 3, 7, 10, 49, 2.5, 0.5, 0.01])
def test_a_bucket_is_full_at_first_and_fills_up_again(
    clock: Clock, number: float
) -> None:
    buckets = Buckets(RATE, number)
    for seconds in (max(1, 1 / number), 3600):
        assert taken(buckets) == max(int(number), 1)
        clock.now += seconds
    assert taken(buckets, "bob") == max(int(number), 1), "each payer has a bucket"
    assert seconds_of(buckets, "bob") == math.ceil(1 / number)


def test_one_token_comes_after_another_and_a_success_gives_one_back(
    clock: Clock,
) -> None:
    buckets = Buckets(RATE, 3, 30)
    assert [seconds_of(buckets) for _ in range(4)] == [0, 0, 0, 10]
    clock.now += 9.9
    assert seconds_of(buckets) == 1
    clock.now += 0.1
    assert [seconds_of(buckets) for _ in range(2)] == [0, 10]
    assert [buckets.wait("ann"), buckets.wait("bob"), Buckets(RATE).wait("ann")] == [
        10,
        0,
        0,
    ]
    buckets = Buckets(RATE, 3, 30)
    buckets.give_back("ann")
    assert taken(buckets) == 3
    buckets.give_back("ann")
    assert taken(buckets) == 1
    buckets.forget("ann")
    assert taken(buckets) == 3


def test_a_request_of_more_tokens_takes_all_or_none_or_is_paid_back(
    clock: Clock,
) -> None:
    buckets = Buckets(RATE, 700, 86400)
    assert [buckets.take("ann", tokens) for tokens in (600, 101, 100)] == [
        True,
        False,
        True,
    ]
    assert not buckets.take("bob", 701), "it never fits"
    buckets.require_one("bob", 701)
    with pytest.raises(TooManyRequests):
        buckets.require_one("bob", 1)
    buckets = Buckets(RATE, 10)
    buckets.charge("ann", 30)
    assert buckets.left("ann") == (0, 3)
    clock.now += 2.05
    assert not buckets.take("ann")
    clock.now += 0.1
    assert buckets.take("ann")
    buckets.set(3)
    assert taken(buckets) == 3, "a new limit fills all buckets"


def test_without_a_limit_or_a_payer_nothing_is_counted_and_a_payer_may_have_a_limit(
    clock: Clock,
) -> None:
    buckets = Buckets(RATE)
    assert taken(buckets) == 1000
    limited = Buckets(RATE, 1)
    assert all(
        seconds_of(limited, by_address("shop", "127.0.0.1")) == 0 for _ in range(10)
    )
    assert buckets.payers() == limited.payers() == []
    buckets = Buckets(RATE)
    for expected in ((2, 5), (1, 2)):
        assert (taken(buckets, "slow", 2), taken(buckets, "fast", 5)) == expected
        clock.now += 0.5


def test_full_buckets_are_forgotten(clock: Clock) -> None:
    buckets = Buckets(RATE, 1)
    for number in range(100):
        buckets.take(f"user {number}")
    clock.now += 12
    for number in range(60):
        buckets.take(f"another {number}")
    assert len(buckets.payers()) == 60


def test_those_that_paid_longest_ago_are_forgotten(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "MAX_PAYERS", 2)
    buckets = Buckets(RATE, 1)
    found = [
        buckets.take(payer) for payer in ("ann", "bob", "ann", "cid", "ann", "cid")
    ]
    assert found == [True, True, False, True, True, False]
    assert buckets.payers() == ["cid", "ann"]
    muted = MutedUsers()
    senders = SenderRates()
    for user in ("ann", "bob", "ann", "cid"):
        muted.mute("a", user, 2**40)
        senders.limit("a", user, buckets)
    assert [user for _, user in muted.all] == ["ann", "cid"]
    assert [user for _, user in senders.known] == ["bob", "cid"]


def test_nodes_count_together_and_each_by_itself_while_the_registry_does_not_answer(
    clock: Clock,
) -> None:
    answers: list[float | None] = [0, 0, 12.5, None, None, 0, 0]
    request = []

    def shared(*arguments: object) -> float | None:
        request.append(arguments)
        return answers.pop(0)

    buckets = Buckets(RATE, 3, 30, shared)
    assert [seconds_of(buckets) for _ in range(3)] == [0, 0, 13]
    assert [seconds_of(buckets) for _ in range(2)] == [0, 10], (
        "what nodes counted together counts here, too"
    )
    buckets.give_back("ann")
    buckets.forget("ann")
    assert request == [
        ("test:'ann'", 3, 10.0, weight) for weight in (1, 1, 1, 1, 1, -1, -3)
    ]


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ("fe80::1%eth0", "fe80::"),
        ("nonsense", "nonsense"),
        *((own, None) for own in ("", "127.0.0.1", "::1")),
    ],
)
def test_a_network_pays_in_each_app_and_this_machine_does_not(
    address: str, network: str | None
) -> None:
    assert by_address("shop", address) == (network and ("shop", network))


def test_the_buckets_of_somebody_are_found(clock: Clock) -> None:
    one = BucketList()
    of_users = one.make(RATE, 3, 30)
    of_networks = one.make(RATE, 3, 30, lambda *_: None)
    for payer in (("shop", "ann"), ("tea", "ann"), ("shop", "bob")):
        of_users.take(payer)
    of_networks.take("192.0.2.1")
    ann = (of_users, ("shop", "ann"))
    here = (of_networks, "192.0.2.1")

    def find(**options: bool) -> list[object]:
        return list(one.find("shop", ["ann"], ["192.0.2.1"], **options))

    assert find() == [ann]
    assert find(everywhere=True) == [ann, here]
    likely = [("shop", "ann"), ("shop", "192.0.2.1"), ("shop", "ann", "192.0.2.1")]
    found = find(likely=True)
    assert found[0] == ann
    assert sorted(found[1:], key=str) == sorted(
        [(of_networks, each) for each in likely], key=str
    )


def test_a_mute_ends_at_its_time_and_is_forgotten() -> None:
    muted = MutedUsers()
    now = int(time.time())
    for user, end in (("ann", 2**31), ("bob", now - 1), ("cid", now + 2)):
        muted.mute("a", user, end, "noise")
    mute = muted.mute_of("a", "ann")
    assert mute.text == "muted until 2038-01-19 03:14 UTC: noise"
    assert muted.mute_of("a", "bob") is muted.mute_of("b", "ann") is None
    until(lambda: muted.mute_of("a", "cid") is None)
    assert (time.time() > now + 2, list(muted.all)) == (True, [("a", "ann")])


def test_senders_with_a_rate_may_send_as_much_as_their_buckets_hold(
    clock: Clock,
) -> None:
    bots = SenderRates()
    of_bots = Buckets(BURST, 2)
    of_guests = Buckets(BURST, 1)
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


def test_what_is_counted_long_outlasts_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def start() -> tuple[LastingRates, Buckets, Buckets]:
        one = BucketList()
        lasting = LastingRates(one, tmp_path, lambda _name: bytes(64))
        buckets = (
            one.make(RATE, 3, 3600),
            one.make(Rate("short", "things", "user", "", ""), 3, 30),
        )
        lasting.start()
        return lasting, *buckets

    before, hour, short = start()
    assert (taken(hour), taken(short), hour.take("bob")) == (3, 3, True)
    descriptors = len(os.listdir("/proc/self/fd"))
    before.write()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert b"ann" not in (tmp_path / "rates").read_bytes()
    after, hour, short = start()
    assert (taken(hour), taken(short), taken(hour, "carl")) == (0, 3, 3)
    assert 1190 < seconds_of(hour) <= 1200
    after.write()
    _, hour, _ = start()
    assert (taken(hour), taken(hour, "bob")) == (0, 2), (
        "of those who did not ask in between, too"
    )
    for _ in range(2):
        hour.forget("ann")
        assert taken(hour) == 3
        _, hour, _ = start()  # it has not asked since the restart
    assert not caplog.text
    (tmp_path / "rates").write_bytes(b"broken")
    start()
    assert "rates begin anew" in caplog.text
