"""The scenario answers: a few streams, reloads, stops, and the death of a node."""

import pytest

from tests.bench.play import found
from tests.tools import require

pytestmark = [pytest.mark.linux, pytest.mark.full]


def test_every_character_comes_once_and_every_stop_is_heard() -> None:
    require("redis-server")
    options = ("--streams", "20", "--seconds", "3", "--reloads", "20", "--kills", "1", "--stops", "8")
    figures = found("answers", *options)["figures"]
    assert (figures["kills"], figures["stops"]) == (1, 8)
    assert figures["texts_wrong"] == figures["stops_unheard"] == figures["unfinished"] == 0
    assert figures["page_reloads"] > 0
    assert figures["characters"] > 0
