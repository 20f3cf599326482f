"""What features add to the messages page: modules, style sheets and words.
Needs no Flask."""

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import msgspec

from imserver.plugin.services import Core
from imserver.plugin.settings import ConfigError


@runtime_checkable
class AddsToPage(Protocol):
    """A service of a feature that adds to the messages page.

    Its folder has a module ``page.js``, a style sheet ``page.css``, those of
    menus and settings (``later.js``, ``later.css``), ``words.<language>.json``,
    and what these load: modules, style sheets, and tables (``.json``) in
    folders below.
    """

    page_folder: ClassVar[Path]


class Additions:
    """The folders of features with additions, by name of the feature.

    Their files stand below ``features/<name>/`` of the release of the page.
    Raises ConfigError for a file of words that cannot be used.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self.folders = folders
        self._words: dict[str, dict[str, str]] = {}
        for name, folder in folders.items():
            for file in sorted(folder.glob("words.*.json")):
                try:
                    words = msgspec.json.decode(file.read_bytes(), type=dict[str, str])
                except (OSError, ValueError) as error:
                    raise ConfigError(
                        f"the feature {name!r}: {file}: {error}"
                    ) from None
                others = [key for key in words if not key.startswith(f"{name}_")]
                if others:
                    problem = f"the key {others[0]} does not begin with {name}_"
                    raise ConfigError(f"the feature {name!r}: {file}: {problem}")
                self._words.setdefault(file.stem.partition(".")[2], {}).update(words)

    def words(self, language: str) -> dict[str, str]:
        """Key → text in this language, in English where a feature has none."""
        return self._words.get("en", {}) | self._words.get(language, {})

    @property
    def files(self) -> dict[str, Path]:
        """Address below the release → file, of the modules, style sheets and
        tables."""
        return {
            f"features/{name}/{path.relative_to(folder).as_posix()}": path
            for name, folder in self.folders.items()
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".js", ".css")
            or (path.suffix == ".json" and path.parent != folder)
        }

    def shown(self, release: str) -> list[dict[str, str | bool]]:
        """For the page: the addresses of the modules and style sheets of each
        feature; ``""``: none."""
        files = self.files

        def address(below: str) -> str:
            if below in files:
                return f"{release}/{below}"
            return ""

        rows: list[dict[str, str | bool]] = []
        for name, stem in product(self.folders, ("page", "later")):
            module, style = (
                address(f"features/{name}/{stem}.{kind}") for kind in ("js", "css")
            )
            if module or style:
                rows.append(
                    {"module": module, "style": style, "later": stem == "later"}
                )
        return rows


def additions_of(core: Core) -> Additions:
    """What the features of a node add."""
    services = (
        (name, each) for name, parts in core.features.items() for each in parts.services
    )
    return Additions(
        {
            name: each.page_folder
            for name, each in services
            if isinstance(each, AddsToPage)
        }
    )
