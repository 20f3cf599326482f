"""Previews of links in stored messages.

Nothing is done when a message is stored. A reader's client asks for the
previews of the messages that it shows. If a link has no row yet, a node fetches
it, once for each app. The row is first the lease of this node. Later it has the
preview, or the fact that the link has no preview.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import gevent
import msgspec
from gevent.lock import Semaphore
from msgspec import Struct

from imserver.media.previews.declared import (
    APP_LINKS,
    HOST_REQUESTS,
    LINKS_OF_APPS,
    LINKS_OF_SENDERS,
    RATE_SECONDS,
    REQUESTS_TO_HOSTS,
    SENDER_LINKS,
    PreviewSettings,
    is_on,
)
from imserver.media.previews.fetching import Fetching, first_link
from imserver.media.previews.rows import (
    MAKING,
    NONE,
    READY,
    PersonWishes,
    PreviewRow,
    PreviewRows,
)
from imserver.media.uploads.api import FILE_PATH
from imserver.media.uploads.contract import MediaUnavailable, Upload
from imserver.media.uploads.transfers import TransferRefused
from imserver.media.uploads.uploads import Uploads, new_id
from imserver.plugin.errors import Problems, ServiceRefused, StorageUnavailable
from imserver.plugin.http import about, view
from imserver.plugin.identity import TooManyRequests
from imserver.plugin.messages import Entry, MessageLog
from imserver.plugin.runtime import (
    PublicRequests,
    Unreachable,
    is_long_turn,
    serve_others,
)
from imserver.plugin.services import Core
from imserver.plugin.settings import Config, settings_of
from imserver.plugin.wire import Limit

if TYPE_CHECKING:
    from imserver.media.previews.pages import LinkedPage

log = logging.getLogger(__name__)

OWNER: Final = "previews of links, " * 15
"""The owner of the pictures. It is longer than the id of any user who logs in,
so it is nobody's id."""
WAITING: Final = 200
"""The most links of a node that wait or are being fetched. The limits of one
app and one sender are lower."""
_ALL_SENDERS: Final = ""
"""This value in place of a sender means all senders of the app."""
WAITING_OF_APP: Final = 50
WAITING_OF_SENDER: Final = 3
_SWEPT: Final = 100
"""Old previews that are deleted together."""
_LEASE_SECONDS: Final = 90
"""How long a node has the lease of a link."""
_WORK_SECONDS: Final = 60.0
"""Time limit for one preview. It is shorter than the lease."""
_FAILURE_SECONDS: Final = 3600
"""Time after which a link without a preview is tried again."""
_DAY_SECONDS: Final = 86_400

MessageId = Annotated[int, about("The id of a message.", ge=1, le=Limit.ID)]


class PageSummary(Struct, kw_only=True, omit_defaults=True):
    """The data that the page of a link gives about itself. These fields come
    after the fields of subclasses."""

    title: Annotated[str, about("The title of the page, in one line.")]
    description: Annotated[
        str, about("The description of the page, from the page itself, in one line.")
    ] = ""
    site: Annotated[str, about("The name of the site.")] = ""
    picture: Annotated[str, about("The path of the picture on this server.")] = ""
    width: Annotated[int, about("The width of the picture, in pixels.")] = 0
    height: Annotated[int, about("The height of the picture, in pixels.")] = 0


class PreviewShown(PageSummary, omit_defaults=True):
    """The preview of the first link in a message."""

    message: MessageId
    url: Annotated[str, about("The link that the server fetches.")]


class PreviewsAnswer(Struct):
    """The finished previews, and the messages whose previews are being made."""

    previews: list[PreviewShown]
    pending: Annotated[
        list[MessageId],
        about(
            "Messages whose previews are being made. Request these messages again "
            "later."
        ),
    ]


_decode: Final = msgspec.json.Decoder(PageSummary).decode


