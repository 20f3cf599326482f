"""The application that is made late, and features that would answer in place of others."""

from typing import Any

import pytest

from imserver.gateway.api.v1.table import operations_of
from imserver.gateway.auth.principal import Needs
from imserver.gateway.config.values import CORE
from imserver.gateway.core.core import Parts
from imserver.gateway.errors import StartError
from imserver.gateway.feature import FeatureRow
from imserver.gateway.http.call import Route
from imserver.gateway.node.feature_list import load_core
from imserver.gateway.node.http_servers import LateApplication, refuse_shared
from imserver.gateway.protocol.dialect import Dialect


def test_a_late_application_is_made_by_the_first_request_and_by_the_next_one_if_that_failed() -> None:
    def page(environ: dict[str, str], start_response: object) -> list[object]:
        return [environ["PATH_INFO"], start_response]

    results: list[Any] = [OSError("no template"), page]

    def make() -> Any:
        if isinstance(found := results.pop(0), OSError):
            raise found
        return found

    late = LateApplication(make)
    assert len(results) == 2
    with pytest.raises(OSError, match="no template"):
        late({}, len)
    assert [late({"PATH_INFO": path}, len) for path in "ab"] == [["a", len], ["b", len]]


def of_dialect(**attributes: str) -> dict[str, Any]:
    return {"dialects": (type("Copied", (Dialect,), {"name": "lamp", "path": "/lamp", **attributes})(),)}


@pytest.mark.parametrize(
    ("row", "output"),
    [
        (of_dialect(name="cmd"), "cmd has the dialect cmd"),
        (of_dialect(path="/acc"), "cmd has the WebSocket path /acc"),
        (of_dialect(path="/bell", chosen_by="of"), "bell has the WebSocket path /bell with the parameter of"),
        ({"wire": {"cmd": {"ring": id}}}, "bell has the command ring of the dialect cmd"),
        ({"wire": {"protobuf": {"64": id}}}, "bell has the command 64 of the dialect protobuf"),
        ({"routes": (Route("POST", "/api/v1/push", Needs.ANYONE, None),)}, "the core has POST /api/v1/push"),
        ({"routes": (Route("GET", "/api/v1/events", Needs.ANYONE, None),)}, "sse has GET /api/v1/events"),
    ],
)
def test_a_feature_does_not_answer_in_place_of_another(row: dict[str, Any], output: str) -> None:
    own = {"wire": {"cmd": {"ring": id}, "protobuf": {"64": id}}}
    dialect = of_dialect(name="bell", path="/bell", chosen_by="of")
    bell = FeatureRow("bell", lambda parts: Parts(), **own, **dialect)
    lamp = FeatureRow("lamp", lambda parts: Parts(), **row)
    with pytest.raises(StartError, match=f"^the feature 'lamp': {output} already$"):
        refuse_shared((*load_core(), bell, lamp), operations_of(CORE))
