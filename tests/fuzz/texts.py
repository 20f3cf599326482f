"""Texts that other programs send: messages for ntfy, texts of Slack, headers of uploads."""

from __future__ import annotations

import sys
from contextlib import suppress

from imserver.gateway.http.reply import ApiProblem
from imserver.notifications.digests import clean as clean_for_mail
from imserver.notifications.webpush import retry_after
from imserver.people.bots.incoming import text_of as text_of_hook
from tests.support import ROOT

from .target import Target

sys.path[:0] = [str(ROOT / "plugins" / name) for name in ("ntfy", "slack")]

from imserver_ntfy.message import Parameters, read_json, read_message  # noqa: E402
from imserver_ntfy.wire import Wish, read_since  # noqa: E402
from imserver_slack.export import Message as SlackMessage  # noqa: E402
from imserver_slack.text import Texts, text_of  # noqa: E402

_NAMES = (
    *("title", "message", "tags", "priority", "click", "icon", "attach", "actions", "since"),
    "authorization",
)
TEXTS = Texts({"U1": ("7", "Ann")}.get, {"C1": "general"})


def check_ntfy(data: bytes) -> None:
    """A request of a client of ntfy is read, or refused with ApiProblem. Lines are its headers, then its
    query, then its body."""
    *lines, query, body = [*data.split(b"\n", len(_NAMES) + 1), b"", b""][: len(_NAMES) + 2]
    headers = dict(zip(_NAMES, (line.decode("latin-1") for line in lines), strict=False))
    with suppress(ApiProblem):
        parameters = Parameters(headers, query.decode("latin-1"))
        with suppress(ApiProblem):
            parameters.credential()
        with suppress(ApiProblem):
            Wish.read("/ntfy/topic/json", parameters)
        assert 0 <= read_message("topic", parameters, body, 4096).priority <= 5
    with suppress(ApiProblem):
        given = read_json(data)
        read_message("topic", Parameters({}, "", given), b"", 4096)
    for text in (data.decode("latin-1"), data.decode("utf-8", "replace")):
        with suppress(ApiProblem):
            read_since(text)


def check_texts(data: bytes) -> None:
    """A text of Slack becomes one of ours, and any text one of a mail."""
    text = data.decode("utf-8", "replace")
    converted, mentions = TEXTS.convert(text)
    converted.encode()
    assert len(mentions) <= 100
    assert "\n" not in clean_for_mail(text)
    retry_after({"retry-after": text}, 1_800_000_000.0)


def check_blocks(data: bytes) -> None:
    """A message of an app of Slack has a text; any object at an incoming webhook may have one."""
    import msgspec

    with suppress(ValueError, RecursionError):
        text_of_hook(msgspec.json.decode(data, type=dict))
    try:
        message = msgspec.json.decode(data, type=SlackMessage)
    except (ValueError, RecursionError):
        return
    assert isinstance(text_of(message), str)


TARGETS = (
    Target(
        "ntfy",
        check_ntfy,
        lambda: (
            b"A title\nhello\nskull,warning\nurgent\nhttps://x.example\n\n\nview, Open, https://x.example; "
            b"http, Close, https://y.example, headers.a=b, clear=true\n10m\nBasic OmtleQ==\n"
            b"auth=x&sched=1\nbody",
            b'{"topic":"t","message":"m","actions":[{"action":"view","label":"a","url":"https://x"}],"tags":["a"]}',
            b"=?utf-8?q?gr=C3=BC=C3=9Fe?=\n",
        ),
    ),
    Target(
        "slack",
        check_texts,
        lambda: (
            b"hi <@U1> <#C1|general> <!here> <https://x.example|page> ~old~ "
            b":tada: :wave::skin-tone-3: `code` &amp;",
            b"```a\n<b>``` <mailto:a@b|a@b>",
            b"Wed, 21 Oct 2026 07:28:00 GMT",
        ),
    ),
    Target(
        "blocks",
        check_blocks,
        lambda: (
            b'{"ts":"1.2","text":"","blocks":[{"type":"rich_text","elements":[{"type":"rich_text_section",'
            b'"elements":[{"type":"text","text":"a"},{"type":"emoji","name":"tada"},{"type":"link","url":"https://x"}]}'
            b']}],"attachments":[{"title":"t","title_link":"https://x","fields":[{"title":"a","value":"b"}]}]}',
        ),
    ),
)
