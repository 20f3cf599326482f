"""The codec of the pusher dialect beyond its samples: any data, close codes."""

import pytest

from imserver.dialects.pusher import wire
from imserver.gateway import errors
from imserver.gateway.model import Event


@pytest.mark.parametrize("data", ["{}", '{"a": [1, 2]}', "5", '"x"', "hello", "", "{", "null"])
def test_the_data_of_an_event_arrive_unchanged(data: str) -> None:
    content, text = wire.as_payload(data)
    assert wire.data_of(Event("msg", "", text, data=content)) == data


def test_every_close_code_of_ours_has_one_that_clients_understand() -> None:
    codes = wire.CLOSE_CODES
    for row in errors.CLOSE.values():
        code = codes.get(row.code, row.code)
        if row.code >= 4000:
            assert row.code in codes
            assert 4100 <= code < 4300 if row.reconnect else 4001 <= code < 4100, row
