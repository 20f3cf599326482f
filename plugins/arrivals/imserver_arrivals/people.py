"""Accounts for people of another server. An account has no password until its
owner claims it, and is linked with the person's id there.

The link is a login link with the format as the provider, such as ``slack``. By
this link the next import finds the account again. The owner may also claim the
account by a login with the provider.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from secrets import token_urlsafe
from time import time
from typing import Final, NamedTuple

from msgspec.structs import replace

from imserver.people.accounts import (
    NICKNAME_CHARACTERS,
    Account,
    AccountStore,
    Identifier,
    Mail,
    NotSent,
    SmtpSettings,
    checked,
    secret_hash,
    send,
)
from imserver.plugin.errors import ServiceRefused
from imserver.plugin.messages import clean_name
from imserver.plugin.storage import Store

from .problems import Problems
from .records import Person

_DAY_SECONDS: Final = 86_400
_CODE_BYTES: Final = 32
_TEXT: Final = """\
Your messages from {title} are here now. Open this address within {days} days to choose a password:

    {link}

You log in as {login}. Your name, your groups and all that was written there wait for you.

您在 {title} 的消息已迁移到这里。请在 {days} 天内打开上面的地址设置密码，
然后用 {login} 登录。您的名字、群组和以前的消息都在这里。
"""


def nickname_of(*names: str | None) -> str:
    """Return the first of these names that is visible, as a nickname.

    ``""`` if none is.
    """
    for name in names:
        nickname = clean_name(name or "")[:NICKNAME_CHARACTERS].strip()
        if nickname:
            return nickname
    return ""


class AccountLink(NamedTuple):
    """A link by which a person sets the password of an account."""

    login: str
    email: str
    """``""`` if the account has no address."""
    address: str


class People:
    """The accounts of the people in an archive.

    ``provider``: the format of the archive, such as ``slack``, which links an
    account with a person there. ``identifiers``: the kinds with which people
    may log in. Methods may switch greenlets and raise StorageUnavailable.
    """

    def __init__(
        self,
        store: Store,
        app: str,
        provider: str,
        identifiers: Collection[str],
        problems: Problems,
    ) -> None:
        """Prepare to find accounts. None are read yet."""
        self._rows = AccountStore(store)
        self._provider = provider
        self._app = app
        self._allowed = identifiers
        self._problems = problems
        self.accounts: dict[str, Account] = {}
        """Id of a person → the account."""
        self.new = 0
        """How many accounts were created."""

    def find_or_add(self, person: Person) -> None:
        """Put the account of a person into :attr:`accounts`. It is created if
        it is missing."""
        row = self._rows.linked(self._app, (self._provider,), (person.id,))
        if row is not None:
            self.accounts[person.id] = row[0]
        else:
            self.accounts[person.id] = self._add(person)

    def _add(self, person: Person) -> Account:
        """Create an account that is linked with a person.

        It has the person's name and address, so that the person can claim it.
        """
        nickname = nickname_of(person.nickname, person.login, person.id) or "?"
        nameless = Account(0, self._app, "", nickname)
        logins = dict(self._identifiers(person))
        account = replace(
            nameless, email=logins.get("email", ""), name=logins.get("name", "")
        )
        self.new += 1
        try:
            return self._rows.add_linked(account, self._provider, person.id)
        except ServiceRefused:
            # Somebody has registered with the name or the address meanwhile.
            self._problems.note("identifier that another account has", person=person.id)
            return self._rows.add_linked(nameless, self._provider, person.id)

    def _identifiers(self, person: Person) -> Iterator[tuple[Identifier, str]]:
        """Yield the identifiers with which a person logs in, such as ("name",
        "ann").

        Identifiers that the app does not allow are left out. Identifiers of
        another account are left out, too, because it may belong to somebody
        else.
        """
        kinds: tuple[tuple[Identifier, str], ...] = (
            ("email", person.email),
            ("name", person.login),
        )
        for kind, text in kinds:
            if not text or kind not in self._allowed:
                continue
            try:
                text = checked(kind, text)
            except ServiceRefused:
                self._problems.note(
                    f"{kind} that accounts cannot have", person=person.id
                )
                continue
            if self._rows.by_login(self._app, (kind, text)) is None:
                yield kind, text
            else:
                self._problems.note(
                    f"{kind} that another account has", person=person.id
                )

    def set_avatar(self, id: str, avatar: str) -> None:
        """Set the picture of an account, unless it has a picture."""
        account = self.accounts[id]
        if not account.avatar:
            row = self._rows.change(self._app, account.id, {"avatar": avatar})
            self.accounts[id] = row or account

    def links(
        self, persons: Mapping[str, Person], page: str, days: int
    ) -> Iterator[AccountLink]:
        """Yield a link for each account without a password.

        With the link, the owner can set a password once. ``page``: the page
        that the links open. ``days``: how long they are valid.
        """
        now = int(time())
        end = now + days * _DAY_SECONDS
        for id, person in persons.items():
            account = self.accounts[id]
            if not person.is_member or self._is_unclaimable(account):
                continue
            # The database has only a digest of the code, as of a password.
            code = token_urlsafe(_CODE_BYTES)
            digest = secret_hash(code)
            if self._rows.add_reset(account.id, account.email, digest, now, end):
                login = account.name or account.email
                yield AccountLink(login, account.email, f"{page}#reset={code}")

    def _is_unclaimable(self, account: Account) -> bool:
        """Whether nobody can claim an account by a link.

        It has a password, or no name with which its owner could log in, or was
        erased.
        """
        if not (account.email or account.name):
            return True
        row = self._rows.by_id(self._app, account.id)
        if row is None:
            return True
        _, password_hash = row
        return bool(password_hash)


def send_links(
    settings: SmtpSettings,
    links: Sequence[AccountLink],
    title: str,
    days: int,
    problems: Problems,
) -> int:
    """Mail each link to its person, if the account has an address.

    ``title``: the name of the product from which the people come. ``days``:
    how long the links are valid. Returns how many mails were sent. Stops if
    the mail server accepts no mails at all.
    """
    sent = 0
    addressed = [link for link in links if link.email]
    without = len(links) - len(addressed)
    if without:
        problems.note(
            "person without an e-mail address, who gets no mail", count=without
        )
    for number, link in enumerate(addressed):
        try:
            send(settings, _mail_of(link, title, days))
            sent += 1
        except NotSent as error:
            if not error.is_of_mail:
                problems.note(
                    f"mail that is not sent: {error}", count=len(addressed) - number
                )
                break
            problems.note("mail that the mail server refuses")
    return sent


def _mail_of(link: AccountLink, title: str, days: int) -> Mail:
    """Return the mail that invites a person to claim an account."""
    text = _TEXT.format(title=title, days=days, login=link.login, link=link.address)
    return Mail(
        link.email,
        "Choose a password for your account · 请为您的账号设置密码",
        text,
    )
