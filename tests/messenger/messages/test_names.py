"""Names: what may stand in them, and what is taken out of those that others have made."""

import unicodedata

import pytest

from imserver.messenger.messages.names import clean_name, is_name


@pytest.mark.parametrize(
    "name",
    [
        "Ann",
        "O'Neil, Ann-Marie (home)",
        "安",
        "Zoë",
        "محمد",
        "نامه\u200cای",  # Persian: the parts of a word
        "क्\u200dष",  # Devanagari: a half form
        "ශ්\u200dරී",  # Sinhala
        "👩\u200d💻",
        "👩🏽\u200d💻",
        "❤\ufe0f\u200d🔥",
        "👨\u200d👩\u200d👧",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
        "1\ufe0f\u20e3",
        "\U0001faf8",  # an emoji that is newer than some releases of Python
    ],
)
def test_people_have_names_in_their_scripts_and_with_emoji(name: str) -> None:
    assert is_name(name, 1, 64)
    assert clean_name(name) == name


@pytest.mark.parametrize(
    "character",
    [
        *"\n\t\x00\x7f\x9f\xad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u2060\u2064\u2065\ufeff",
        *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u206f\ufff9\uffff",
        *"\u034f\u115f\u1160\u3164\uffa0\ue000\ud800\U000e0001\U000e0041\U000e0100\U000f0000",
    ],
    ids=lambda each: f"{ord(each):04X}",
)
def test_what_nobody_sees_is_refused_and_taken_out(character: str) -> None:
    name = f"An{character}n"
    assert not is_name(name, 1, 64)
    assert clean_name(name) == "Ann"
    assert clean_name(f"{character}安{character}") == "安"
    assert not is_name(character, 1, 64)


@pytest.mark.parametrize("name", [" ", "   ", "\u3000", "\xa0", "\u2800", "\ufe0f", " \ufe0f\u2800"])
def test_a_name_has_something_to_see(name: str) -> None:
    assert not is_name(name, 0, 64)
    assert clean_name(f"{name}\u200b") == ""


def test_a_name_has_a_length() -> None:
    assert [is_name("安" * length, 0, 3) for length in range(5)] == [True, True, True, True, False]
    assert not is_name("", 1, 3)


def test_no_format_character_passes_alone() -> None:
    alone = [chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cf"]
    assert not [f"{ord(each):X}" for each in alone if clean_name(f"a{each}b") != "ab"]
