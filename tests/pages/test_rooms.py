"""The folders of the messages page: a module imports from its own folder, and
from those below it."""

from graphlib import TopologicalSorter

from imserver.pages import installable
from imserver.pages.assets import STATIC

FOLDERS = (
    "parts",
    "session",
    "people",
    "media",
    "conversation",
    "login",
    "settings",
    "groups",
    "list",
    "search",
)
"""From the ground up. Modules outside folders are above them."""


def test_imports_run_one_way() -> None:
    modules = [
        each for each in installable.modules() if each.startswith("static/messages/")
    ]
    imports = {each: installable.imports_of(each) for each in modules}
    TopologicalSorter(imports).prepare()  # raises CycleError

    def floor(module: str) -> int:
        folder = module.split("/")[-2]
        return (
            FOLDERS.index(folder)
            if folder in FOLDERS
            else len(FOLDERS) * (folder == "messages")
        )

    assert not [
        (one, each)
        for one, below in imports.items()
        for each in below
        if floor(each) > floor(one)
    ]


def test_a_file_has_one_subject() -> None:
    files = [*STATIC.rglob("*.js"), *STATIC.rglob("*.css")]
    assert not [
        path.name for path in files if len(path.read_text("utf-8").splitlines()) > 600
    ]
