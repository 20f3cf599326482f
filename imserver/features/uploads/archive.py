"""Files in archives: their bytes go into exports, and come from imports."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from imserver.features.uploads import upload_rows
from imserver.features.uploads.contract import Upload
from imserver.features.uploads.declared import UploadSettings
from imserver.features.uploads.uploads import UploadStorage, name_of, shown_name
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.storage import Store

_AT_ONCE = 200
FILES = "files"
THUMBNAILS = "thumbnails"


def read(config: Config, store: Store, app: str, user: str) -> Iterator[tuple[str, Iterator[bytes]]]:
    """The files of a user; ``""``: of the app, with their thumbnails."""
    with closing(UploadStorage(settings_of(config, UploadSettings), config.server.data_dir)) as storage:
        last, nothing = "", list[Upload]()
        while rows := store.read_or(nothing, partial(upload_rows.after, app, user, last, _AT_ONCE)):
            for row in rows:
                yield f"{FILES}/{row.id}/{_file_name(row)}", _pieces(storage, row, False)
                if row.thumbnail_bytes and not user:
                    yield f"{THUMBNAILS}/{row.id}", _pieces(storage, row, True)
            last = rows[-1].id


def _file_name(row: Upload) -> str:
    name = shown_name(row.name).lstrip(".")
    return name or f"{row.kind}.{row.type.rpartition('/')[2].partition(';')[0].strip()}"


def _pieces(storage: UploadStorage, row: Upload, thumbnail: bool) -> Iterator[bytes]:
    size = row.thumbnail_bytes if thumbnail else row.bytes
    yield from storage.of(row).get(name_of(row, thumbnail), 0, size - 1)


@contextmanager
def write(config: Config, store: Store, app: str) -> Iterator[Callable[[str, str], bool]]:
    """A function that stores a file of an app whose row was imported."""
    with closing(UploadStorage(settings_of(config, UploadSettings), config.server.data_dir)) as storage:

        def take(name: str, path: str) -> bool:
            folder, _, rest = name.partition("/")
            if folder not in (FILES, THUMBNAILS):
                return False
            id = rest.partition("/")[0]
            row = store.read_or(None, lambda sql: upload_rows.find(sql, id))
            if row is None or row.app != app:
                return False
            storage.take(row, folder == THUMBNAILS, Path(path))
            return store.execute("UPDATE upload SET place = %s WHERE id = %s", (storage.current, id)) > 0

        yield take
