"""Files: pictures, films, archives, exports of other servers; and texts that
other programs send."""

import io
import sys
import tarfile
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import msgspec
from PIL import Image

from imserver.gateway.errors import StartError
from imserver.gateway.http.reply import ApiProblem
from imserver.media.uploads import pictures
from imserver.media.uploads.boxes import clear_metadata
from imserver.media.uploads.media import type_of
from imserver.media.uploads.pictures import PictureTask
from imserver.notifications.digests import clean as clean_for_mail
from imserver.notifications.webpush import retry_after
from imserver.offline.copies.archive import BackupArchive, is_archive
from imserver.operate.exports.archive import CHECKSUMS, MANIFEST
from imserver.operate.exports.contents import FORMAT, VERSION
from imserver.operate.exports.importing import Archive, BadArchive
from imserver.people.accounts.account_import import BadImport, accounts_of, read_rows
from imserver.people.bots.incoming import text_of as text_of_hook
from tests.media.uploads.test_boxes import heic
from tests.support import ROOT

from .target import Target

sys.path.insert(0, str(ROOT / "plugins" / "ntfy"))
sys.path.insert(0, str(ROOT / "plugins" / "arrivals"))

from imserver_arrivals.matrix import Matrix
from imserver_arrivals.mattermost import Mattermost
from imserver_arrivals.problems import BadArchive as BadArrival
from imserver_arrivals.records import Change, Emoji, Message, Record, Removal
from imserver_arrivals.rocketchat import RocketChat
from imserver_arrivals.slack import SlackExport, SlackMessage, Texts, text_of
from imserver_arrivals.text import clean, with_people
from imserver_arrivals.zulip import Zulip
from imserver_ntfy.message import Parameters, read_json, read_message
from imserver_ntfy.wire import Wish, read_since

_folder = tempfile.TemporaryDirectory(prefix="imserver-fuzz-")
FOLDER = Path(_folder.name)
_KINDS = ("image/jpeg", "image/png", "image/gif", "image/webp")
pictures.prepare()


def check_picture(data: bytes) -> None:
    """A picture is read or refused, and has no metadata afterwards. The first
    byte chooses its type."""
    kind = _KINDS[data[0] % 4 if data else 0]
    path = FOLDER / "picture"
    path.write_bytes(data[1:])
    type_of(data[1:])
    small = FOLDER / "small"
    cleaned = FOLDER / "cleaned"
    try:
        picture = pictures.process(
            PictureTask(str(path), kind, str(small), str(cleaned), 20)
        )
    except Exception:
        return  # that of a process of its own, which answers that it is no picture
    assert min(picture.width, picture.height) > 0
    if picture.cleaned:
        try:
            again = pictures.process(
                PictureTask(str(cleaned), kind, str(small), str(path), 0)
            )
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
    """An export of Slack is read, with what is broken in it, or refused with
    BadArrival. Input without the signature of a zip file is that of a day."""
    path = FOLDER / "slack.zip"
    if data.startswith(b"PK"):
        path.write_bytes(data)
    else:
        _zip(path, {**_SLACK, "general/2020-09-13.json": data})
    with suppress(BadArrival):
        for record in SlackExport(path).records():
            assert msgspec.msgpack.encode(record)


def check_mattermost(data: bytes) -> None:
    """Lines of an export of Mattermost are read, with what is broken in
    them."""
    folder = FOLDER / "mattermost"
    folder.mkdir(exist_ok=True)
    (folder / "import.jsonl").write_bytes(_MATTERMOST + data)
    _check_records(Mattermost(folder).records())


def check_matrix(data: bytes) -> None:
    """Events of a room of Matrix are read, with what is broken in them."""
    path = FOLDER / "matrix.zip"
    _zip(path, {"ann/rooms/!tea:chat.example/events": data})
    _check_records(Matrix(path).records())


