"""The suites: tables of commands with the bars for their figures."""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Bars in µs are for machines on which a bare send of 154 bytes takes this time; elsewhere they are scaled.
FLOOR_US = 3.8


@dataclass(frozen=True)
class Bar:
    """The bar of a figure: at most ``limit`` (or ``at_least``); ``scaled`` by the machine's floor."""

    figure: str
    limit: float
    at_least: bool = False
    scaled: bool = False

    def scaled_limit(self, floor_us: float) -> float:
        """Return the limit on a machine whose bare send takes ``floor_us``."""
        return self.limit * floor_us / FLOOR_US if self.scaled else self.limit

    def met(self, value: float | None, floor_us: float) -> bool:
        """Whether ``value`` meets the limit on this machine; a missing figure does not."""
        limit = self.scaled_limit(floor_us)
        return value is not None and (value >= limit if self.at_least else value <= limit)


class Row:
    """One measurement of a suite: the arguments of ``imserver bench``, and bars.

    A bar is ``figure<limit`` (at most), ``figure>limit`` (at least), ``figure~limit`` (at most, scaled by the
    machine's floor), or a figure alone, which must be zero.
    """

    def __init__(self, title: str, command: str, bars: str = "") -> None:
        self.title = title
        self.command = command
        parts = [re.split("([<>~])", bar) for bar in bars.split()]
        self.bars = [
            Bar(name, float("".join(rest[1:]) or 0), ">" in rest, "~" in rest) for name, *rest in parts
        ]


def table(text: str) -> tuple[Row, ...]:
    """Return the rows of a text: title, command and bars of each; an indented line continues the last one."""
    lines = text.strip().replace("\n  ", " ").splitlines()
    return tuple(Row(*(part.strip() for part in line.split("|"))) for line in lines)


ALL = table("""
bare sends to 500 sockets | floor
15,000 idle logged-in connections | idle | rss_connection_bytes<2000 rss_empty_mb<45 idle_cpu_percent<0.5
broadcast to 500, flat out | fanout | cpu_us~1 deliveries_per_second>1000000 lost
broadcast to 500, one frame a send | fanout --one-per-send | of_floor_percent>85 cpu_us~4.5 lost
broadcast to 500, 20 messages/s | fanout --seconds 10 --rate 20
  | answer_p50_ms<1 answer_p99_ms<2 p50_ms<4 p99_ms<8 lost
publications to a channel of 500, flat out | fanout --channel | cpu_us~1 lost
publications to a channel of 500, one frame a send | fanout --one-per-send --channel
  | of_floor_percent>85 lost
three subscriptions of 15,000 clients of Centrifugo | channels
  | cpu_us~15 rss_connection_bytes<1700 missing errors
three subscriptions of 15,000 clients, cmd | channels --dialect cmd
  | rss_connection_bytes<1300 missing errors
1,000 streams at 20 pieces/s | streams | p99_ms<50 lost unfinished doubled refused
1,000 streamed answers of a bot at 20 pieces/s | streams --bot | p99_ms<50 lost unfinished doubled refused
ping → pong | echo | cpu_us~10 round_trips_per_second>80000
heartbeat | echo --heartbeat | cpu_us~10 round_trips_per_second>80000
push to one user | push | cpu_us~30 requests_per_second>20000 lost
push in bulk, each frame alone | push --clients 1 --bulk 1000 | cpu_us~6.6 targets_per_second>150000 lost
push in bulk, frames sharing a send | push --bulk 1000 | cpu_us~6.6 targets_per_second>150000 lost
/api/v1/push to one user, with a key | push --v1 --keyed | cpu_us~30 requests_per_second>20000 lost
/api/v1/push at 1,000 requests/s | push --rate 1000 --v1 --keyed | answer_p99_ms<5 p99_ms<5 lost
/api/v1/push in bulk, each frame alone | push --clients 1 --bulk 1000 --v1 --keyed
  | cpu_us~6.6 targets_per_second>150000 lost
/api/v1/push in bulk, frames sharing a send | push --bulk 1000 --v1 --keyed
  | cpu_us~6.6 targets_per_second>150000 lost
publisher connection | publish --keyed | cpu_us~25 publishes_per_second>40000 lost
a group of 500, 500 messages/s, stored | chat | cpu_us~0.7 elapsed_seconds<41 ack_p99_ms<400 unstored lost
one-to-one, 500 messages/s, stored | chat --seconds 20 --single | ack_p99_ms<10 unstored lost
one-to-one, 500 senders flat out, stored | chat --rate 0 --seconds 10 --single
  | stored_per_second>15000 unstored lost
sync of 10,000 missed messages | chat --sync 10000 | seconds<1 missing errors lost
sync of 10,000 missed messages, protobuf | chat --sync 10000 --dialect protobuf
  | seconds<1 missing errors lost
5,000 log in, each 50 messages behind | chat --members 5000 --storm 50 | seconds<30 missing errors lost
handshake | handshake | cpu_us~40 errors
handshake with login | handshake --login | cpu_us~80 errors
10,000 drop and come back | storm | seconds<5 missing bystanders_lost
10,000 subscribers of one channel | channels --connections 10000 --crowd | count_p99_ms<5 lost missing errors
10,000 subscribers come back, each 50 publications behind | channels --connections 10000 --recover
  | seconds<10 missing errors
""")

SMOKE = table("""
bare sends to 100 sockets | floor --receivers 100 --seconds 0.3
1,000 idle logged-in connections | idle --connections 1000 --seconds 1
broadcast to 100, flat out | fanout --receivers 100 --seconds 0.5
broadcast to 100, one frame a send | fanout --receivers 100 --seconds 0.5 --one-per-send
broadcast to 100, 20 messages/s | fanout --receivers 100 --seconds 1 --rate 20
three subscriptions of 500 clients of Centrifugo | channels --connections 500
three subscriptions of 200 clients, cmd | channels --connections 200 --dialect cmd
ping → pong | echo --connections 100 --seconds 0.5
heartbeat | echo --connections 100 --seconds 0.5 --heartbeat
push to one user | push --users 100 --seconds 0.5
push to users in bulk | push --users 100 --seconds 0.5 --bulk 100
/api/v1/push to one user | push --users 100 --seconds 0.5 --v1
/api/v1/push in bulk | push --users 100 --seconds 0.5 --bulk 100 --v1
publisher connection | publish --users 100 --seconds 0.5
a group of 20, stored | chat --members 20 --rate 100 --seconds 1
one-to-one, stored | chat --members 20 --rate 0 --seconds 1 --single
sync of 500 missed messages | chat --sync 500
100 log in, each 10 messages behind | chat --members 100 --storm 10
handshake | handshake --connections 500
handshake with login | handshake --connections 500 --login --members 0
1,000 drop and come back | storm --clients 1000 --bystanders 50
200 subscribers of one channel | channels --connections 200 --crowd
three subscriptions of 200 clients, each with a token | channels --connections 200 --token
200 subscribers come back, each 20 publications behind | channels --connections 200 --recover --behind 20
100 streams at 20 pieces/s | streams --streams 100 --seconds 1
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
the RPC alone, encrypted: items of 150 bytes between two processes | cluster --part rpc
  | rpc_100_per_second>50000 rpc_1_cpu_us~40 rpc_100_cpu_us~1 p99_ms<15 lost
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

SUITES = {"all": ALL, "smoke": SMOKE, "cluster": CLUSTER, "million": MILLION, "abuse": ABUSE}
