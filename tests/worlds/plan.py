"""What happens in a world: a list of steps, drawn from a seed."""

from dataclasses import dataclass
from random import Random
from typing import Final

NODES: Final = 3
FAULTS: Final = (
    "crash",
    "drain",
    "pause",
    "stall",
    "cut redis",
    "cut redis one way",
    "cut nodes",
    "cut nodes one way",
    "cut database",
    "cut database one way",
    "slow redis",
    "slow nodes",
    "slow database",
    "redis restarts",
    "redis loses a second",
    "redis loses all",
    "machines restart",
    "database restarts",
    "database loses answers",
    "clock jumps",
    "clients are cut",
)
WORK: Final = (
    "messages",
    "burst of messages",
    "notes",
    "pushes",
    "claims",
    "retries",
    "publications",
    "logins",
    "subscriptions",
    "reads",
)
LOSES: Final = "database loses commits"
"""A fault that is only in worlds of its own: what was acknowledged may be lost
then."""


@dataclass(frozen=True)
class Step:
    """At ``at`` seconds something happens. ``which`` chooses among nodes or
    clients, ``amount`` (0 to 1) says how long or how much."""

    at: float
    name: str
    which: int
    amount: float


@dataclass(frozen=True)
class Plan:
    """The steps of a world of ``seconds``."""

    seconds: float
    steps: tuple[Step, ...]

    def as_text(self) -> str:
        """One line per step."""
        return "\n".join(
            f"{step.at:10.3f} {step.name} {step.which} {step.amount:.3f}"
            for step in self.steps
        )


def plan_of(
    seed: int, seconds: float, *, focus: tuple[str, ...] = (), pace: float = 1.0
) -> Plan:
    """The plan of a seed. ``focus``: kinds of steps; the plan has these alone,
    more often the less the ``pace``."""
    random = Random(f"{seed} plan")
    # Each world has some of the faults, so that some worlds have few. One of
    # eight may lose commits.
    some = random.sample(FAULTS, random.randint(1, 6))
    if random.random() < 0.125:
        some.append(LOSES)
    work: tuple[str, ...] = WORK
    if focus:
        some = [name for name in focus if name not in WORK]
        work = tuple(name for name in focus if name in WORK)
    pace = pace if focus else random.choice((6.0, 20.0, 60.0))
    means = {name: random.uniform(6, 15) * pace for name in some}
    slowness = 2.0 * pace if focus else 3.0
    means |= {
        name: random.uniform(1, 4) * slowness * random.choice((1, 1, 5))
        for name in work
    }
    steps: list[Step] = []

    def add(at: float, name: str) -> None:
        if at < seconds:
            steps.append(
                Step(max(at, 0.0), name, random.randrange(1 << 16), random.random())
            )

    for name, mean in means.items():
        at = random.expovariate(1 / mean)
        while at < seconds:
            add(at, name)
            # Faults come together, and with work: that finds more than each
            # alone.
            if name in some and random.random() < 0.4:
                add(at + random.uniform(-1.0, 1.5), random.choice(some))
            if name in some and work and random.random() < 0.6:
                add(at + random.uniform(-0.1, 0.5), random.choice(work))
            at += random.expovariate(1 / mean)
    return Plan(seconds, tuple(sorted(steps, key=lambda step: step.at)))