def _check_records(records: Iterable[Record]) -> None:
    ids = set()
    for record in records:
        assert msgspec.msgpack.encode(record)
        if isinstance(record, Message | Change | Removal):
            assert {record.person, record.group} <= ids
        elif not isinstance(record, Emoji):
            ids.add(record.id)


def check_zulip(data: bytes) -> None:
    """Messages of an export of Zulip are read, with what is broken in them."""
    folder = FOLDER / "zulip"
    folder.mkdir(exist_ok=True)
    (folder / "realm.json").write_bytes(_ZULIP)
    (folder / "messages-000001.json").write_bytes(data)
    for record in Zulip(folder).records():
        assert msgspec.msgpack.encode(record)


def check_rocketchat(data: bytes) -> None:
    """An archive of mongodump is read, or refused."""
    path = FOLDER / "rocketchat.archive"
    path.write_bytes(data)
    with suppress(BadArrival):
        for record in RocketChat(path).records():
            assert msgspec.msgpack.encode(record)


def check_rows(data: bytes) -> None:
    with suppress(BadImport):
        accounts_of(read_rows(data.decode("utf-8", "replace")), "shop")


_HEADERS = (
    "title",
    "message",
    "tags",
    "priority",
    "click",
    "icon",
    "attach",
    "actions",
    "since",
    "authorization",
)
TEXTS = Texts({"U1"}, {"C1": "general"})


def check_ntfy(data: bytes) -> None:
    """A request of a client of ntfy is read, or refused with ApiProblem. Lines
    are its headers, then its query, then its body."""
    *lines, query, body = [*data.split(b"\n", len(_HEADERS) + 1), b"", b""][
        : len(_HEADERS) + 2
    ]
    headers = dict(
        zip(_HEADERS, (line.decode("latin-1") for line in lines), strict=False)
    )
    with suppress(ApiProblem):
        parameters = Parameters(headers, query.decode("latin-1"))
        with suppress(ApiProblem):
            parameters.credential()
        with suppress(ApiProblem):
            Wish.read("/ntfy/topic/json", parameters)
        assert 0 <= read_message("topic", parameters, body, 4096).priority <= 5
    with suppress(ApiProblem):
        given = read_json(data)
        read_message("topic", Parameters({}, "", given), b"", 4096)
    for text in (data.decode("latin-1"), data.decode("utf-8", "replace")):
        with suppress(ApiProblem):
            read_since(text)


def check_texts(data: bytes) -> None:
    """A text of Slack becomes one of ours, and any text one of a mail."""
    text = data.decode("utf-8", "replace")
    converted, mentions = with_people(TEXTS.convert(text), {"U1": ("17", "Ann")}.get)
    clean(converted).encode()
    assert len(mentions) <= 100
    assert "\n" not in clean_for_mail(text)
    retry_after({"retry-after": text}, 1_800_000_000.0)


def check_blocks(data: bytes) -> None:
    """A message of an app of Slack has a text; any object at an incoming
    webhook may have one."""
    with suppress(ValueError, RecursionError):
        text_of_hook(msgspec.json.decode(data, type=dict))
    try:
        message = msgspec.json.decode(data, type=SlackMessage)
    except (ValueError, RecursionError):
        return
    assert isinstance(text_of(message), str)


_MATTERMOST = (
    b'{"type":"version","version":1}\n{"type":"team","team":{"name":"t"}}\n'
    b'{"type":"channel","channel":{"team":"t","name":"c","type":"O"}}\n'
    b'{"type":"user","user":{"username":"ann","teams":[{"name":"t","channels":[{"name":"c"}]}]}}\n'
)
_SLACK = {
    "users.json": b'[{"id":"U1","name":"ann","profile":{"email":"ann@example.org"}}]',
    "channels.json": b'[{"id":"C1","name":"general","created":1600000000,"members":["U1"]}]',
}


