"""The colours of seals, names and chats: texts can be read; and a chat has a
name, a picture and a colour."""

import io
import itertools
import json
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from PIL import Image

from imserver.gateway.config.settings import ApiSettings, Config, KeySettings
from imserver.gateway.node.feature_list import check, load_with_locations
from imserver.pages.assets import STATIC
from imserver.pages.declared import LONGEST_NAME, ChatSettings
from imserver.pages.look import Look, contrast, palette
from imserver.plugin.settings import ConfigError
from tests.pages.test_routes import client_of

LEAST = 4.5
BACKGROUNDS = ("paper", "surface", "raised", "hover", "theirs")
"""Variables of theme.css: what names and seals may be on."""


def themes() -> tuple[dict[str, str], dict[str, str]]:
    light, dark = (
        (STATIC / "theme.css")
        .read_text("utf-8")
        .split("@media (prefers-color-scheme: dark)", 1)
    )
    first, second = (
        dict(re.findall(r"--(\w+): (#\w{6});", each)) for each in (light, dark)
    )
    return first, second


PEOPLE = (STATIC / "messages/styles/avatars.css").read_text("utf-8")
PAIR = r"light-dark\((#\w{6}), (#\w{6})\)"


def test_sheets_that_are_loaded_later_have_no_rules_for_dark_themes() -> None:
    """look.js changes such rules only in the sheets that are there when it
    runs."""
    sheets = (STATIC / "messages" / "later").iterdir()
    later = [each for each in sheets if "color-scheme" in each.read_text("utf-8")]
    assert not later, "use variables of theme.css, or light-dark()"


@pytest.mark.parametrize(
    ("grey", "known"), [("#000000", 21), ("#767676", 4.54), ("#ffffff", 1)]
)
def test_contrast_is_that_of_wcag(grey: str, known: float) -> None:
    assert (
        contrast(grey, "#ffffff")
        == contrast("#ffffff", grey)
        == pytest.approx(known, abs=0.005)
    )
    assert contrast("#ff0000", "#0000ff") == pytest.approx(2.149, abs=0.005)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_names_are_read_on_every_background(theme: int) -> None:
    rows = re.findall(r"\.tint-(\d+) \{ --tint: (#\w{6}); --lit: (#\w{6}); \}", PEOPLE)
    tints = {name: colours for name, *colours in rows}
    (number,) = re.findall(
        r"HUES = (\d+)", (STATIC / "messages/session/people.js").read_text("utf-8")
    )
    assert list(tints) == list(map(str, range(int(number))))
    for name, colours in tints.items():
        colour = colours[theme]
        worst = min(contrast(colour, themes()[theme][each]) for each in BACKGROUNDS)
        assert worst >= LEAST, (name, colour, worst)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_the_signs_of_seals_are_read(theme: int) -> None:
    stamps, stones = (
        re.findall(rf"--{name}: {PAIR}", PEOPLE) for name in ("stamp", "stone")
    )
    assert len(stamps) == len(stones) == 2, "of people, and of groups"
    for stamp, stone in zip(stamps, stones, strict=True):
        assert contrast(stamp[theme], stone[theme]) >= LEAST


KEYS = ApiSettings(keys=(KeySettings("k" * 20, ("push",)),))
COLOURS = [
    "#" + "".join(part * 2 for part in parts)
    for parts in itertools.product("058bf", repeat=3)
]


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "#2457a6").save(file, "PNG")
    return file.getvalue()


def client_with(settings: ChatSettings, api: ApiSettings = KEYS) -> FlaskClient:
    return client_of(Config(of_features=(("chat", settings),), api=api))


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("colour", COLOURS)
def test_texts_can_be_read_in_every_colour(colour: str, theme: int) -> None:
    plain = themes()[theme]
    own = palette(colour)[theme]
    for ground in (
        *(plain[name] for name in BACKGROUNDS if name != "theirs"),
        own["jade-soft"],
    ):
        assert contrast(own["jade"], ground) >= LEAST, ground
    for ground in ("jade", "jade-strong"):
        assert contrast(own["on-jade"], own[ground]) >= LEAST, ground
    light = themes()[0]
    for text in ("on-mine", "on-mine-muted", "read-on-mine"):
        assert (
            contrast(plain.get(text, light.get(text, "#ffffff")), own["mine"]) >= LEAST
        ), text
    for text in ("ink", "muted", "seal"):
        assert contrast(plain[text], own["jade-soft"]) >= LEAST, text


