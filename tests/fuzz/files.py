"""Files: pictures and films that users send, archives, and exports of other servers."""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import msgspec
from PIL import Image

from imserver.gateway.errors import StartError
from imserver.media.uploads import pictures
from imserver.media.uploads.boxes import clear_metadata
from imserver.media.uploads.media import type_of
from imserver.media.uploads.pictures import PictureTask
from imserver.operate.copies.archive import BackupArchive, is_archive
from imserver.operate.exports.archive import CHECKSUMS, MANIFEST
from imserver.operate.exports.contents import FORMAT, VERSION
from imserver.operate.exports.importing import Archive, BadArchive
from imserver.people.accounts.account_import import BadImport, accounts_of, read_rows
from tests.media.uploads.test_boxes import heic
from tests.support import ROOT

from .target import Target

sys.path.insert(0, str(ROOT / "plugins" / "slack"))

from imserver_slack.export import BadExport, Export

FOLDER = Path(tempfile.mkdtemp(prefix="imserver-fuzz-"))
_KINDS = ("image/jpeg", "image/png", "image/gif", "image/webp")
pictures.prepare()


def check_picture(data: bytes) -> None:
    """A picture is read or refused, and has no metadata afterwards. The first byte chooses its type."""
    kind, path = _KINDS[data[0] % 4 if data else 0], FOLDER / "picture"
    path.write_bytes(data[1:])
    type_of(data[1:])
    small, cleaned = FOLDER / "small", FOLDER / "cleaned"
    try:
        picture = pictures.look(PictureTask(str(path), kind, str(small), str(cleaned), 20))
    except Exception:
        return  # that of a process of its own, which answers that it is no picture
    assert min(picture.width, picture.height) > 0
    if picture.cleaned:
        try:
            again = pictures.look(PictureTask(str(cleaned), kind, str(small), str(path), 0))
        except Exception:
            return
        assert not again.cleaned, "metadata was left"


def check_boxes(data: bytes) -> None:
    """The metadata of a film is cleared at its place, once and for all."""
    if not data:
        return
    path = FOLDER / "film"
    path.write_bytes(data)
    type_of(data)
    clear_metadata(path)
    assert path.stat().st_size == len(data)
    cleared = path.read_bytes()
    clear_metadata(path)
    assert path.read_bytes() == cleared, "metadata was left"


def check_export(data: bytes) -> None:
    """An archive of an app is complete, or refused with BadArchive."""
    path = FOLDER / "export.zip"
    path.write_bytes(data)
    with suppress(BadArchive):
        archive = Archive(path)
        try:
            archive.verify()
        finally:
            archive.close()


def check_backup(data: bytes) -> None:
    """A backup is complete, or refused with StartError."""
    path = FOLDER / "backup.tar"
    path.write_bytes(data)
    is_archive(path)
    with suppress(StartError):
        archive = BackupArchive(path)
        target = FOLDER / "database.db"
        target.unlink(missing_ok=True)
        with suppress(StartError):
            archive.extract_database(target)
        for feature in archive.features:
            for _, content in archive.files(feature):
                content.read()


def check_slack(data: bytes) -> None:
    """An export of Slack is read, with what is broken in it, or refused with BadExport. Input without the
    signature of a zip file is that of a day."""
    path = FOLDER / "slack.zip"
    if data.startswith(b"PK"):
        path.write_bytes(data)
    else:
        _zip(path, {**_SLACK, "general/2020-09-13.json": data})
    with suppress(BadExport):
        for _, message in Export(path).merged():
            if message is not None:
                assert isinstance(message.sender, str)


def check_rows(data: bytes) -> None:
    """Rows of accounts are read, or refused with BadImport."""
    with suppress(BadImport):
        accounts_of(read_rows(data.decode("utf-8", "replace")), "shop")


# --- seeds --------------------------------------------------------------------------------------------------

_SLACK = {
    "users.json": b'[{"id":"U1","name":"ann","profile":{"email":"ann@example.org"}}]',
    "channels.json": b'[{"id":"C1","name":"general","created":1600000000,"members":["U1"]}]',
}
_DAY = (
    b'[{"type":"message","user":"U1","text":"hi <@U1>","ts":"1600000060.000100",'
    b'"thread_ts":"1600000060.000100","reactions":[{"name":"tada","users":["U1"]}],"files":[{"id":"F1","name":"a.png"}],"edited":{"ts":"1.2"}}]'
)


def _zip(path: Path | io.BytesIO, entries: dict[str, bytes]) -> None:
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def _zipped(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    _zip(out, entries)
    return out.getvalue()


def _pictures() -> Iterable[bytes]:
    for number, form in enumerate(("JPEG", "PNG", "GIF", "WEBP")):
        out = io.BytesIO()
        picture = Image.new("RGB", (8, 6), (200, 10, 10))
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(out, form, **({} if form == "GIF" else {"exif": exif}))
        yield bytes([number]) + out.getvalue()


def _exports() -> Iterable[bytes]:
    from hashlib import sha256

    rows = b'{"app":"shop","name":"a"}\n'
    line = msgspec.json.encode(
        {"name": "rows/app/1", "bytes": len(rows), "sha256": sha256(rows).hexdigest(), "rows": 1}
    )
    manifest = msgspec.json.encode(
        {"format": FORMAT, "version": VERSION, "server": "1", "app": "shop", "begun": 1, "ended": 2}
        | {"entries": 1, "tables": {"app": 1}, "checksums": sha256(line + b"\n").hexdigest()}
    )
    yield _zipped({"rows/app/1": rows, CHECKSUMS: line + b"\n", MANIFEST: manifest})
    out = io.BytesIO()
    with ZipFile(out, "w") as archive:  # as it is, so that mutations reach what is in it
        for name, content in (("rows/app/1", rows), (CHECKSUMS, line + b"\n"), (MANIFEST, manifest)):
            archive.writestr(name, content)
    yield out.getvalue()


def _backups() -> Iterable[bytes]:
    out = io.BytesIO()
    members = {
        "imserver.json": b'{"format":1,"created":1,"secrets":{"a":"b"}}',
        "database.db": b"SQLite",
        "files/uploads/a": b"picture",
        "end": b"1",
    }
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    yield out.getvalue()


_ROWS: Any = (
    b'[{"id":7,"name":"ann","email":"ann@example.org","phone":"+491234567","password":"' + b"0" * 32 + b'"}]',
    b"id,phone_number,nickname,create_time\n8,+491234568,Bob,1600000000\n",
)

TARGETS = (
    Target("pictures", check_picture, _pictures, 4096, 0.5),
    Target("films", check_boxes, lambda: (heic(b"heic", b"Exif"), heic(b"heic", b"mime", True, 1)), 4096),
    Target("exports", check_export, _exports),
    Target("backups", check_backup, _backups, 16384),
    Target("slack", check_slack, lambda: (_zipped({**_SLACK, "general/2020-09-13.json": _DAY}), _DAY)),
    Target("accounts", check_rows, lambda: _ROWS),
)