class Previews:
    """Makes, shows and deletes previews of links. Methods may raise
    StorageUnavailable.

    The service owns the fetches of this node. Their number is limited.
    """

    page_folder: Final = Path(__file__).parent / "page"

    def __init__(self, core: Core, uploads: Uploads, requests: PublicRequests) -> None:
        """Make the rates for senders, apps and hosts, and begin without
        fetches."""
        self._core = core
        self.rows = PreviewRows(core.store)
        self._uploads = uploads
        make = core.buckets.make
        # The rates count the links of all nodes together.
        shared = core.attempt
        self._links_of_senders = make(
            LINKS_OF_SENDERS, SENDER_LINKS, RATE_SECONDS, shared
        )
        self._links_of_apps = make(LINKS_OF_APPS, APP_LINKS, RATE_SECONDS, shared)
        hosts = make(REQUESTS_TO_HOSTS, HOST_REQUESTS, RATE_SECONDS, shared)
        self._settings = settings_of(core.config, PreviewSettings)
        self.fetching = Fetching(requests, hosts.require, self._settings.seconds)
        self._slots = Semaphore(self._settings.at_once)

        self.busy: dict[tuple[str, str], gevent.Greenlet[..., None]] = {}
        """(app, hash of the link) → the greenlet that fetches it, or waits for a
        slot."""
        self._waiting: Counter[tuple[str, str]] = Counter()
        """(app, sender) → the number of links of the sender in :attr:`busy`.
        With :data:`_ALL_SENDERS`, it is the number of all links of the app."""
        self.counts: Counter[str] = Counter()
        """The work of this node since its start: ``made``, ``failed`` and
        ``refused``."""

    def configure(self, config: Config) -> None:
        """Read the settings again."""
        self._settings = settings_of(config, PreviewSettings)

    # --- requests -------------------------------------------------------------

    def is_on(self, app: str) -> bool:
        """Whether an app has previews."""
        return is_on(self._core.tenants.get(app))

    def wishes(self, app: str, user: str) -> PersonWishes:
        """The settings of a user about previews. If the user has stored no
        settings, both are on. Raises StorageUnavailable."""
        return self.rows.wishes(app, [user]).get(user, PersonWishes())

    def remove(self, app: str, user: str, message: int) -> None:
        """Remove the preview below a message of the user.

        Raises ServiceRefused if the message belongs to somebody else, or is
        unknown.
        """
        entries = self._readable(app, user, [message])
        if not any(entry.sender == user for entry in entries):
            raise ServiceRefused(problem=Problems.UNKNOWN_MESSAGE)
        self.rows.remove(app, user, message)

    def show(self, app: str, user: str, messages: Sequence[int]) -> PreviewsAnswer:
        """The previews of those messages that the user can read.

        Previews that do not exist yet are begun, and listed as pending.
        Switches greenlets. Raises StorageUnavailable.
        """
        if not self.is_on(app) or not self.wishes(app, user).show:
            return PreviewsAnswer([], [])
        links = self._links(app, self._readable(app, user, messages))
        if not links:
            return PreviewsAnswer([], [])

        return self._shown(app, links)

    def _shown(self, app: str, links: list[tuple[Entry, str]]) -> PreviewsAnswer:
        """The previews of links that exist, and the messages whose previews are
        being made. Previews that nobody makes are begun."""
        # Rows are found by the hash of a link.
        hashes = {url: hash_of(url) for _, url in links}
        rows = self.rows.current(app, set(hashes.values()))

        answer = PreviewsAnswer(previews=[], pending=[])
        for entry, url in links:
            row = rows.get(hashes[url])
            if row is None:
                self._begin(app, entry.sender, url)
                answer.pending.append(entry.id)
            elif row.state == MAKING:
                answer.pending.append(entry.id)
            elif row.state == READY:
                answer.previews.append(_preview_of(row, entry, url))
        return answer

    def _readable(self, app: str, user: str, messages: Sequence[int]) -> list[Entry]:
        """The messages with these ids that a user can read. Switches
        greenlets."""
        entries = self._core.store.part(MessageLog).entries
        return [
            entry
            for entry in entries.readable(app, user, messages)
            if entry.kind == "message"
        ]

    def _links(self, app: str, entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
        """The first link of each message.

        Messages without a link, and messages whose senders want no preview, are
        left out. Switches greenlets.
        """
        links = []
        for entry in entries:
            if is_long_turn():
                serve_others()
            if entry.type != "text":
                continue
            url = first_link(entry.body.decode(errors="replace"))
            if url is not None:
                links.append((entry, url))

        if not links:
            # No message has a link, so the database is not queried. This is
            # usual.
            return links
        return self._wanted_links(app, links)

    def _wanted_links(
        self, app: str, links: list[tuple[Entry, str]]
    ) -> list[tuple[Entry, str]]:
        """The given links without the links whose senders want no preview.
        Switches greenlets."""
        removed = self.rows.removed(app, [entry.id for entry, _ in links])
        wishes = self.rows.wishes(app, {entry.sender for entry, _ in links})
        wanted = []
        for entry, url in links:
            wishes_of_sender = wishes.get(entry.sender, PersonWishes())
            if wishes_of_sender.make and entry.id not in removed:
                wanted.append((entry, url))
        return wanted

    # --- work -----------------------------------------------------------------

    def _begin(self, app: str, sender: str, url: str) -> None:
        """Begin to make the preview of a link, in a greenlet of its own.

        If too many links of the sender, the app or the node wait, nothing is
        done: a later request of a reader tries again.
        """
        key = app, hash_of(url)
        if key in self.busy:
            return
        if self._is_too_busy(app, sender):
            self.counts["refused"] += 1
            return
        # The link is counted once for the sender, and once for the whole app.
        self._waiting.update(((app, sender), (app, _ALL_SENDERS)))
        self.busy[key] = gevent.spawn(self._make_in_slot, key, sender, url)

    def _is_too_busy(self, app: str, sender: str) -> bool:
        """Whether too many links of the sender, the app or the node wait."""
        return (
            len(self.busy) >= WAITING
            or self._waiting[app, sender] >= WAITING_OF_SENDER
            or self._waiting[app, _ALL_SENDERS] >= WAITING_OF_APP
        )

    def _make_in_slot(self, key: tuple[str, str], sender: str, url: str) -> None:
        """Wait for a slot, and make one preview. This is a greenlet of its own.

        ``key``: the app, and the hash of the link.
        """
        app, link = key
        try:
            with self._slots:
                self._make(app, link, sender, url)
        except TooManyRequests:
            self.counts["refused"] += 1
        except StorageUnavailable as error:
            log.debug("a preview could not be stored: %s", error)
        except Exception:
            log.exception("a preview could not be made")
        finally:
            del self.busy[key]
            # Undo the counting in _begin(). The subtraction also drops counts
            # of 0.
            self._waiting -= Counter(((app, sender), (app, _ALL_SENDERS)))

    def _make(self, app: str, link: str, sender: str, url: str) -> None:
        """Fetch the page of a link and store its preview, unless another node
        makes or has made the preview.

        ``link``: the hash of ``url``. Raises TooManyRequests and
        StorageUnavailable.
        """
        if link in self.rows.current(app, [link]):
            return
        self._links_of_senders.require((app, sender))
        self._links_of_apps.require(app)
        # The id of the picture is chosen now, because it also names the lease:
        # it shows later that this node still has it.
        picture = new_id()
        former_picture = self.rows.claim(app, link, picture, _LEASE_SECONDS)
        if former_picture is None:
            return  # another node makes the preview
        if former_picture:
            self._forget_picture(former_picture)
        self._fetch_and_store(app, link, sender, url, picture)

    def _fetch_and_store(
        self, app: str, link: str, sender: str, url: str, picture: str
    ) -> None:
        """Fetch the page of a link whose lease this node has, and store its
        preview, or the fact that the page has no preview.

        ``picture``: the id of the picture, which names the lease. Raises
        TooManyRequests and StorageUnavailable.
        """
        no_preview = PreviewRow(link, NONE, picture, content=b"")
        try:
            preview = self._fetch(app, sender, url, picture)
        except TooManyRequests as refusal:
            # No node tries the link again before the rate allows it.
            self.rows.finish(app, no_preview, refusal.seconds)
            raise
        if preview is None:
            self.counts["failed"] += 1
            self.rows.finish(app, no_preview, _FAILURE_SECONDS)
        else:
            self._store(app, link, picture, preview)

    def _store(self, app: str, link: str, picture: str, preview: PageSummary) -> None:
        """Store a preview that was made. Its picture, if it has one, is the
        file ``picture``. Raises StorageUnavailable."""
        row = PreviewRow(link, READY, picture, msgspec.json.encode(preview))
        seconds = self._settings.retention_days * _DAY_SECONDS
        self.counts["made"] += 1
        is_stored = self.rows.finish(app, row, seconds)
        if not is_stored and preview.picture:
            # Another node has taken over the lease, so no preview shows this
            # picture.
            self._forget_picture(picture)

    def _fetch(
        self, app: str, sender: str, url: str, picture: str
    ) -> PageSummary | None:
        """Fetch the page of a link, and store its picture as the file with the
        id ``picture``.

        Returns None if the page has no preview, or cannot be fetched. Raises
        TooManyRequests.
        """
        try:
            with gevent.Timeout(_WORK_SECONDS, Unreachable("it takes too long")):
                page = self.fetching.page(app, sender, url, self._settings.page_bytes)
                if page is not None:
                    return self._with_picture(app, page, picture)
        except Unreachable as error:
            log.debug("there is no preview of a link of %s: %s", app, error)
        return None

    def _with_picture(self, app: str, page: LinkedPage, name: str) -> PageSummary:
        """The preview of a page, whose picture is fetched and stored as the
        file with the id ``name``.

        If that fails, the preview has no picture.
        """
        preview = PageSummary(
            title=page.title, description=page.description, site=page.site
        )
        if not page.picture:
            return preview

        row = self._stored_picture(app, page.picture, name)
        if row is not None:
            preview.picture = FILE_PATH.format(id=row.id)
            preview.width = row.width
            preview.height = row.height
        return preview

    def _stored_picture(self, app: str, url: str, name: str) -> Upload | None:
        """Fetch a picture, and store it as the file with the id ``name``.

        Returns None if that fails, or if browsers do not show such a picture.
        """
        try:
            content = self.fetching.picture(url, self._settings.picture_bytes)
            return self._uploads.store_small(app, OWNER, name, content)
        except (
            Unreachable,
            TooManyRequests,
            TransferRefused,
            MediaUnavailable,
        ) as error:
            log.debug("the picture of a preview of %s is left out: %s", app, error)
            return None

    def _forget_picture(self, name: str) -> None:
        """Delete the picture of a former preview. A failure is only logged."""
        try:
            self._uploads.delete(name)
        except MediaUnavailable as error:
            log.warning(
                "the picture of a former preview could not be deleted: %s", error
            )

    def sweep(self) -> None:
        """Delete expired previews, with their pictures, in batches of
        :data:`_SWEPT`.

        Switches greenlets. Raises StorageUnavailable.
        """
        while rows := self.rows.expired(_SWEPT):
            for app, link, picture, until in rows:
                if picture:
                    self._forget_picture(picture)
                self.rows.forget(app, link, until)
            if len(rows) < _SWEPT:
                return

    def stop(self) -> None:
        """End the fetches that are under way. Other nodes make these previews
        when the leases have ended."""
        gevent.killall(list(self.busy.values()))
        self.fetching.close()


def _preview_of(row: PreviewRow, entry: Entry, url: str) -> PreviewShown:
    """The finished preview below a message, as the answer shows it."""
    summary = _decode(row.content)
    return view(PreviewShown, summary, message=entry.id, url=url)


def hash_of(url: str) -> str:
    """The digest of a URL, which is stored in place of the URL. A URL may
    contain secrets."""
    return hashlib.sha256(url.encode()).hexdigest()
