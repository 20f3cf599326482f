"""The fields of Centrifugo's server API and proxies: the tables of the guide,
row by row."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
import pytest
from msgspec import Struct

from imserver.dialects.centrifuge import api, service
from imserver.dialects.centrifuge.claims import SubscriptionClaims
from imserver.gateway.auth.channel_tokens import ChannelClaims
from imserver.gateway.channels import consent
from imserver.gateway.protocol.forgiving import Partial
from tests.support import ROOT

GUIDE: Final = (ROOT / "docs/guides/from-centrifugo.md").read_text(encoding="utf-8")
METHODS: Final[Mapping[str, type[Struct]]] = {
    **{name: method.request for name, method in api.METHODS.items()},
    "batch": api.CommandBatch,
}
RESULTS: Final[Mapping[str, type[Partial]]] = {
    "connect": service.ConnectAnswer,
    "subs": SubscriptionClaims,
    "refresh": service.RenewalAnswer,
    "subscribe": consent.AllowedSubscription,
    "sub_refresh": service.RenewalAnswer,
    "publish": consent.AllowedPublication,
    "rpc": service.RpcResult,
}
NO_OTHER_MEANING: Final = ("delta", "parallel")
"""Fields that the guide explains: they allow something that this server does,
or does not need."""
OF_CENTRIFUGO: Final = {
    "methods": {
        "publish": "channel data b64data skip_history tags idempotency_key delta version version_epoch",
        "broadcast": "channels data b64data skip_history tags idempotency_key delta version version_epoch",
        "subscribe": "channel user expire_at info b64info client data b64data recover_since override session",
        "unsubscribe": "channel user client session",
        "disconnect": "user disconnect client whitelist session",
        "refresh": "user client expired expire_at info session",
        "presence": "channel",
        "presence_stats": "channel",
        "history": "channel limit since reverse",
        "history_remove": "channel",
        "channels": "pattern",
        "info": "",
        "batch": "commands parallel",
    },
    "results": {
        "connect": "user expire_at info b64info data b64data channels subs meta caps labels",
        "subs": "expire_at info b64info data b64data override server_tags_filter cache_recover",
        "refresh": "expired expire_at info b64info meta caps",
        "subscribe": "expire_at info b64info data b64data override allow server_tags_filter",
        "sub_refresh": "expired expire_at info b64info",
        "publish": "data b64data skip_history tags idempotency_key delta version version_epoch",
        "rpc": "data b64data",
    },
}
"""Its own fields, by the table of the guide and the name of the object."""


def _rows(head: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each name in the rows of a table, with its fields, and those that are not
    supported."""
    for line in GUIDE.partition(f"| {head} | fields | not supported |\n")[
        2
    ].splitlines()[1:]:
        if not line.startswith("|"):
            return
        names, fields, refused = (
            re.findall(r"`(\w+)`", cell) for cell in line.split("|")[1:4]
        )
        for name in names:
            yield name, fields, refused


def _fields(head: str) -> list[tuple[str, str, bool]]:
    return [
        (name, field, known)
        for name, fields, refused in _rows(head)
        for known, some in ((True, fields), (False, refused))
        for field in some
    ]


@pytest.mark.parametrize(
    ("head", "kind"), [("method", "methods"), ("`result` of", "results")]
)
def test_the_guide_has_all_fields_of_centrifugo(head: str, kind: str) -> None:
    listed = {name: sorted(fields + refused) for name, fields, refused in _rows(head)}
    assert listed == {
        name: sorted(fields.split()) for name, fields in OF_CENTRIFUGO[kind].items()
    }


@pytest.mark.parametrize(("method", "field", "known"), _fields("method"))
def test_a_field_of_a_request_is_known_or_refused(
    method: str, field: str, known: bool
) -> None:
    kind = METHODS[method]
    if known:
        assert field in NO_OTHER_MEANING or field in kind.__struct_fields__
        return
    assert issubclass(kind, Partial)
    for nothing in ('""', "0", "false", "null", "{}", "[]"):
        msgspec.json.decode(f'{{"{field}":{nothing}}}', type=kind).check()
    with pytest.raises(ValueError, match=f"^{field} is not supported$"):
        msgspec.json.decode(msgspec.json.encode({field: [1]}), type=kind).check()


@pytest.mark.parametrize(("call", "field", "known"), _fields("`result` of"))
def test_a_field_of_an_answer_is_known_or_refused(
    call: str, field: str, known: bool
) -> None:
    kind = RESULTS[call]
    if known:
        assert field in NO_OTHER_MEANING or field in kind.__struct_fields__
        assert field not in kind.not_supported
        return
    with pytest.raises(msgspec.ValidationError, match=f"^{field} is not supported"):
        msgspec.json.decode(msgspec.json.encode({field: [1]}), type=kind)


@pytest.mark.parametrize("kind", [*METHODS.values(), *RESULTS.values(), ChannelClaims])
def test_payloads_may_be_in_base64(kind: Any) -> None:
    for name in getattr(kind, "in_base64", ()):
        found = msgspec.json.decode(
            msgspec.json.encode({f"b64{name}": b'{"a":1}'}), type=kind
        )
        found.check()
        assert bytes(getattr(found, name)) == b'{"a":1}'
        for bad in ("!", msgspec.json.decode(msgspec.json.encode(b"no"))):
            with pytest.raises(ValueError, match=f"b64{name} is not JSON in base64"):
                msgspec.json.decode(
                    msgspec.json.encode({f"b64{name}": bad}), type=kind
                ).check()
