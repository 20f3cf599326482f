"""Accounts for people of another server. An account has no password until its
owner claims it, and is linked with the person's id there.

The link is a login link with the format as the provider, such as ``slack``. By
this link the next import finds the account again. The owner may also claim the
account by a login with the provider.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from secrets import token_urlsafe
from time import time
from typing import Final

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
    """The first of these names that is visible, as a nickname; ``""`` if none
    is."""
    for name in names:
        nickname = clean_name(name or "")[:NICKNAME_CHARACTERS].strip()
        if nickname:
            return nickname
    return ""


class People:
    """The accounts of the people in an archive. Methods may switch greenlets
    and raise StorageUnavailable."""

    def __init__(
        self,
        store: Store,
        app: str,
        provider: str,
        identifiers: Collection[str],
        problems: Problems,
    ) -> None:
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
        """Put the account of a person into :attr:`accounts`. A person without
        an account gets one."""
        row = self._rows.linked(self._app, (self._provider,), (person.id,))
        if row is not None:
            self.accounts[person.id] = row[0]
        else:
            self.accounts[person.id] = self._add(person)

    def _add(self, person: Person) -> Account:
        """Create an account that is linked with a person. If somebody has just
        registered with an identifier of the person, it is created without
        identifiers."""
        logins = dict(self._identifiers(person))
        email = logins.get("email", "")
        name = logins.get("name", "")
        nickname = nickname_of(person.nickname, person.login, person.id) or "?"
        account = Account(0, self._app, "", nickname, email=email, name=name)
        self.new += 1
        try:
            return self._rows.add_linked(account, self._provider, person.id)
        except ServiceRefused:
            # Somebody has registered meanwhile.
            self._problems.note("identifier that another account has", person=person.id)
            return self._rows.add_linked(
                Account(0, self._app, "", nickname), self._provider, person.id
            )

    def _identifiers(self, person: Person) -> Iterator[tuple[Identifier, str]]:
        """The identifiers with which a person logs in, if the app allows them
        and no account has them. An account with the person's address may belong
        to somebody else, so it is not linked with the person."""
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
    ) -> Iterator[tuple[str, str, str]]:
        """(login, e-mail address, link) of each account without a password.
        With the link, the owner can set a password once."""
        now = int(time())
        end = now + days * _DAY_SECONDS
        for id, person in persons.items():
            account = self.accounts[id]
            if not person.is_member or not (account.email or account.name):
                continue
            row = self._rows.by_id(self._app, account.id)
            if row is None:
                continue
            _, password_hash = row
            if password_hash:
                continue
            code = token_urlsafe(_CODE_BYTES)
            digest = secret_hash(code)
            if self._rows.add_reset(account.id, account.email, digest, now, end):
                login = account.name or account.email
                yield login, account.email, f"{page}#reset={code}"


def send_links(
    settings: SmtpSettings,
    rows: Sequence[tuple[str, str, str]],
    title: str,
    days: int,
    problems: Problems,
) -> int:
    """Mail each link to the people who have an address. ``rows``: see
    :meth:`People.links`. ``title``: the name of the product from which the
    people come. Returns how many mails were sent.

    Stops if the mail server accepts no mails at all.
    """
    sent = 0
    addressed = [row for row in rows if row[1]]
    without = len(rows) - len(addressed)
    if without:
        problems.note(
            "person without an e-mail address, who gets no mail", count=without
        )
    for number, (login, address, link) in enumerate(addressed):
        try:
            text = _TEXT.format(title=title, days=days, login=login, link=link)
            send(
                settings,
                Mail(
                    address,
                    "Choose a password for your account · 请为您的账号设置密码",
                    text,
                ),
            )
            sent += 1
        except NotSent as error:
            if not error.is_of_mail:
                problems.note(
                    f"mail that is not sent: {error}", count=len(addressed) - number
                )
                break
            problems.note("mail that the mail server refuses")
    return sent
