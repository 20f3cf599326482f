"""Base64 for URLs: one text for each content, and no other text is taken."""

import pytest

from imserver.gateway import base64url


@pytest.mark.parametrize("length", range(34))
def test_a_content_has_one_text_without_padding(length: int) -> None:
    for byte in (0, 0xA5, 0xFF):
        content = bytes([byte]) * length
        text = base64url.encode(content)
        assert not set(text) & set("+/=")
        assert base64url.decode(text) == base64url.decode_any_form(text) == content


@pytest.mark.parametrize(
    "text",
    [
        "AA==",
        "AAA=",
        "=",
        "A",
        "AAAAA",
        "+_8A",
        "-/8A",
        "AA A",
        "AAA\n",
        "AA\0A",
        "AAAé",
        "\ud800AAA",
        "AB",  # decodes to the same byte as AA
        "AAB",
    ],
)
def test_a_second_text_of_a_content_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        base64url.decode(text)


@pytest.mark.parametrize("text", ["-_8", "-_8=", "+/8=", "+/8", "-/8=="])
def test_a_key_of_another_program_may_have_any_form_of_base64(text: str) -> None:
    assert base64url.decode_any_form(text) == b"\xfb\xff"


@pytest.mark.parametrize("text", ["-_8!", "-_ 8", "=-_8", "-_=8", "A", "-_8é"])
def test_what_is_no_base64_is_refused_in_every_form(text: str) -> None:
    with pytest.raises(ValueError, match="base64url"):
        base64url.decode_any_form(text)
