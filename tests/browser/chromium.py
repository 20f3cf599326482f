"""Real Chromium, driven by selenium, and the chat page as a test sees it."""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.support import eventually
from tests.tools import require

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
DRIVER = "chromedriver"
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-renderer-backgrounding",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    "--accept-lang=zh-CN",
)

MODIFIERS = (Keys.CONTROL, Keys.SHIFT, Keys.ALT)

_BEYOND_BMP = re.compile("([\U00010000-\U0010ffff]+)")

_CLICK = """
const found = document.querySelector(arguments[0]);
if (!found?.checkVisibility() || found.disabled) return false;
found.focus();
found.click();
return true;
"""


_TEXTS = "return [...document.querySelectorAll(arguments[0])].map((each) => each.textContent)"
_HAS_SOME = """
const [selector, text] = arguments;
return [...document.querySelectorAll(selector)].some((each) => each.textContent.includes(text));
"""

_PICK = """
const [selector, text, within] = arguments;
const is = (each) =>
  within ? each.querySelector(within)?.textContent === text : each.textContent.includes(text);
const found = [...document.querySelectorAll(selector)].find(is);
found?.click();
return Boolean(found);
"""

_CONTENT = """
const content = (bubble) => [...bubble.childNodes].filter((each) => each.className !== "when")
  .map((each) => each.textContent).join("");
"""
"""The text of a bubble without its time."""


