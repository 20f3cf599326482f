"""The tables of states in the documents are those of the code."""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any

import pytest

from imserver.gateway.transport.states import CONNECTION_TRANSITIONS, ConnectionEvent
from imserver.messenger.messages.acks import ACK_TRANSITIONS, AckEvent
from tests.support import ROOT


@pytest.mark.parametrize(
    ("table", "events"), [(CONNECTION_TRANSITIONS, ConnectionEvent), (ACK_TRANSITIONS, AckEvent)]
)
def test_the_page_shows_the_table_of_the_code(
    table: Mapping[IntEnum, Mapping[Any, IntEnum]], events: type[IntEnum]
) -> None:
    pages = ("architecture.md", "houses/messenger.md")
    lines = "".join((ROOT / "docs" / page).read_text(encoding="utf-8") for page in pages).splitlines()
    begin = lines.index(f"| state | {' | '.join(event.name for event in events)} |")
    rows = [line.strip("|").split("|") for line in lines[begin + 2 : begin + 2 + len(table)]]
    written = {row[0].split("`")[1]: [cell.strip() for cell in row[1:]] for row in rows}
    assert written == {
        state.name: [row[event].name if event in row else "" for event in events]
        for state, row in table.items()
    }
