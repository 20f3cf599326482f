"""The app into which archives are imported. Expensive parts are built once, for
one archive or for all archives of a running server."""

from collections import Counter
from collections.abc import Callable
from time import monotonic
from typing import Final

from imserver.media.emoji import OwnEmoji
from imserver.media.uploads import Uploads, UploadSettings
from imserver.people.accounts import rules_of
from imserver.plugin.commands import fail, key_for
from imserver.plugin.identity import GOCHAT, Tenant, Tenants
from imserver.plugin.settings import HTTP_URL, Config, settings_of
from imserver.plugin.storage import Store

from .importer import Importer
from .people import People
from .problems import Problems
from .records import Archive
from .spool import Spool
from .survey import Survey
from .uploads import FileIndex, FileUploads

_PEOPLE_SECONDS: Final = 60.0
"""How long accounts are cached, because one may be erased meanwhile."""


class Destination:
    """An app into which archives of one format are imported.

    Methods switch greenlets, and raise StorageUnavailable.
    """

    def __init__(
        self,
        config: Config,
        store: Store,
        tenant: Tenant,
        format: str,
        problems: Problems,
    ) -> None:
        """Open the services that an import needs.

        ``format``: such as ``slack``. ``problems`` gets the identifiers that
        accounts cannot have.
        """
        self.app = tenant.name
        self.page = _own_page(config, tenant)
        """The messages page, whose links open messages; ``""`` if the app has
        its page elsewhere."""
        self.added: Counter[str] = Counter()
        """The numbers of new accounts, groups, messages, reactions, files and
        emoji."""
        self._store = store
        self._problems = problems
        self._uploads = Uploads(
            settings_of(config, UploadSettings), config.server.data_dir, store
        )
        self._emoji = OwnEmoji(store, self._uploads)
        self._key = key_for(config, f"{format}-import")
        self._format = format
        self._identifiers = rules_of(tenant).identifiers
        self._cached_at = -_PEOPLE_SECONDS
        """When the cache of accounts was begun, in monotonic seconds."""

    def close(self) -> None:
        """Close the services that uploads need."""
        self._uploads.close()

    def add(
        self,
        archive: Archive,
        contents: Survey,
        spool: Spool,
        index: FileIndex,
        done: Callable[[int], object] = bool,
    ) -> Importer:
        """Store an archive: accounts with their pictures, own emoji, and
        messages.

        Returns the importer that has stored it. ``contents`` and ``spool`` come
        from the survey of the archive. ``done`` is called with the number of
        messages so far.
        """
        people = self._cached_people()
        new_before = people.new
        uploads = FileUploads(
            self._uploads, index, self.app, self._key, archive.problems
        )
        self._add_people(people, contents, uploads)
        if contents.emoji:
            uploads.add_emoji(self._emoji, contents.emoji.values())
        importer = Importer(
            archive,
            contents,
            self._store,
            self.app,
            people,
            uploads,
            archive.problems,
            self.page,
        )
        importer.run(spool, done)
        self.added.update(
            importer.added,
            account=people.new - new_before,
            file=uploads.new,
            emoji=uploads.emoji,
        )
        return importer

    def _cached_people(self) -> People:
        """Return the accounts that were found before, if they are not too
        old."""
        if monotonic() - self._cached_at >= _PEOPLE_SECONDS:
            self.people = People(
                self._store,
                self.app,
                self._format,
                self._identifiers,
                self._problems,
            )
            self._cached_at = monotonic()
        return self.people

    def _add_people(
        self, people: People, contents: Survey, uploads: FileUploads
    ) -> None:
        """Find or make the account of each person, and set its picture.

        A person in the cache has both already.
        """
        for person in contents.people.values():
            if person.id in people.accounts:
                continue
            people.find_or_add(person)
            user = people.accounts[person.id].user
            picture = uploads.upload(person.avatar, user, person.id, "picture")
            if picture is not None:
                people.set_avatar(person.id, f"/api/v1/uploads/{picture.id}")


def tenant_of(tenants: Tenants, app: str) -> Tenant:
    """Return the app that an operator names.

    Ends the command with an error if its users are not accounts.
    """
    name = tenants.resolve(app)
    tenant = tenants.find(name)
    if tenant is None:
        fail(
            f"app {app} does not exist; `imserver chat` makes gochat, that of the messages page"
        )
    if not tenant.wants_accounts(name):
        fail(f"app {app} has no accounts: set its account_tokens to required")
    return tenant


def _own_page(config: Config, tenant: Tenant) -> str:
    """Return the address of the messages page, if the app has it on this
    server.

    ``""`` for all apps but the one that ``imserver chat`` makes.
    """
    if tenant.name != GOCHAT:
        return ""
    url = config.address
    if not HTTP_URL.match(url):
        url = f"http://127.0.0.1:{config.app.http_port}"
    return f"{url}/home/messages"
