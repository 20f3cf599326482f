"""How much the messages page loads."""

import gzip

from msgspec import Struct

from imserver.pages import assets, installable


class Sizes(Struct, frozen=True):
    """Compressed bytes of the page: its own modules, the SDK's, and its styles.
    ``first``: of the modules, the SDK's too, that the first view needs,
    ``next`` of those that follow at once. ``style`` has the styles that come
    with the page, most of them in one file, ``later`` those that modules load
    when they are needed.
    """

    first: int
    next: int
    script: int
    sdk: int
    style: int
    later: int


def sizes() -> Sizes:
    """The sizes of all files, also of those that the page loads when they are
    needed."""
    folders = {"static": assets.STATIC, "sdk": assets.SDK}
    total = {"first": 0, "next": 0, "script": 0, "sdk": 0, "style": 0, "later": 0}
    total["style"] = len(gzip.compress(installable.sheet(), 9))
    first = set(installable.first_modules())
    following = set(installable.more_modules(installable.NEXT))
    for address in installable.files():
        folder, _, name = address.partition("/")
        style = "later" if "/later/" in name else "style"
        kind = (
            "sdk"
            if folder == "sdk"
            else {"js": "script", "css": style}.get(name.rpartition(".")[2], "")
        )
        if kind and name not in installable.styles():
            text = (folders[folder] / name).read_bytes()
            sent = text if kind == style else installable.without_comments(text)
            size = len(gzip.compress(sent, 9))
            total[kind] += size
            total["first"] += size if address in first else 0
            total["next"] += size if address in following else 0
    return Sizes(**total)
