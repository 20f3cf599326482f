"""The site of the documents: order, links, search, and what a browser fetches
for it."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from tests.browser.chromium import Browser
from tests.browser.site import serve_folder
from tests.support import ROOT, eventually
from tests.tools import require
from tools import site

SEARCH = Path(__file__).parent / "search.mjs"

QUESTIONS = Path(__file__).with_name("questions.txt")


def listed_pages() -> list[str]:
    def walk(entries: list[Any]) -> Iterator[str]:
        for entry in entries:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                yield from walk(value) if isinstance(value, list) else [value]

    config = tomllib.loads((ROOT / site.CONFIG).read_text(encoding="utf-8"))
    return list(walk(config["project"]["nav"]))


def test_every_page_has_its_place() -> None:
    pages = {
        path.relative_to(ROOT / "docs").as_posix()
        for path in (ROOT / "docs").rglob("*.md")
    }
    # their list has them
    pages -= {page for page in pages if page.startswith("decisions/0")}
    listed = listed_pages()
    assert len(listed) == len(set(listed))
    assert {page for page in listed if not page.startswith(f"{site.FILES}/")} == pages


def test_files_beside_the_documents_become_pages(tmp_path: Path) -> None:
    target = tmp_path / "t"
    to_part = "[more](guides/more.md#a-part)"
    site.stage(small_tree(tmp_path, f"[all](../config/all.yaml), {to_part}"), target)
    assert (
        f"[all](files/config/all.yaml.md), {to_part}"
        in (target / "README.md").read_text()
    )
    assert (
        target / "files/config/all.yaml.md"
    ).read_text() == "# config/all.yaml\n\n````yaml\na: 1\n````\n"
    more = (target / "guides/more.md").read_text()
    assert "```console\n$ [not](a-link)\n```" in more
    assert "[start](../README.md)" in more


def small_tree(folder: Path, start: str) -> Path:
    console = "```console init\n$ [not](a-link)\n```"
    files = {
        "config/all.yaml": "a: 1\n",
        "docs/README.md": f"# Start\n\n{start}\n",
        "docs/guides/more.md": f"# More\n\n## A part\n\n{console}\n\n[start](../README.md)\n",
        site.CONFIG: '[project]\nsite_name = "small"\nnav = ["README.md", "guides/more.md"]\n',
    }
    for name, text in files.items():
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / "tree"


def test_the_page_of_a_house_has_the_street_and_what_the_server_has_of_it() -> None:
    page = site.show_street(
        ROOT,
        Path("houses/media.md"),
        "# Media\n\n| | |\n| --- | --- |\n| tests | all |\n",
    )
    assert "| tests | all |\n| features | `uploads`" in page
    assert re.search(r"\| tables of the database \|.* `link_preview` \|\n", page)
    assert {*re.findall(r'href="\.\./(\w+)/" class="(\w+)"', page)} == {
        ("media", "here"),
        ("messenger", "below"),
        ("gateway", "below"),
    }


@pytest.mark.full("programs")
@pytest.mark.parametrize("link", ["guides/no-page.md", "guides/more.md#no-part"])
def test_a_broken_link_fails_the_build(link: str, tmp_path: Path) -> None:
    target = tmp_path / "site"
    with pytest.raises(click.ClickException, match=r"README\.md:3"):
        site.build(small_tree(tmp_path, f"[broken]({link})"), target)
    assert not target.exists()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "below"
    site.build(ROOT, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.full("programs")
def test_two_builds_are_the_same_bytes(built: Path, tmp_path: Path) -> None:
    site.build(ROOT, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(built)


@pytest.mark.full("programs")
def test_nothing_comes_from_another_host(built: Path) -> None:
    """And each address is relative, so that the site works below any path."""
    for path in built.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(
            r"<(?:script|img|source|iframe)\b[^>]*?\ssrc=\"?([^\s\">]+)", text
        )
        loaded += re.findall(r"<link\b[^>]*?\shref=\"?([^\s\">]+)", text)
        assert loaded
        assert [each for each in loaded if re.match(r"[a-z]+:|/", each)] == [], path
    for path in built.rglob("*.css"):
        addresses = re.findall(
            r"(?:url\(|@import\s)\s*[\"']?([^\"')]+)", path.read_text(encoding="utf-8")
        )
        assert [each for each in addresses if re.match(r"https?:|/", each)] == [], path


@pytest.mark.full("programs")
@pytest.mark.needs("node")
def test_questions_find_their_place_among_the_first_three_hits(built: Path) -> None:
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    questions = dict(line.split(" = ") for line in lines if not line.startswith("#"))
    pages = {
        item["location"]
        for item in json.loads((built / "search.json").read_bytes())["items"]
    }
    assert {
        location for answers in questions.values() for location in answers.split()
    } <= pages
    command = [require("node"), str(SEARCH), str(built)]
    done = subprocess.run(
        command,
        input=json.dumps([*questions]),
        capture_output=True,
        text=True,
        check=True,
    )
    missed = {
        question: hits[:5]
        for (question, answers), hits in zip(
            questions.items(), json.loads(done.stdout), strict=True
        )
        if not any(
            {hit, hit.partition("#")[0]} & set(answers.split()) for hit in hits[:3]
        )
    }
    assert len(questions) == 75
    assert len(missed) <= 5, missed


@pytest.mark.parametrize(
    ("headings", "version"),
    [
        (["1.1.0 (unreleased)", "1.0.0 (2026-11-26)"], "1.1.0, unreleased after 1.0.0"),
        (["1.1.0 (2027-01-05)", "1.0.0 (2026-11-26)"], "1.1.0"),
    ],
)
def test_a_page_says_for_which_version_it_is(headings: list[str], version: str) -> None:
    assert (
        site.version_of("# Changes\n" + "".join(f"\n## {each}\n" for each in headings))
        == version
    )


_HITS = """
const shadows = [...document.querySelectorAll("*")].map(({ shadowRoot }) => shadowRoot).filter(Boolean);
return shadows.flatMap((root) => [...root.querySelectorAll("ol a")].map(({ href }) => href));
"""
_LOADED = "return performance.getEntriesByType('resource').map(({ name }) => name)"
_COLOUR = "return getComputedStyle(document.body).backgroundColor"


@pytest.mark.full("browser")
@pytest.mark.needs("chromium", "chromedriver")
def test_the_site_works_below_a_path_of_a_static_server(
    built: Path, tmp_path: Path
) -> None:
    with serve_folder(built.parent) as address:
        browser = Browser(tmp_path / "profile")
        try:
            url = f"{address}/{built.name}/guides/send-a-push/"
            light = browser.open(url).run(_COLOUR)
            page = browser.open(url, dark=True)
            assert page.run(_COLOUR) != light
            page.click(".md-search__button")
            for key in "send push curl":
                page.press(key)
            eventually(
                lambda: [hit for hit in page.run(_HITS)[:3] if hit.startswith(url)],
                what="hits",
            )
            assert {
                name.startswith(f"{address}/{built.name}/")
                for name in page.run(_LOADED)
            } == {True}
            assert browser.complaints() == []
        finally:
            browser.quit()