class Browser:
    """One Chromium with an empty profile; shows one page at a time."""

    def __init__(self, profile: Path, *flags: str) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = require(*CHROMIUM)
        for flag in (*_FLAGS, *flags, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(
            options=options, service=Service(require(DRIVER))
        )
        self.driver.set_page_load_timeout(90)
        self.driver.set_script_timeout(90)
        self._script = ""

    def open(
        self,
        url: str,
        *,
        size: tuple[int, int] = (1280, 800),
        dark: bool = False,
        languages: str = "",
        script: str = "",
        forget: bool = False,
    ) -> "Page":
        """A new tab (so with an empty sessionStorage) at ``url``; the one
        before is closed.

        ``languages`` is the Accept-Language to send, ``script`` runs before
        those of the page. ``forget`` empties the localStorage of the server
        first: nobody is logged in.
        """
        before = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        opened = self.driver.current_window_handle
        self.driver.switch_to.window(before)
        self.driver.close()
        self.driver.switch_to.window(opened)
        page = Page(self.driver)
        page.resize(*size, dark=dark)
        if languages:
            agent = self.driver.execute_script("return navigator.userAgent")
            page.command(
                "Emulation.setUserAgentOverride",
                userAgent=agent,
                acceptLanguage=languages,
            )
        if script:
            page.command("Page.addScriptToEvaluateOnNewDocument", source=script)
        if forget:
            origin = "/".join(url.split("/")[:3])
            page.command(
                "Storage.clearDataForOrigin",
                origin=origin,
                storageTypes="local_storage",
            )
        self.driver.get(url)
        return page

    def complaints(self) -> list[str]:
        """What stands in the console since the last call: errors, refused
        resources, violated policies."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def quit(self) -> None:
        self.driver.quit()


class Page:
    """The tab that a browser shows, by the parts of the chat page."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    # --- the tab --------------------------------------------------------------

    def command(self, method: str, **parameters: Any) -> Any:
        return self.driver.execute_cdp_cmd(method, parameters)

    def resize(self, width: int, height: int, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.command("Emulation.setDeviceMetricsOverride", **size, mobile=False)
        features = {
            "prefers-color-scheme": "dark" if dark else "light",
            "prefers-reduced-motion": "reduce",
        }
        self.command(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": name, "value": value} for name, value in features.items()
            ],
        )

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def texts(self, selector: str) -> list[str]:
        """The texts of all matching elements, shown or not, read in one go."""
        return list(self.run(_TEXTS, selector))

    def shown(self, selector: str) -> bool:
        return bool(
            self.run(
                "return document.querySelector(arguments[0])?.checkVisibility() === true",
                selector,
            )
        )

    def click(self, *selectors: str) -> None:
        """Focus and click what matches, one after the other, each as soon as it
        is shown and not disabled.

        In one step: no redraw comes in between.
        """
        for each in selectors:
            eventually(
                lambda each=each: self.run(_CLICK, each),
                what=f"{each} is shown, and clicked",
            )

    def pick(self, selector: str, text: str, within: str = "") -> None:
        """Click the first match with this text, or with it as the whole text
        ``within`` it."""
        self.gives(_PICK, True, selector, text, within)

    def write(self, selector: str, *keys: str) -> None:
        """Keys, to what matches as soon as it is shown."""
        self.sees(selector)
        self.find(selector).send_keys(*keys)

    def sees(self, *selectors: str) -> None:
        """Wait until the first match of each is shown."""
        for each in selectors:
            eventually(lambda each=each: self.shown(each), what=f"{each} is shown")

    def misses(self, *selectors: str) -> None:
        """Wait until the first match of each is not shown, or there is none."""
        for each in selectors:
            eventually(
                lambda each=each: not self.shown(each), what=f"{each} is not shown"
            )

    def has(self, selector: str, *texts: str) -> None:
        """Wait until all that matches has these texts."""
        self.gives(_TEXTS, list(texts), selector)

    def has_some(self, selector: str, text: str) -> None:
        """Wait until one of what matches has this part in its text."""
        self.gives(_HAS_SOME, True, selector, text)

    def gives(self, script: str, value: Any, *arguments: Any) -> None:
        """Wait until a script gives this value; not while the browser goes from
        page to page."""
        found: list[Any] = []

        def look() -> bool:
            with suppress(WebDriverException):
                found[:] = [self.run(script, *arguments)]
            return found == [value]

        try:
            eventually(look)
        except AssertionError:
            raise AssertionError(
                f"{script} {arguments} gives {value}, not {found}"
            ) from None

    def awaited(self, script: str, *arguments: Any) -> Any:
        return self.run(
            f"return (async function () {{ {script} }}).apply(null, arguments)",
            *arguments,
        )

    def touch(self, x: float, y: float, *moves: tuple[float, float]) -> None:
        """A finger goes down, to each of these places as seen from the first
        one, and up."""
        points = [(x, y), *((x + across, y + down) for across, down in moves)]
        for kind, found in zip(
            ["touchStart", *["touchMove"] * len(moves)], points, strict=True
        ):
            at = [{"x": found[0], "y": found[1]}]
            self.command("Input.dispatchTouchEvent", type=kind, touchPoints=at)
        self.command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def go(self, address: str) -> None:
        """To another place of the page: ``#c/5``."""
        self.run("location.hash = arguments[0]", address)

    def settle(self) -> None:
        """Wait until the page has drawn, and has scrolled where it wants to."""
        frame = "await new Promise(requestAnimationFrame);"
        self.awaited(frame * 3)

    def press(self, *keys: str) -> None:
        """Press keys on the keyboard. A modifier, such as Control, stays down
        until the last key.

        The keys go to the window, and not to the element that has the focus now:
        the page may draw that element anew before the keys arrive.
        """
        keyboard = ActionChains(self.driver, duration=0)
        modifiers = []
        for key in "".join(keys):
            if key in MODIFIERS:
                keyboard.key_down(key)
                modifiers.append(key)
            elif key != Keys.NULL:
                keyboard.send_keys(key)
        for key in modifiers:
            keyboard.key_up(key)
        keyboard.perform()

    @property
    def focused(self) -> str:
        """The id of the element that has the focus, or else its text."""
        return str(
            self.run(
                "return document.activeElement.id || document.activeElement.textContent.trim()"
            )
        )

    @property
    def overflow(self) -> int:
        """How many pixels wider than the window the page is."""
        return int(self.run("return document.documentElement.scrollWidth - innerWidth"))

    def fits(self) -> None:
        """Nothing sticks out, once the page has its size."""
        eventually(lambda: self.overflow <= 0, what="the page fits the window")

    # --- the chat page --------------------------------------------------------

    @property
    def state(self) -> str:
        """Of the connection; empty on another page, and while the browser goes
        to one."""
        return str(
            self.run("return document.querySelector('#state')?.dataset.state ?? ''")
        )

    @property
    def name(self) -> str:
        return "".join(self.texts("#me-name"))

    @property
    def people(self) -> list[str]:
        return self.texts("#people-list li > :not(.avatar)")

    @property
    def notices(self) -> list[str]:
        return self.texts("#log .notice")

    @property
    def received(self) -> list[tuple[str, str]]:
        """The bubbles on the left but the greeting: sender and text."""
        lines = self.run(
            f"{_CONTENT} return [...document.querySelectorAll('#log .line:not(.own, .admin)')].map((line) =>"
            " [line.querySelector('.from bdi').textContent, content(line.querySelector('.bubble'))])"
        )
        return [(sender, text) for sender, text in lines]

    @property
    def own(self) -> list[str]:
        own: list[str] = self.run(
            f"{_CONTENT} return [...document.querySelectorAll('#log .line.own .bubble')].map(content)"
        )
        return own

    def online(self) -> "Page":
        """Wait until the page is logged in and has read the list of people."""
        eventually(lambda: self.state == "online", what="the page is connected")
        eventually(
            lambda: self.name in self.people, what="the list holds the page's own name"
        )
        return self

    def reload(self) -> None:
        self.driver.refresh()
        self.online()

    def say(self, text: str) -> None:
        new_line = Keys.SHIFT + Keys.ENTER + Keys.NULL
        field = self.find("#message")
        for part in _BEYOND_BMP.split(text):
            # some versions of the driver have no keys for these
            if _BEYOND_BMP.fullmatch(part):
                self.run("arguments[0].focus()", field)
                self.command("Input.insertText", text=part)
            else:
                field.send_keys(part.replace("\n", new_line))
        field.send_keys(Keys.ENTER)

    def has_received(self, sender: str, text: str) -> None:
        eventually(
            lambda: (sender, text) in self.received, what=f"{text[:80]!r} of {sender}"
        )

    def has_notice(self, *parts: str) -> None:
        eventually(
            lambda: any(
                all(part in notice for part in parts) for notice in self.notices
            ),
            what=f"a notice with {parts}",
        )


def unexpected(complaints: Sequence[str], *expected: str) -> list[str]:
    """The complaints that hold none of the expected words."""
    return [each for each in complaints if not any(word in each for word in expected)]
