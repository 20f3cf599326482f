"""The application that is made late."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from imserver.servers import LateApplication


def test_a_late_application_is_made_by_the_first_request_and_only_by_that() -> None:
    made = []

    def make() -> Callable[..., Iterable[bytes]]:
        made.append(len(made))
        return lambda environ, start_response: [environ["PATH_INFO"], start_response]

    late = LateApplication(make)
    assert made == []
    assert [late({"PATH_INFO": path}, len) for path in "ab"] == [["a", len], ["b", len]]
    assert made == [0]


def test_what_goes_wrong_in_the_making_is_raised_and_the_next_request_tries_again() -> None:
    tries: list[Any] = [OSError("no template"), lambda environ, start_response: [b"page"]]

    def make() -> Any:
        found = tries.pop(0)
        if isinstance(found, OSError):
            raise found
        return found

    late = LateApplication(make)
    with pytest.raises(OSError, match="no template"):
        late({}, len)
    assert late({}, len) == [b"page"]
