"""Previews of links in stored messages, with servers and a web site on
loopback."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from tests.conftest import StartServer
from tests.integration.clusters import nodes_of
from tests.media.previews.site import Site, html, picture, redirect
from tests.support import Server, eventually
from tests.users import NamedUser, User

SETTINGS: dict[str, Any] = {
    "apps": {"gochat": {"previews": True}, "other": {}},
    "previews": {"allow_loopback": True, "seconds": 2},
}
PAGE = """<!doctype html><html><head><title>Plain</title>
<meta property="og:title" content="Tea &amp; cake">
<meta property="og:description" content="All about  tea.">
<meta property="og:site_name" content="Tea"><meta property="og:image" content="/cup.png">
</head><body><title>no</title></body></html>"""


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as one:
        one.pages = {"/tea": html(PAGE), "/cup.png": picture(1600, 800)}
        yield one


@pytest.fixture
def server(start_server: StartServer) -> Server:
    return start_server(config=SETTINGS)


def preview_of(user: User, message: int) -> dict[str, Any] | None:
    """The preview below a message, when it is made."""
    answers: list[dict[str, Any]] = []

    def is_ready() -> bool:
        answers.append(user.post("previews/show", messages=[message]))
        return not answers[-1]["pending"]

    eventually(is_ready)
    rows = answers[-1]["previews"]
    assert len(rows) <= 1
    return dict(rows[0]) if rows else None


def send(user: User, to: User, text: str) -> int:
    message: int = user.post("messages/send", to=to.user, text=text)["id"]
    return message


def test_a_page_is_fetched_once_in_an_app_and_its_picture_is_ours(
    server: Server, site: Site
) -> None:
    ann, bob, eve = (NamedUser(server, user) for user in ("ann", "bob", "eve"))
    link = f"{site.url}/tea"
    one = send(ann, bob, f"see {link}#top.")
    two = send(bob, ann, f"({link})")
    assert site.requests == []  # nothing is done when it is stored
    shown = preview_of(bob, one)
    path = shown.pop("picture")
    assert shown == {
        "message": one,
        "url": link,
        "title": "Tea & cake",
        "description": "All about tea.",
        "site": "Tea",
        "width": 640,
        "height": 320,
    }
    status, content = server.get(path)
    assert (status, content[:3]) == (200, b"\xff\xd8\xff")
    assert preview_of(ann, two) is not None
    both = ann.post("previews/show", messages=[one, two, two])
    assert [row["message"] for row in both["previews"]] == [one, two]
    assert site.requests == ["/tea", "/cup.png"]
    assert eve.post("previews/show", messages=[one, two]) == {
        "previews": [],
        "pending": [],
    }


def test_what_people_and_apps_do_not_want_is_not_shown(
    server: Server, site: Site
) -> None:
    ann = NamedUser(server, "ann", app="other")
    bob = NamedUser(server, "bob", app="other")
    assert ann.get("previews/wishes")["on"] is False
    assert preview_of(bob, send(ann, bob, f"{site.url}/tea")) is None
    assert site.connections == 0
    ann = NamedUser(server, "ann")
    bob = NamedUser(server, "bob")
    link = f"{site.url}/tea"
    message = send(ann, bob, link)
    assert ann.get("previews/wishes") == {"on": True, "make": True, "show": True}
    ann.post("previews/wishes", make=False, show=True)
    assert preview_of(bob, message) is None
    assert site.connections == 0
    ann.post("previews/wishes", make=True, show=True)
    bob.post("previews/wishes", make=True, show=False)
    assert preview_of(bob, message) is None
    assert site.connections == 0
    assert preview_of(ann, message) is not None
    bob.post("previews/wishes", make=True, show=True)
    assert preview_of(bob, message) is not None
    assert bob.refused("previews/remove", message=message) == (404, "unknown_message")
    ann.post("previews/remove", message=message)
    assert preview_of(bob, message) is None
    assert preview_of(bob, send(ann, bob, link)) is not None  # another message
    ann.post("messages/edit", id=message, text="no link")
    ann.post("messages/recall", id=message)
    assert preview_of(bob, message) is None


def test_pages_without_a_preview_are_not_asked_again(
    server: Server, site: Site
) -> None:
    ann = NamedUser(server, "ann")
    bob = NamedUser(server, "bob")
    site.pages |= {
        "/text": (200, b"<title>no page</title>", {"Content-Type": "text/plain"}),
        "/untitled": html("<p>nothing"),
        "/there": redirect("/tea"),
    }
    for path in ("missing", "text", "untitled"):
        for _ in range(2):
            assert preview_of(bob, send(ann, bob, f"{site.url}/{path}")) is None
    assert site.requests == ["/missing", "/text", "/untitled"]
    shown = preview_of(bob, send(ann, bob, f"{site.url}/there"))
    assert (shown["title"], shown["url"]) == ("Tea & cake", f"{site.url}/there")
    site.drip_seconds, site.pages["/slow"] = 0.05, html(PAGE)
    assert preview_of(bob, send(ann, bob, f"{site.url}/slow")) is None, (
        "it ends with the time"
    )
    assert site.requests[-1] == "/slow"


def test_a_sender_of_many_links_waits(server: Server, site: Site) -> None:
    ann = NamedUser(server, "ann")
    bob = NamedUser(server, "bob")
    page = html("<title>one of many")
    messages = []
    began = monotonic()
    for number in range(30):
        site.pages[f"/{number}"] = page
        messages.append(send(ann, bob, f"{site.url}/{number}"))
    shown: set[int] = set()
    for _ in range(8):
        answer = bob.post("previews/show", messages=messages)
        shown |= {row["message"] for row in answer["previews"]}
        assert len(answer["previews"]) + len(answer["pending"]) == 30
        eventually(lambda: metric(server, "imserver_previews_waiting") == 0)
    allowed = 20 + (monotonic() - began) / 3 + 1
    assert 4 < len(set(site.requests)) == len(site.requests) <= allowed
    assert (
        metric(server, "imserver_previews_made_total")
        == len(site.requests)
        >= len(shown)
        > 0
    )
    assert metric(server, "imserver_previews_refused_total") > 0


def metric(server: Server, name: str) -> int:
    text = server.get("/metrics")[1].decode()
    return sum(
        int(float(line.rpartition(" ")[2]))
        for line in text.splitlines()
        if line.startswith(name)
    )


@pytest.mark.needs("redis-server")
def test_two_nodes_fetch_a_page_once(tmp_path: Path, site: Site) -> None:
    """However many readers ask at the same time."""
    with nodes_of(tmp_path, 2, **SETTINGS) as nodes:
        first, second = nodes.servers
        ann = NamedUser(first, "ann")
        bob = NamedUser(first, "bob")
        message = send(ann, bob, f"{site.url}/tea")
        elsewhere = NamedUser(second, "bob")
        with ThreadPoolExecutor(8) as threads:
            shown = list(
                threads.map(
                    lambda user: preview_of(user, message), [ann, elsewhere] * 4
                )
            )
        assert [row and row["title"] for row in shown] == ["Tea & cake"] * 8
        assert site.requests == ["/tea", "/cup.png"]
        assert second.get((shown[0] or {})["picture"])[0] == 200
