"""How many rows the messages page keeps in the document. Times: page_speed.py."""

from pathlib import Path

import pytest

from tests.browser import page_speed
from tests.browser.conftest import Pair
from tests.conftest import StartServer

pytestmark = [pytest.mark.full]


def test_a_long_conversation_keeps_few_rows_in_the_document(
    pair: Pair, start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(config={"accounts": {"registrations_per_address": 0}})
    speed = page_speed.measure(server, pair[0], 700, frames=250)
    assert 20 < speed.rows <= 200
    assert speed.passed > 0