def test_a_colour_that_can_be_read_stays() -> None:
    light, dark = palette("#2457a6")
    assert light["jade"] == light["mine"] == dark["mine"] == "#2457a6"
    assert palette("#ffcc00")[1]["jade"] == "#ffcc00"


def test_the_pages_have_name_picture_and_colour(tmp_path: Path) -> None:
    picture = tmp_path / "logo.png"
    picture.write_bytes(png(256, 256))
    client = client_with(ChatSettings("Tea & <house>", "#2457a6", str(picture)))
    messages, start = (
        client.get(path, headers={"Accept-Language": "en"})
        for path in ("/home/messages", "/")
    )
    for page in (messages.text, start.text):
        assert "<title>Tea &amp; &lt;house&gt;</title>" in page
        assert "<b>Tea &amp; &lt;house&gt;</b>" in page
        assert 'class="seal" src="/home/messages.png?v=' in page
        (sheet,) = re.findall(
            r'<link rel="stylesheet" href="(/home/messages\.css\?v=\w+)">', page
        )
        (icon,) = re.findall(r'<link rel="icon" href="([^"]+)" type="image/png">', page)
        assert page.index("theme.css") < page.index(sheet)
    assert client.get(icon).data == picture.read_bytes()
    colours = client.get(sheet)
    assert (colours.mimetype, "#2457a6" in colours.text) == ("text/css", True)
    assert "immutable" in colours.headers["Cache-Control"]
    assert (
        client.get("/home/messages.css?v=other").headers["Cache-Control"] == "no-cache"
    )
    button = client.get("/static/embed.js")
    assert (button.mimetype, '"#2457a6"' in button.text, "#1d6b57" in button.text) == (
        "text/javascript",
        True,
        False,
    )
    assert (
        client.get(
            "/static/embed.js", headers={"If-None-Match": button.headers["ETag"]}
        ).status_code
        == 304
    )
    manifest = json.loads(client.get("/home/messages.webmanifest?lang=en").data)
    assert (manifest["name"], manifest["short_name"]) == ("Tea & <house>",) * 2
    assert manifest["theme_color"] == "#2457a6"
    assert manifest["icons"] == [
        {"src": icon, "sizes": "256x256", "type": "image/png", "purpose": "any"}
    ]
    worker = client.get("/home/messages-worker.js").text
    assert sheet in worker, "the page opens from its store with its colours"
    assert icon in worker
    assert (
        worker != client_with(ChatSettings("Tea")).get("/home/messages-worker.js").text
    )


def test_a_chat_without_settings_looks_as_before() -> None:
    client = client_with(ChatSettings())
    page = client.get("/home/messages?lang=en").text
    assert "<title>Messages · imserver</title>" in page
    assert "/home/messages.css" not in page
    assert 'href="/static/favicon.svg"' in page
    plain = Look(ChatSettings())
    assert (plain.name, plain.colours_url, plain.picture_url) == ("imserver", "", "")
    for path in ("/home/messages.css", "/home/messages.png"):
        assert client.get(path).status_code == 404


def test_the_start_of_a_chat_leads_people_there_and_developers_to_curl() -> None:
    start = client_with(ChatSettings("Tea")).get("/?lang=en").text
    assert '<h1 class="heard">Tea</h1>' in start
    assert (
        start.index('id="to-chat"')
        < start.index('<details class="for')
        < start.index("/api/v1/push")
    )
    demo = client_with(ChatSettings(), ApiSettings()).get("/?lang=en").text
    assert '<details class="for' not in demo, "who tries it is a developer"
    assert "<h1>imserver is running</h1>" in demo


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("name", "x" * (LONGEST_NAME + 1)),
        ("name", "two\nlines"),
        ("name", " Tea"),
        ("colour", "blue"),
        ("colour", "#12345"),
        ("picture", "none.png"),
        ("picture", "text.png"),
        ("picture", "wide.png"),
        ("picture", "small.png"),
    ],
)
def test_what_no_page_can_show_stops_the_start(
    setting: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.png").write_text("no picture")
    Path("wide.png").write_bytes(png(256, 192))
    Path("small.png").write_bytes(png(64, 64))
    Path("my.yaml").write_text(f"chat: {{{setting}: {json.dumps(value)}}}\n")
    with pytest.raises(ConfigError, match=rf"chat\.{setting}"):
        check(*load_with_locations("my.yaml"))
