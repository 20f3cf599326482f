"""The server, which at SIGWINCH adds to its file ``weights`` a line: how many
bytes its objects take.

Run as a script. What an allocation takes is what the allocator gives it, a
multiple of :data:`STEP_BYTES`. Accounts are not what is weighed: a number is
the token of the account that has it.
"""

from gevent import monkey

monkey.patch_all()

import gc  # noqa: E402 - nothing may be imported before the patch
import signal  # noqa: E402
import tracemalloc  # noqa: E402
from pathlib import Path  # noqa: E402

import gevent  # noqa: E402

from imserver.cli import main  # noqa: E402
from imserver.people.accounts.contract import Account, FullSession  # noqa: E402
from imserver.people.accounts.tokens import AccountTokens  # noqa: E402

STEP_BYTES = 16


ENDS_AT = 4102444800


def holder(_tokens: AccountTokens, token: str, *_: object) -> FullSession:
    """The account with the number that is shown as its token."""
    return FullSession(Account(int(token), "gochat", token), token, ENDS_AT)


def weigh() -> None:
    """Write down what is held now."""
    gc.collect()
    taken = sum(
        -(-trace.size // STEP_BYTES) * STEP_BYTES
        for trace in tracemalloc.take_snapshot().traces
    )
    with Path("weights").open("a") as weights:
        weights.write(f"{taken}\n")


if __name__ == "__main__":
    AccountTokens.holder = holder  # type: ignore[assignment,method-assign]
    tracemalloc.start()
    gevent.signal_handler(signal.SIGWINCH, weigh)
    main()