_POST = (
    b'{"type":"post","post":{"team":"t","channel":"c","user":"ann","create_at":9,"message":"**a** @ann :ok:",'
    b'"props":{"attachments":[{"title":"x","fields":[{"title":"y","value":1}]}],"from_webhook":"true"},'
    b'"reactions":[{"user":"ann","emoji_name":"+1"}],"attachments":[{"path":"a/b"}],"is_pinned":true,'
    b'"replies":[{"user":"ann","create_at":10,"message":"[l](http://x) # ~c"}]}}\n'
    b'{"type":"direct_post","direct_post":{"channel_members":["ann"],"user":"ann","create_at":9}}\n'
)


_ZULIP = (
    b'{"zerver_userprofile":[{"id":1,"full_name":"Ann"}],"zerver_stream":[{"id":1,"name":"c","recipient":2}],'
    b'"zerver_subscription":[{"user_profile":1,"recipient":2}]}'
)
_ZULIP_MESSAGES = (
    b'{"zerver_message":[{"id":1,"sender":1,"recipient":2,"subject":"t","content":"**a** @**Ann** *b* `c`\\n'
    b'```quote\\n[f](/user_uploads/a) :smile:\\n```","date_sent":9.5,"edit_history":"[{}]"}],'
    b'"zerver_usermessage":[{"user_profile":1,"message":1,"flags_mask":0}]}'
)


def _dump() -> bytes:
    import bson

    end = b"\xff\xff\xff\xff"
    ann = {"_id": "a", "username": "ann"}
    room = {"_id": "r", "t": "c", "name": "r"}
    message = {
        "_id": "m",
        "rid": "r",
        "u": ann,
        "ts": bson.Int64(9),
        "msg": "*a* @ann :smile: ~b~",
    }
    out = b"\x6d\xe2\x99\x81" + bson.encode({"version": "0.1"}) + end
    for name, document in (
        ("users", ann),
        ("rocketchat_room", room),
        ("rocketchat_message", message),
    ):
        out += (
            bson.encode({"db": "d", "collection": name, "EOF": False})
            + bson.encode(document)
            + end
        )
    return out


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
        {
            "name": "rows/app/1",
            "bytes": len(rows),
            "sha256": sha256(rows).hexdigest(),
            "rows": 1,
        }
    )
    manifest = msgspec.json.encode(
        {
            "format": FORMAT,
            "version": VERSION,
            "server": "1",
            "app": "shop",
            "begun": 1,
            "ended": 2,
        }
        | {
            "entries": 1,
            "tables": {"app": 1},
            "checksums": sha256(line + b"\n").hexdigest(),
        }
    )
    yield _zipped({"rows/app/1": rows, CHECKSUMS: line + b"\n", MANIFEST: manifest})
    out = io.BytesIO()
    # as it is, so that mutations reach what is in it
    with ZipFile(out, "w") as archive:
        for name, content in (
            ("rows/app/1", rows),
            (CHECKSUMS, line + b"\n"),
            (MANIFEST, manifest),
        ):
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


TARGETS = (
    Target("pictures", check_picture, _pictures, 4096, 0.5),
    Target(
        "films",
        check_boxes,
        lambda: (heic(b"heic", b"Exif"), heic(b"heic", b"mime", True, 1)),
        4096,
    ),
    Target("exports", check_export, _exports),
    Target("backups", check_backup, _backups, 16384),
    Target(
        "slack",
        check_slack,
        lambda: [_zipped({**_SLACK, "general/2020-09-13.json": b"[]"})],
    ),
    Target("mattermost", check_mattermost, lambda: [_POST]),
    Target("zulip", check_zulip, lambda: [_ZULIP_MESSAGES]),
    Target("rocketchat", check_rocketchat, lambda: [_dump()]),
    Target("accounts", check_rows),
    Target("ntfy", check_ntfy),
    Target("slack_texts", check_texts),
    Target("matrix", check_matrix),
    Target("blocks", check_blocks),
)
