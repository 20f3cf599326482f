"""Where the bytes of uploaded files are: a folder of this node's, or a bucket; all come by the folder."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Final

from imserver.errors import MediaUnavailable
from imserver.settings import UploadSettings
from imserver.storage.contract import Media, Upload
from imserver.storage.media import Directory, Files

log = logging.getLogger(__name__)

_THUMBNAIL: Final = ".t"


def name_of(row: Upload, thumbnail: bool) -> str:
    """What the bytes of a file, or of its thumbnail, are called in their place."""
    return row.id + _THUMBNAIL if thumbnail else row.id


def thumbnail_beside(path: Path) -> Path:
    """Where the thumbnail of a file that has just arrived is written."""
    return path.with_name(path.name + _THUMBNAIL)


class Places:
    """Owner of the folder, of the connections to the bucket, and of the threads that touch files."""

    def __init__(self, settings: UploadSettings, data_dir: str) -> None:
        self.files = Files()
        self.directory = Directory(Path(settings.directory or Path(data_dir) / "uploads"), self.files)
        self._by_name: dict[str, Media] = {"": self.directory}
        self.current = ""
        """Name of the place where new files go."""
        if settings.s3_url:
            # Only who has a bucket needs it.
            from imserver.storage.s3 import Bucket

            bucket = Bucket(settings, self.files)
            self.current = bucket.place
            self._by_name[bucket.place] = bucket

    def of(self, row: Upload) -> Media:
        """The place of a file. Raises MediaUnavailable."""
        place = self._by_name.get(row.place)
        if place is None:
            raise MediaUnavailable("the file is in a bucket, and none is configured")
        return place

    def put(self, row: Upload, path: Path) -> None:
        """Bring a file that has arrived at ``path``, and its thumbnail, to its place. Switches."""
        place = self.of(row)
        place.put(row.id, str(path), row.bytes, row.sha256, row.type)
        if row.thumbnail_bytes:
            thumbnail = thumbnail_beside(path)
            content = self.files.do(thumbnail.read_bytes)
            digest = hashlib.sha256(content).hexdigest()
            place.put(name_of(row, True), str(thumbnail), len(content), digest, row.thumbnail_type)

    def delete(self, row: Upload) -> None:
        """Delete the bytes of a file. Raises MediaUnavailable."""
        place = self.of(row)
        for thumbnail in (False, True) if row.thumbnail_bytes else (False,):
            place.delete(name_of(row, thumbnail))

    def remove(self, row: Upload) -> None:
        """Delete the bytes of a file that has no row. What cannot be deleted is logged."""
        try:
            self.delete(row)
        except MediaUnavailable as error:
            log.warning("the bytes of the removed file %s are still there: %s", row.id, error)

    def discard(self, path: Path) -> None:
        """Remove what is left of a file that has arrived, or has not."""

        def work() -> None:
            path.unlink(missing_ok=True)
            thumbnail_beside(path).unlink(missing_ok=True)

        try:
            self.files.do(work)
        except OSError as error:
            log.warning("%s could not be removed: %s", path, error)

    def close(self) -> None:
        """End connections and threads."""
        for place in self._by_name.values():
            place.close()
        self.files.close()
