"""The table of texts, and names for newcomers."""

import json
import re
from pathlib import Path

import pytest
from werkzeug.datastructures import LanguageAccept

import imserver
from imserver.pages.assets import STATIC, TEMPLATES
from imserver.pages.text import LANGUAGES, REFERENCE, TEXT, choose_language
from imserver.pages.visitors import FIGURES, pick_name

TEMPLATE_SOURCES = [path.read_text() for path in TEMPLATES.rglob("*.html")]
SCRIPT_SOURCES = [path.read_text() for path in STATIC.rglob("*.js")]
#: methods of an element that is called ``words``
#: keys that a view names, or that are made from a code, a state, a unit or a kind of message
GENERATED = re.compile(
    r"(refused|state|unit|said|status_means|cluster_means)_\w+|talk_(image|video|voice)|start_(room|channels)|start_\w+_hint"
    r"|messages_((fault|login|refused|state|role|now|invitation|kind)_\w+|sent|received|read|picture|video|voice|file|location|album_\w+)"
    r"|messages_(section|has|filter|date|format)_\w+|messages_search_(people|talks)"
    r"|channels_(fault|hint)_\w+|callback_(title|hint)_\w+"
    r"|admin_(did|kind|fault|role|hold|refused|outcome|scope|sent|notice|type|user)_\w+|admin_\w+_hint"
)


def test_no_two_pages_have_a_text_of_the_same_name() -> None:
    files = (TEMPLATES / "words.zh.json", *TEMPLATES.glob("*/pages.zh.json"))
    pages = [
        row
        for file in files
        for row in json.loads(file.read_text(encoding="utf-8")).items()
    ]
    keys = [key for page, words in pages if page != "reference" for key in words]
    assert sorted(keys) == sorted(TEXT["zh"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_group_of_emoji_has_a_name(language: str) -> None:
    groups = json.loads(
        (STATIC / "messages" / "emoji" / f"{language}.json").read_text(encoding="utf-8")
    )
    assert len(TEXT[language]["messages_emoji_groups"].split("|")) == len(groups)


def test_the_reference_has_the_same_texts_in_every_language() -> None:
    first, *others = (REFERENCE[language] for language in LANGUAGES)
    for other in others:
        assert other.keys() == first.keys()
        for group in ("bounds", "chapters"):
            assert other[group].keys() == first[group].keys()


def blanks(text: str) -> set[str]:
    return set(re.findall(r"\{\w+\}", text))


@pytest.mark.parametrize("name", ["words", "mail"])
def test_words_beside_those_of_the_pages_are_in_every_language(name: str) -> None:
    """Those of notifications and mails, and of features that add to the
    messages page."""
    features = Path(imserver.__file__).parent.rglob(f"page/**/{name}.*.json")
    files = [*TEMPLATES.glob(f"*/{name}.*.json"), *features]
    for folder in {file.parent for file in files}:
        first, *others = (
            json.loads((folder / f"{name}.{language}.json").read_text("utf-8"))
            for language in LANGUAGES
        )
        for other in others:
            assert other.keys() == first.keys(), (
                f"the languages of {folder} have different keys"
            )
            for key, text in first.items():
                assert blanks(text) == blanks(other[key]), (folder, key)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_text_has_forms_for_all_numbers_or_for_one_and_more(language: str) -> None:
    """Arabic has six: zero, one, two, few, many, other."""
    forms = {key: len(text.split("|")) for key, text in TEXT[language].items()}
    del forms["messages_emoji_groups"]
    assert set(forms.values()) <= ({1, 2, 6} if language == "ar" else {1, 2})


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_search_understands_the_filters_of_each_language(language: str) -> None:
    source = (STATIC / "messages" / "search" / "search-query.js").read_text("utf-8")
    names = re.compile(
        "messages_(filter_(from|in|has|before|after)|has_(picture|video|voice|file|link))"
    )
    for key, text in TEXT[language].items():
        if names.fullmatch(key):
            assert f'"{text.lower()}"' in source, key


def test_every_text_is_there_in_every_language_with_the_same_blanks() -> None:
    first, *others = (TEXT[language] for language in LANGUAGES)
    for other in others:
        assert other.keys() == first.keys()
        for key, text in first.items():
            assert blanks(text) == blanks(other[key]), key


def test_every_text_is_used_and_every_used_text_exists() -> None:
    used = {
        key
        for source in TEMPLATE_SOURCES
        for key in re.findall(r"(?<!['\"])\b(?:text|page)\.(\w+)", source)
    }
    for source in SCRIPT_SOURCES:
        used |= set(re.findall(r"\bwords\.(\w+)", source))
        for names in re.findall(r"const \{([^}]+)\} = this\.words", source):
            used |= {name.split(":")[0].strip() for name in names.split(",")}
    known = set(TEXT["zh"])
    assert {key for key in known - used if not GENERATED.fullmatch(key)} == set()
    assert used - known - {"append"} == set()


@pytest.mark.parametrize(
    ("in_address", "accepted", "language"),
    [
        ("", [], "zh"),
        ("", [("zh-CN", 1)], "zh"),
        ("", [("en-US", 1), ("zh", 0.8)], "en"),
        ("", [("fr", 1), ("zh-TW", 0.5)], "zh"),
        ("", [("fr", 1)], "en"),
        ("", [("zh", 0), ("de-AT", 1)], "de"),
        ("", [("ar-EG", 1), ("en", 0.5)], "ar"),
        ("zh", [("en", 1)], "zh"),
        ("en", [], "en"),
        ("xx", [("zh", 1)], "zh"),
    ],
)
def test_the_language(
    in_address: str, accepted: list[tuple[str, float]], language: str
) -> None:
    assert choose_language(in_address, LanguageAccept(accepted)) == language


def test_a_mention_of_all_is_known_by_its_name_in_each_language() -> None:
    (names,) = re.findall(
        r"ALL_NAMES = (\[.*?\]);", (STATIC / "messages/parts/names.js").read_text()
    )
    assert set(json.loads(names)) == {words["messages_all"] for words in TEXT.values()}


@pytest.mark.parametrize("language", FIGURES)
def test_every_name_is_a_valid_user_id(language: str) -> None:
    figures = FIGURES[language]
    assert len(figures) == len(set(figures)) > 150
    assert all(len(f"{name}-abcdef".encode()) < 20 for name in figures)
    assert all(name.isascii() for name in FIGURES["en"]), (
        "an English keyboard has these letters"
    )
    given = [pick_name(language) for _ in range(1000)]
    assert len(set(given)) == len(given)
    assert all(
        name.partition("-")[0] in FIGURES[language] and len(name.partition("-")[2]) == 6
        for name in given
    )
