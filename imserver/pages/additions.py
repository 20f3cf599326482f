"""The modules, style sheets and words that features add to the messages page.
Needs no Flask."""

from collections.abc import Container, Mapping
from itertools import product
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

import msgspec

from imserver.plugin.services import Core
from imserver.plugin.settings import ConfigError


@runtime_checkable
class AddsToPage(Protocol):
    """A service of a feature that adds to the messages page.

    Its folder has a module ``page.js`` and a style sheet ``page.css``. For
    menus and settings it has ``later.js`` and ``later.css``. It also has
    ``words.<language>.json``, and the files that the modules load: modules,
    style sheets, and tables (``.json``) in folders below.
    """

    page_folder: ClassVar[Path]


class Additions:
    """The files that features add to the messages page.

    ``folders``: name of a feature → its folder. The files have addresses below
    ``features/<name>/`` of the release of the page.
    """

    def __init__(self, folders: Mapping[str, Path]) -> None:
        """Read the words of the features. Raises ConfigError.

        ``folders``: name of a feature → its folder.
        """
        self.folders = folders
        self._words: dict[str, dict[str, str]] = {}
        for name, folder in folders.items():
            for file in sorted(folder.glob("words.*.json")):
                _, _, language = file.stem.partition(".")
                words = _read_words(name, file)
                self._words.setdefault(language, {}).update(words)

    def words(self, language: str) -> dict[str, str]:
        """Return key → text in a language, for all features.

        If a feature does not have the language, its texts are in English.
        """
        return self._words.get("en", {}) | self._words.get(language, {})

    @property
    def files(self) -> dict[str, Path]:
        """Address below the release → file, of all that features add.

        Example of an address: ``features/polls/page.js``.
        """
        files = {}
        for name, folder in self.folders.items():
            for path in sorted(folder.rglob("*")):
                # JSON files in the folder itself are words.
                is_table = path.suffix == ".json" and path.parent != folder
                if is_table or path.suffix in (".js", ".css"):
                    below = path.relative_to(folder).as_posix()
                    files[f"features/{name}/{below}"] = path
        return files

    def shown(self, release: str) -> list[dict[str, str | bool]]:
        """Return the modules and style sheets that features add.

        Each row has the address of a module and of a style sheet, and whether
        they are loaded later. An address is ``""`` if the feature does not have
        the file. ``release``: the address of the release.
        """
        files = self.files  # reads the folders
        rows: list[dict[str, str | bool]] = []
        for name, stem in product(self.folders, ("page", "later")):
            module = _address_of(f"features/{name}/{stem}.js", files, release)
            style = _address_of(f"features/{name}/{stem}.css", files, release)
            # A feature may have nothing to load later.
            if module or style:
                rows.append(
                    {"module": module, "style": style, "later": stem == "later"}
                )
        return rows


def _address_of(file: str, files: Container[str], release: str) -> str:
    """Return the address of a file of a release; ``""`` if it has no such file."""
    if file in files:
        return f"{release}/{file}"
    return ""


def _read_words(feature: str, file: Path) -> dict[str, str]:
    """Read the words in a file of a feature: key → text.

    Each key begins with the name of the feature, so that two features never use
    the same one. Raises ConfigError.
    """
    try:
        words = msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    except (OSError, ValueError) as error:
        raise ConfigError(f"the feature {feature!r}: {file}: {error}") from None
    # Each key is checked, because two features could overwrite each other's
    # texts.
    for key in words:
        if not key.startswith(f"{feature}_"):
            problem = f"the key {key} does not begin with {feature}_"
            raise ConfigError(f"the feature {feature!r}: {file}: {problem}")
    return words


def additions_of(core: Core) -> Additions:
    """Return the additions of the features of a node. Raises ConfigError."""
    folders = {}
    for name, parts in core.features.items():
        for service in parts.services:
            if isinstance(service, AddsToPage):
                folders[name] = service.page_folder
    return Additions(folders)
