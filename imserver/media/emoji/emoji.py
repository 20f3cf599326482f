"""The emoji of apps: their rows, and their pictures. The pictures are files of
a user who does not exist."""

from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from time import time
from typing import ClassVar, Final

import msgspec
from msgspec import Struct

from imserver.media.emoji.declared import (
    HTTP_EMOJI_EXISTS,
    HTTP_TOO_MANY_EMOJI,
    HTTP_UNKNOWN_EMOJI,
    MOST,
    MOST_BYTES,
    MOST_PIXELS,
    TYPES,
)
from imserver.media.uploads.contract import SECOND_MS, Upload
from imserver.media.uploads.declared import HTTP_FILE_TOO_LARGE, HTTP_KIND_REFUSED
from imserver.media.uploads.uploads import Offer, Uploads
from imserver.plugin.errors import ServiceRefused, StorageUnavailable
from imserver.plugin.storage import PooledStatements, RowsOf, Store

OWNER: Final = "emoji of the app, " * 16
"""The owner of the pictures. It is longer than the id of any user who logs in,
so it is nobody's id."""


class EmojiRow(Struct, frozen=True):
    """An emoji of an app.

    ``picture``: the id of its file. ``created``: in Unix milliseconds.
    """

    name: str
    picture: str
    width: int
    height: int
    member: str
    """The user who has added it; ``""``: a back end, or an erased user."""
    created: int


_ROWS: Final = RowsOf(EmojiRow, "own_emoji")
_VERSION_BYTES: Final = 12
"""Length of the digest of a list of emoji."""


def version_of(rows: list[EmojiRow]) -> str:
    """A digest of the names and pictures of a list of emoji.

    It is equal on all nodes as long as the list is the same, so clients can ask
    whether their list is current.
    """
    names = msgspec.json.encode([(row.name, row.picture) for row in rows])
    return blake2b(names, digest_size=_VERSION_BYTES).hexdigest()


class OwnEmoji(Store.Rows):
    """Stores, lists and removes the emoji of apps. Methods may switch
    greenlets, and raise StorageUnavailable."""

    page_folder: ClassVar = Path(__file__).parent / "page"

    def __init__(self, store: Store, uploads: Uploads) -> None:
        super().__init__(store)
        self._uploads = uploads

    def of(self, app: str) -> list[EmojiRow]:
        """All emoji of an app, in the order of their names."""
        return _ROWS.find(self._store.rows, "WHERE app = %s ORDER BY name", app)

    def add(
        self,
        app: str,
        name: str,
        content: bytes,
        member: str = "",
        address: str = "",
        file_id: str = "",
    ) -> EmojiRow:
        """Add an emoji with the picture ``content``.

        ``member``: the user who adds it; ``""``: a back end. ``address``: the
        address of the client, which is charged for the bytes; ``""``: no
        address is charged. ``file_id``: the id of the file with this picture;
        ``""``: a new id. Raises ServiceRefused and MediaUnavailable; then
        nothing is stored.
        """
        if self._find(app, name) is not None:  # before the picture is read
            raise ServiceRefused(problem=HTTP_EMOJI_EXISTS)

        offer = Offer(
            app, OWNER, name, kind="picture", length=len(content), address=address
        )
        file = self._stored_picture(offer, content, file_id)
        row = EmojiRow(
            name=name,
            picture=file.id,
            width=file.width,
            height=file.height,
            member=member,
            created=int(time() * SECOND_MS),
        )
        try:
            _check(file)
            self._add(app, row)
        except StorageUnavailable:
            # The row may have been committed, so its picture must stay.
            raise
        except BaseException:
            self._uploads.delete(file.id)
            raise
        return row

    def _stored_picture(self, offer: Offer, content: bytes, file_id: str) -> Upload:
        """Store a picture as the file ``file_id``, unless this file exists, and
        return its row. If ``file_id`` is ``""``, the file gets a new id."""
        file = None
        if file_id:
            # An earlier process may have been killed after it had stored the
            # file.
            file = self._uploads.find(file_id)
        if file is None:
            file = self._uploads.receive(offer, BytesIO(content).read, file_id)
        return file

    def remove(self, app: str, name: str) -> None:
        """Remove an emoji, with its picture. Raises ServiceRefused if it does
        not exist."""
        row = self._find(app, name)
        if row is None:
            raise ServiceRefused(problem=HTTP_UNKNOWN_EMOJI)
        file = self._uploads.find(row.picture)
        # The row may come from an archive, and may name a file of somebody
        # else. Such a file is not deleted. The picture is deleted before the
        # row, so that a removal that fails between the two steps can be
        # repeated.
        if file is not None and (file.app, file.user) == (app, OWNER):
            self._uploads.delete(file.id)
        statement = (
            "DELETE FROM own_emoji WHERE app = %s AND name = %s AND picture = %s"
        )
        self._store.execute(statement, (app, name, row.picture))

    def _find(self, app: str, name: str) -> EmojiRow | None:
        """The emoji of an app with this name, or None if it does not exist."""
        return _ROWS.first(self._store.rows, "WHERE app = %s AND name = %s", app, name)

    @Store.writing
    def _add(self, sql: PooledStatements, app: str, row: EmojiRow) -> None:
        """Store the row of an emoji.

        Raises ServiceRefused if the app has too many emoji, or one with this
        name.
        """
        count = sql.query("SELECT count(*) FROM own_emoji WHERE app = %s", (app,))[0][0]
        if count >= MOST:
            raise ServiceRefused(problem=HTTP_TOO_MANY_EMOJI)
        sql.insert_new(
            "own_emoji", f"app, {_ROWS.columns}", [(app, *_ROWS.values(row))]
        )
        stored = _ROWS.first(sql.query, "WHERE app = %s AND name = %s", app, row.name)
        if stored != row:
            # Another request has stored an emoji with this name first.
            # insert_new() keeps an existing row.
            raise ServiceRefused(problem=HTTP_EMOJI_EXISTS)


def _check(file: Upload) -> None:
    """Raise ServiceRefused if a stored file cannot be the picture of an emoji:
    its type may be wrong, or its size."""
    if file.type not in TYPES:
        raise ServiceRefused(
            f"The picture is no PNG, GIF, WebP or JPEG: {file.type}", HTTP_KIND_REFUSED
        )
    # Many emoji are shown at once, so each must be small.
    if file.bytes > MOST_BYTES or max(file.width, file.height) > MOST_PIXELS:
        raise ServiceRefused(_size_problem(file), HTTP_FILE_TOO_LARGE)


def _size_problem(file: Upload) -> str:
    """The text of the error for a picture that is too large."""
    size = f"{file.width} × {file.height} pixels, {file.bytes} bytes"
    most = f"{MOST_PIXELS} × {MOST_PIXELS} pixels and {MOST_BYTES} bytes"
    return f"The picture has {size}; at most {most} are accepted"
