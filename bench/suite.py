"""The suites: tables of commands with the bars for their figures."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """The bar of a figure: at most ``limit``, or ``at_least``."""

    figure: str
    limit: float
    at_least: bool = False

    def met(self, value: float | None) -> bool:
        """Whether ``value`` meets the limit; a missing figure does not."""
        return value is not None and (value >= self.limit if self.at_least else value <= self.limit)


class Row:
    """One measurement of a suite: the arguments of ``imserver bench``, and bars.

    A bar is ``figure<limit`` (at most), ``figure>limit`` (at least), or a figure alone, which must be zero.
    """

    def __init__(self, title: str, command: str, bars: str = "") -> None:
        self.title = title
        self.command = command
        parts = [re.split("([<>])", bar) for bar in bars.split()]
        self.bars = [Bar(name, float("".join(rest[1:]) or 0), ">" in rest) for name, *rest in parts]


def table(text: str) -> tuple[Row, ...]:
    """Return the rows of a text: title, command and bars of each; an indented line continues the last one."""
    lines = text.strip().replace("\n  ", " ").splitlines()
    return tuple(Row(*(part.strip() for part in line.split("|"))) for line in lines)


ALL = table("""
15,000 idle logged-in connections | idle | rss_connection_bytes<2000 rss_empty_mb<45 idle_cpu_percent<0.5
broadcast to 500, flat out | fanout | cpu_us<1 deliveries_per_second>1000000 lost
broadcast to 500, one frame a send | fanout --one-per-send | cpu_us<4.5 lost
broadcast to 500, 20 messages/s | fanout --seconds 10 --rate 20
  | answer_p50_ms<1 answer_p99_ms<2 p50_ms<4 p99_ms<8 lost
publications to a channel of 500, flat out | fanout --channel | cpu_us<1 lost
publications to a channel of 500, one frame a send | fanout --one-per-send --channel
  | lost
three subscriptions of 15,000 clients of Centrifugo | channels
  | cpu_us<15 rss_connection_bytes<1700 missing errors
three subscriptions of 15,000 clients, cmd | channels --dialect cmd
  | rss_connection_bytes<1300 missing errors
1,000 streams at 20 pieces/s | streams | p99_ms<50 lost unfinished doubled refused
1,000 streamed answers of a bot at 20 pieces/s | streams --bot | p99_ms<50 lost unfinished doubled refused
push to one user | push | cpu_us<30 requests_per_second>20000 lost
push in bulk, each frame alone | push --clients 1 --bulk 1000 | cpu_us<6.6 targets_per_second>150000 lost
push in bulk, frames sharing a send | push --bulk 1000 | cpu_us<6.6 targets_per_second>150000 lost
/api/v1/push to one user, with a key | push --v1 --keyed | cpu_us<30 requests_per_second>20000 lost
/api/v1/push at 1,000 requests/s | push --rate 1000 --v1 --keyed | answer_p99_ms<5 p99_ms<5 lost
/api/v1/push in bulk, each frame alone | push --clients 1 --bulk 1000 --v1 --keyed
  | cpu_us<6.6 targets_per_second>150000 lost
/api/v1/push in bulk, frames sharing a send | push --bulk 1000 --v1 --keyed
  | cpu_us<6.6 targets_per_second>150000 lost
publisher connection | publish --keyed | cpu_us<25 publishes_per_second>40000 lost
a group of 500, 500 messages/s, stored | chat | cpu_us<0.7 elapsed_seconds<41 ack_p99_ms<400 unstored lost
one-to-one, 500 messages/s, stored | chat --seconds 20 --single | ack_p99_ms<10 unstored lost
one-to-one, 500 senders flat out, stored | chat --rate 0 --seconds 10 --single
  | stored_per_second>15000 unstored lost
sync of 10,000 missed messages | chat --sync 10000 | seconds<1 missing errors lost
sync of 10,000 missed messages, protobuf | chat --sync 10000 --dialect protobuf
  | seconds<1 missing errors lost
5,000 log in, each 50 messages behind | chat --members 5000 --storm 50 | seconds<30 missing errors lost
handshake | handshake | cpu_us<40 errors
handshake with login | handshake --login | cpu_us<80 errors
10,000 subscribers of one channel | channels --connections 10000 --crowd | count_p99_ms<5 lost missing errors
10,000 subscribers come back, each 50 publications behind | channels --connections 10000 --recover
  | seconds<10 missing errors
""")

CLUSTER = table("""
what logins, heartbeats and pushes ask of Redis | cluster --part redis
  | login_round_trips<1.05 login_commands<3.05 push_round_trips<1.05
    push_commands<3.05 heartbeat_round_trips<0.01
pushes to users on another node, paced | cluster --part push | p99_ms<15 lost
pushes flat out, here and to another node | cluster --part forward | lost
bulk pushes, here and to another node | cluster --part bulk | lost
a broadcast on one server and over the nodes | cluster --part broadcast | flat_ratio<1.3 paced_ratio<1.3 lost
publications flat out, all subscribers on another node | cluster --part channel | lost
stored pushes flat out, to users on another node | cluster --part stored | lost
a node is killed, its clients come back to another | cluster --part storm
  | offline_seconds<12 missing bystanders_lost ghosts
""")

MILLION = table("""
10,000 users online | million --connections 10000
100,000 users online | million --connections 100000
1,000,000 users online | million --connections 1000000
  | login_seconds<360 missing dropped pss_full_mb<3500 idle_cpu_percent<10
    push_p99_ms<100 pushes_lost broadcast_worst_seconds<12 lost
""")

ABUSE = table("""
full requests of strangers and users | abuse
  | hold_ms<50 growth_mb<20 hash_mb<24 residue_mb<8 dropped unproved
""")

SUITES = {"all": ALL, "cluster": CLUSTER, "million": MILLION, "abuse": ABUSE}
