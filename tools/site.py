"""Builds the documents as a site, with search: ``make site``.

The pages are those of ``docs/``. Files beside that folder to which they link
become pages, too: other documents, settings, examples, files of ``deploy/``.
zensical.toml has the order. A broken link or anchor fails the build. Each page
names the version of its tree. Two builds of the same sources are the same
bytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import click

ROOT: Final = Path(__file__).parents[1]
CONFIG: Final = "zensical.toml"
SEARCH: Final = Path(__file__).with_name("site_search.js")
STYLE: Final = Path(__file__).with_name("site.css")
WORDS: Final = Path(__file__).with_name("site_words.txt")
LONGEST: Final = 35_000
"""Characters of a section that the search reads. What is longer is no text for
people."""
FILES: Final = "files"
"""Folder of the site for files that are not below ``docs/``."""
LANGUAGES: Final = {
    ".conf": "ini",
    ".js": "js",
    ".json": "json",
    ".proto": "proto",
    ".py": "python",
    ".service": "ini",
    ".yaml": "yaml",
}
"""Suffix of a file that is no document → the language of its block. Any other
is plain text."""

_FENCED: Final = re.compile(r"^```([\w-]*)[^\n]*\n.*?^```$", re.MULTILINE | re.DOTALL)
_LINK: Final = re.compile(r"(\]\()([^)\s]+)(\))")
_COLOURS: Final = re.compile(r"\x1b\[[\d;]*m")
_EXTERNAL: Final = re.compile(r"[a-z]+:")
_TABLE: Final = re.compile(r"^\|.*\n\| ---.*\n(?:\|.*\n)+", re.MULTILINE)
_SECTION: Final = re.compile(r"\n\n(?=(?:#.*\n)*[a-z]\w*:)")
"""Before a section of settings, and the comments above it."""
_STREET: Final = re.compile(r"<p>(?:\w+<small>[^<]*</small>)+</p>\s*")
_VERSION: Final = re.compile(r"^## (\d+\.\d+\.\d+) \(([^)]+)\)$", re.MULTILINE)
_PICTURES: Final = {".png", ".svg", ".webp"}


@click.command()
@click.option(
    "--out",
    default="build/site",
    show_default=True,
    help="Folder of the site. It is replaced.",
)
def main(out: str) -> None:
    """Build the site of the documents in this tree."""
    target = Path(out)
    build(ROOT, target)
    files = [path for path in target.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    click.echo(f"{len(files)} files, {size / 1e6:.1f} MB, in {target}")
    click.echo(
        f"To read it: python3 -m http.server --bind 127.0.0.1 --directory {target}"
    )


def build(tree: Path, target: Path) -> None:
    """Build the site of the documents in ``tree``. Raises ClickException, which
    names each broken link."""
    with TemporaryDirectory() as folder:
        work = Path(folder)
        shutil.copy(tree / CONFIG, work)
        stage(tree, work / "docs")
        command = (sys.executable, "-m", "zensical", "build", "--clean", "--strict")
        done = subprocess.run(
            command, cwd=work, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            issues = _COLOURS.sub("", done.stdout + done.stderr).partition("Traceback")[
                0
            ]
            raise click.ClickException(f"the site was not built:\n{issues}")
        # its addresses begin with "/": it would be wrong below a path
        (work / "site/404.html").unlink()
        finish(tree, work / "site")
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(work / "site", target)


def finish(tree: Path, site: Path) -> None:
    """Name the version on each page, and put our search in place of zensical's.

    That one finds no page that lacks a word of a sentence.
    """
    (old,) = (site / "assets/javascripts/workers").glob("search.*.js")
    new = old.with_name(f"search.{sha256(SEARCH.read_bytes()).hexdigest()[:8]}.js")
    shutil.copy(SEARCH, new)
    old.unlink()
    version = version_of((tree / "CHANGELOG.md").read_text(encoding="utf-8"))
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8").replace(old.name, new.name)
        changes = os.path.relpath(site / FILES / "CHANGELOG", page.parent)
        line = (
            f'<p class="version">Version {version} · <a href="{changes}/">changes</a>'
        )
        page.write_text(
            text.replace("</h1>", f"</h1>\n{line}</p>", 1), encoding="utf-8"
        )
    index = json.loads((site / "search.json").read_text(encoding="utf-8"))
    index["config"]["words"] = synonyms()
    for item in index["items"]:
        item["text"] = (
            "" if len(item["text"]) > LONGEST else _STREET.sub("", item["text"])
        )
    text = json.dumps(index, ensure_ascii=False, separators=(",", ":"))
    (site / "search.json").write_text(text, encoding="utf-8")


def version_of(changes: str) -> str:
    """The version of a tree with this CHANGELOG: ``1.0.0``, or ``1.1.0,
    unreleased after 1.0.0``."""
    (version, day), *older = _VERSION.findall(changes)
    if day != "unreleased":
        return str(version)
    return f"{version}, unreleased after {older[0][0]}"


def synonyms() -> list[tuple[str, list[str]]]:
    """What people say → the words of the documents for it."""
    lines = re.sub(r"^#.*\n", "", WORDS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    rows = [row.split(" = ") for row in re.split(r"; |\n", lines) if row]
    return [
        (each.replace("_", " "), words.split())
        for words, queries in rows
        for each in queries.split()
    ]


def stage(tree: Path, target: Path) -> None:
    """Write the pages of the site as Markdown into the new folder
    ``target``."""
    docs = tree / "docs"
    shutil.copytree(
        docs,
        target,
        ignore=lambda _, names: [name for name in names if name.endswith(".md")],
    )
    shutil.copy(STYLE, target)
    waiting = sorted(docs.rglob("*.md"))
    written: set[Path] = set()
    while waiting:
        source = waiting.pop()
        page = page_of(tree, source)
        if page in written:
            continue
        written.add(page)
        text = source.read_text(encoding="utf-8")
        if source.suffix == ".md":
            text, files = as_page(tree, source, show_street(tree, page, text))
            waiting += files
        else:
            text = f"# {source.relative_to(tree)}\n\n{as_blocks(source, text)}"
        (target / page).parent.mkdir(parents=True, exist_ok=True)
        (target / page).write_text(text, encoding="utf-8")


def show_street(tree: Path, page: Path, text: str) -> str:
    """Put the map of the street, and what a house has, to the first table of
    the page."""
    house = page.stem if page.parent == Path("houses") else ""
    if not house and page != Path("architecture.md"):
        return text
    # Imported here: other documents need nothing of the server.
    from tools import street

    drawing = street.draw_street("../" if house else "../houses/", house)
    if house:
        contents = street.list_contents(tree, house)
    else:
        contents = ""
    return _TABLE.sub(
        lambda table: (
            f"{table[0]}{contents}\n{drawing}" if house else f"{drawing}\n{table[0]}"
        ),
        text,
        count=1,
    )


def page_of(tree: Path, source: Path) -> Path:
    """The page of the site that shows a file of the tree, below its folder of
    documents."""
    if source == tree / "README.md":
        # for readers in the sources; docs/README.md is the start of the site
        return Path("README.md")
    if source.is_relative_to(tree / "docs"):
        return source.relative_to(tree / "docs")
    path = source.relative_to(tree)
    return Path(FILES) / (path if path.suffix == ".md" else f"{path}.md")


def as_blocks(source: Path, text: str) -> str:
    """A file that is no document: one block, or of settings one for each
    section, with a heading."""
    language = LANGUAGES.get(source.suffix, "text")
    if source.parent.name == "config":
        parts = _SECTION.split(text)
    else:
        parts = [text]
    names = [
        "",
        *(re.findall(r"^[a-z]\w*(?=:)", part, re.MULTILINE)[0] for part in parts[1:]),
    ]
    blocks = (f"````{language}\n{part.rstrip()}\n````\n" for part in parts)
    return "\n".join(
        f"## {name}\n\n{block}" if name else block
        for name, block in zip(names, blocks, strict=True)
    )


def as_page(tree: Path, source: Path, text: str) -> tuple[str, list[Path]]:
    """The text of a document for the site, and the files beside ``docs/`` to
    which it links."""
    files: list[Path] = []
    page = page_of(tree, source)

    def aim(link: re.Match[str]) -> str:
        if _EXTERNAL.match(link[2]) or link[2].startswith("#"):
            return link[0]
        path, hash_mark, anchor = link[2].partition("#")
        aim_at = Path(os.path.normpath(source.parent / path))
        if not aim_at.is_file():
            return link[0]  # which zensical complains about
        if aim_at.suffix not in _PICTURES:
            to = page_of(tree, aim_at)
        else:
            to = aim_at.relative_to(tree / "docs")
        if to.parts[0] == FILES:
            files.append(aim_at)
        return (
            f"{link[1]}{os.path.relpath(to, page.parent)}{hash_mark}{anchor}{link[3]}"
        )

    parts: list[str] = []
    end = 0
    for block in _FENCED.finditer(text):
        # The words after a language are for the tests of the documents.
        parts += [
            _LINK.sub(aim, text[end : block.start()]),
            re.sub(r"^(```[\w-]*)[^\n]*", r"\1", block[0]),
        ]
        end = block.end()
    return "".join([*parts, _LINK.sub(aim, text[end:])]), files


if __name__ == "__main__":
    main()
