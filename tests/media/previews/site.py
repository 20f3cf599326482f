"""A web site on loopback, in threads of its own."""

from collections.abc import Callable
from io import BytesIO

from PIL import Image

from tests.integration.receiver import Post, Receiver

Answer = tuple[int, bytes, dict[str, str]]


def html(text: str, **headers: str) -> Answer:
    """A page."""
    return 200, text.encode(), {"Content-Type": "text/html; charset=utf-8", **headers}


def redirect(target: str) -> Answer:
    return 302, b"", {"Location": target}


def picture(width: int, height: int, form: str = "PNG") -> Answer:
    file = BytesIO()
    Image.new("RGB", (width, height), (200, 40, 40)).save(file, form)
    return 200, file.getvalue(), {"Content-Type": f"image/{form.lower()}"}


class Site(Receiver):
    """``pages``: path → its answer, or what makes one. ``requests``: the paths
    that were asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: dict[str, Answer | Callable[[], Answer]] = {}
        self.reply = self._answer

    def _answer(self, post: Post) -> Answer:
        answer = self.pages.get(post.path, (404, b"", {}))
        return answer() if callable(answer) else answer

    @property
    def requests(self) -> list[str]:
        return [post.path for post in self.posts]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])
