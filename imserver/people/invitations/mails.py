"""Invitations by e-mail: each is a link for one person. The mail server of
section ``smtp`` sends it.

The rows are the queue (:class:`Runner`), so accepted invitations are sent even
after a restart.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from hashlib import blake2b
from secrets import token_urlsafe
from time import monotonic, time
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

import gevent
import msgspec
from msgspec import Struct

from imserver.messenger.groups.groups import NotAllowed, UnknownGroup
from imserver.messenger.groups.parts import groups_of
from imserver.people.accounts.declared import SmtpSettings
from imserver.people.accounts.identifiers import BadField, checked
from imserver.people.accounts.mailing import Mail, NotSent, page_template, send
from imserver.people.accounts.parts import accounts_of, chat_page_of
from imserver.people.invitations.declared import (
    DAY_SECONDS,
    INVITED_ADDRESSES,
    InvitationLimits,
)
from imserver.people.invitations.invitations import CODE_BYTES, SECONDS
from imserver.people.invitations.rows import (
    MAIL_STATES,
    InvitationMail,
    InvitationShown,
    InvitationStore,
    MailCounts,
)
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.http import about
from imserver.plugin.identity import TooManyRequests
from imserver.plugin.runtime import asset_path
from imserver.plugin.services import Core
from imserver.plugin.settings import settings_of
from imserver.plugin.storage import Runner
from imserver.plugin.wire import id_of

STORED_SECONDS: Final = 30 * 86400
"""After this time an address is deleted, whether the invitation was used or
not."""

Refusal = Literal["", "no_mail", "role"]
"""The reason why a user may not invite by e-mail: this server sends no such
mails, or the user has no role in the app; ``""``: the user may."""
Objection = Literal["no_address", "invited", "often"]
"""The reason why an address is not invited."""


class RefusedAddress(Struct, frozen=True):
    """An address that was not invited."""

    email: Annotated[str, about("The address as you sent it.")]
    reason: Annotated[
        Objection,
        about(
            "The reason. `no_address`: the text is no e-mail address. `invited`: the "
            "address has a valid invitation to this group. `often`: the address has "
            "reached its limit of mails."
        ),
    ]


_LEASE_SECONDS: Final = 45
"""How long a node reserves a mail."""
_PAUSE_SECONDS: Final = 60.0
_AWAY_SECONDS: Final = 20.0
"""How long no mail is tried after the mail server has not answered."""
_PROCEED_SECONDS: Final = 1.0
"""How often a waiting mail is reserved again."""
_TRY_SECONDS: Final = 86_400
"""How long a mail is tried."""
_REASON_CHARACTERS: Final = 200
_ID_BYTES: Final = 16


class InvitationMails:
    """Makes invitations by e-mail, and sends them.

    ``runner`` sends the waiting ones. Only users with a role in the app, and
    back ends, may invite by e-mail. The reason: a mail contains the names of
    the group and of the inviter, and so brings their words to strangers.
    Methods may switch greenlets, and raise StorageUnavailable.
    """

    def __init__(self, core: Core) -> None:
        """Make the runner that sends the waiting mails, and the rate of an app."""
        config = core.config
        self._smtp = settings_of(config, SmtpSettings)
        self._page = partial(chat_page_of, core)  # pages are built later
        self._site = _chat_name(core) or urlsplit(config.address).netloc
        self._people = accounts_of(core)
        self._groups = groups_of(core)
        self._rows = InvitationStore(core.store)
        number = settings_of(config, InvitationLimits).invitation_mails
        self._mails_of_app = core.buckets.make(
            INVITED_ADDRESSES, number, DAY_SECONDS, core.attempt
        )
        self._away_until = 0.0
        """The time until which no mail is tried, because the mail server has
        not answered (monotonic)."""
        self.runner = Runner(
            core.store,
            "invitation_mail",
            "state = 0",  # the mail waits
            self._work,
            lease_seconds=_LEASE_SECONDS,
            look_seconds=_PAUSE_SECONDS,
        )

    @property
    def run(self) -> tuple[Callable[[], None], ...]:
        """The greenlets of a node that sends mail."""
        if self._smtp.host:
            return (self.runner.run,)
        return ()

    def refusal(self, app: str, inviter: str) -> Refusal:
        """The reason why a user may not invite by e-mail; ``""`` if the user
        may.

        ``inviter`` ``""`` is a back end.
        """
        if not (self._smtp.host and self._page()):
            return "no_mail"
        if inviter and not self._people.accounts.known(app, inviter).role:
            return "role"
        return ""

    def _require_inviter(self, app: str, inviter: str) -> None:
        """Raise ServiceRefused if a user may not invite by e-mail."""
        match self.refusal(app, inviter):
            case "no_mail":
                raise ServiceRefused(
                    "This server sends no invitations by mail", Problems.NOT_IMPLEMENTED
                )
            case "role":
                raise ServiceRefused(
                    "Owners and moderators invite by mail", Problems.NOT_ALLOWED
                )

    def create(
        self,
        app: str,
        inviter: str,
        group: int,
        emails: Sequence[str],
        guests: bool,
        language: str,
    ) -> tuple[int, list[RefusedAddress]]:
        """Invite these addresses to a group.

        Returns the number of invited addresses, and the refused addresses. With
        ``guests``, people without an account may come in. Raises UnknownGroup,
        NotAllowed, UnknownAccount, ServiceRefused (no mails, no guests) and
        TooManyRequests.
        """
        self._require_may_invite(app, inviter, group, guests)
        refused: list[RefusedAddress] = []
        now = int(time())
        wanted = self._uninvited(app, group, emails, now, refused)
        # The limit of the app comes first. If it refuses, nobody is invited, so
        # the addresses are not charged.
        self._mails_of_app.require(app, len(wanted))
        new = [
            _waiting_mail(inviter, group, email, language, now)
            for email in self._charged(app, wanted, refused)
        ]
        if new:
            self._rows.add_mails(app, new, guests)
            self.runner.wake()
        return len(new), refused

    def _uninvited(
        self,
        app: str,
        group: int,
        emails: Sequence[str],
        now: int,
        refused: list[RefusedAddress],
    ) -> dict[str, str]:
        """The addresses that are not invited to a group yet.

        The result maps the stored form of an address to its form in the
        request. All other addresses are added to ``refused``.
        """
        wanted: dict[str, str] = {}
        for given in emails:
            try:
                wanted.setdefault(checked("email", given), given)
            except BadField:
                refused.append(RefusedAddress(given, "no_address"))
        for email in self._rows.invited_among(app, group, wanted, now):
            refused.append(RefusedAddress(wanted.pop(email), "invited"))
        return wanted

    def _charged(
        self, app: str, wanted: Mapping[str, str], refused: list[RefusedAddress]
    ) -> list[str]:
        """Count a mail to each address, and return the addresses below their
        limit.

        All other addresses are added to ``refused``, as they were given.
        """
        emails = []
        for email, given in wanted.items():
            try:
                self._people.resets.mails.charge(app, email)
            except TooManyRequests:
                refused.append(RefusedAddress(given, "often"))
            else:
                emails.append(email)
        return emails

    def page(
        self, app: str, inviter: str, group: int, after: str, limit: int
    ) -> list[InvitationMail]:
        """The invitations by e-mail of a user to a group, page by page.

        A back end gets the invitations of all users. Raises UnknownGroup.
        """
        # This raises if the user is not in the group.
        self._groups.role(app, group, inviter)
        return self._rows.mails(app, inviter, group, after, limit)

    def counts(self, app: str, inviter: str, group: int) -> MailCounts:
        """The numbers of the invitations that :meth:`page` lists, by state."""
        return self._rows.count_mails(app, inviter, group)

    def forget(self, now: int) -> None:
        """Delete addresses that are too old at this Unix second."""
        self._rows.forget_mails(now - STORED_SECONDS)

    # --- in the background ----------------------------------------------------

    def _require_may_invite(
        self, app: str, inviter: str, group: int, guests: bool
    ) -> None:
        """Raise UnknownGroup, NotAllowed, UnknownAccount or ServiceRefused if
        nobody may be invited by this user."""
        self._require_inviter(app, inviter)
        if guests:
            self._people.guests.require_guests(app)
        self._groups.check_inviting(app, group, inviter)

    def _work(self, app: str, code: str) -> None:
        """Send the mail of one invitation, if the invitation is still valid.

        The runner calls this, while this node has reserved the mail. Raises
        ConnectionError if the mail server does not take the mail for now. The
        runner then sends the mail again later.
        """
        self._wait_for_server(app, code)
        mail = self._rows.mail(app, code)
        invitation = self._rows.get(app, code)
        if mail is None or invitation is None or _has_expired(invitation):
            self.runner.end(app, code)
            return
        content = self._content_for(app, mail, invitation)
        if content is not None:
            self._send(app, mail, content)

    def _content_for(
        self, app: str, mail: InvitationMail, invitation: InvitationShown
    ) -> Mail | None:
        """The mail of a valid invitation.

        Returns None, and ends the mail, if its inviter may not invite any more,
        or was deleted.
        """
        try:
            group = self._groups.check_inviting(app, id_of(mail.group), mail.user)
        except (UnknownGroup, NotAllowed):
            self.runner.end(app, mail.code)
            return None
        name = self._inviter_name(app, mail.user)
        if name is None:
            self._rows.remove(app, mail.code)
            return None
        return _content(
            mail,
            link=f"{self._page()}#invite={mail.code}",
            site=self._site,
            name=name,
            group=group.name,
            guests=invitation.guests,
        )

    def _inviter_name(self, app: str, inviter: str) -> str | None:
        """The nickname of an inviter; ``""`` for a back end.

        None if the user has lost the right to invite by e-mail meanwhile.
        """
        if not inviter:
            return ""
        maker = self._people.accounts.get(app, inviter)
        if maker is None or not maker.role:
            return None
        return maker.nickname

    def _send(self, app: str, mail: InvitationMail, content: Mail) -> None:
        """Send a mail, and store the answer of the mail server.

        Raises ConnectionError if the server may take the mail later.
        """
        code = mail.code
        # Sending may take half a minute, so the mail is reserved again.
        self.runner.proceed(app, code)
        try:
            send(self._smtp, content)
        except NotSent as error:
            self._note_refusal(app, mail, error)
            return
        if mail.reason:
            self._rows.note_mail(app, code, reason="")
        self.runner.end(app, code, state=MAIL_STATES.index("sent"))

    def _note_refusal(self, app: str, mail: InvitationMail, error: NotSent) -> None:
        """Store why a mail was not sent, and give it up if it will never be.

        Raises ConnectionError if the server may take the mail later.
        """
        reason = _reason(error)
        self._rows.note_mail(app, mail.code, reason)
        if not error.is_of_mail:
            # The mail server would not take another mail now, either.
            self._away_until = monotonic() + _AWAY_SECONDS
        may_be_taken = error.is_temporary or not error.is_of_mail
        if may_be_taken and time() < mail.created + _TRY_SECONDS:
            raise ConnectionError(reason) from error
        self.runner.end(app, mail.code, state=MAIL_STATES.index("refused"))

    def _wait_for_server(self, app: str, code: str) -> None:
        """Wait until mails are tried again after the mail server has not
        answered.

        This mail stays reserved for the node meanwhile.
        """
        seconds = self._away_until - monotonic()
        while seconds > 0:
            self.runner.proceed(app, code)
            gevent.sleep(min(seconds, _PROCEED_SECONDS))
            seconds = self._away_until - monotonic()


def _has_expired(invitation: InvitationShown) -> bool:
    """Whether an invitation has ended. The end 0 means that the invitation does
    not end."""
    return 0 < invitation.expires_at <= time()


def _waiting_mail(
    inviter: str, group: int, email: str, language: str, now: int
) -> InvitationMail:
    """A new invitation of an address, whose mail is not sent yet."""
    return InvitationMail(
        code=token_urlsafe(CODE_BYTES),
        group=str(group),
        user=inviter,
        email=email,
        state="waiting",
        reason="",
        created=now,
        expires_at=now + SECONDS,
        language=language or "en",
    )


def _reason(error: NotSent) -> str:
    """The answer of the mail server that has refused a mail, in one line.

    An example: ``550 No such user here``.
    """
    code, words = _code_and_words(error)
    if isinstance(words, bytes):
        words = words.decode("utf-8", "replace")
    line = " ".join(f"{code} {words}".split())
    return "".join(filter(str.isprintable, line))[:_REASON_CHARACTERS]


def _code_and_words(error: NotSent) -> tuple[object, object]:
    """The status code and the text in the answer of a mail server.

    The code is ``""`` if the server has not answered. The text then describes
    the error.
    """
    # The errors have types of smtplib, which is loaded with the first mail.
    cause: Any = error.__cause__
    # An error about receivers has an answer for each receiver. A mail has only
    # one receiver.
    recipients = getattr(cause, "recipients", None)
    if recipients is not None:
        code, words = next(iter(recipients.values()))
        return code, words
    code = getattr(cause, "smtp_code", "")
    return code, getattr(cause, "smtp_error", str(cause))


def _chat_name(core: Core) -> str:
    """The name of the chat on the pages of this server; ``""`` without a name."""
    if "pages" not in core.features:
        return ""
    # Imported here, because a node may be without them.
    from imserver.pages.declared import ChatSettings

    return settings_of(core.config, ChatSettings).name


@cache
def _words(language: str) -> dict[str, str]:
    """The words of mails in a language, with blanks such as ``{group}``.

    They are English if there is no file of the language.
    """
    file = asset_path("templates/people") / f"mail.{language}.json"
    if file.exists():
        return msgspec.json.decode(file.read_bytes(), type=dict[str, str])
    return _words("en")


def _content(
    mail: InvitationMail, link: str, site: str, name: str, group: str, guests: bool
) -> Mail:
    """The mail with an invitation.

    ``link`` is the address that it leads to. ``name`` is the name of the
    inviter; ``""`` means that a back end invites. ``group`` is the name of the
    group. With ``guests``, the receiver may come in without an account.
    """
    blanks = {"site": site, "name": name or site, "group": group}
    texts = _filled_words(mail.language, blanks, guests)
    html = _rendered("html", texts, mail.language, link)
    text = _rendered("txt", texts, mail.language, link)
    return Mail(mail.email, texts["subject"], text, html, id=_id_of_mail(mail))


def _filled_words(
    language: str, blanks: Mapping[str, str], guests: bool
) -> dict[str, str]:
    """The words of a mail in a language, with the names in their blanks.

    The word ``how`` says how a receiver comes in, as a guest or as a member.
    """
    texts = {key: text.format(**blanks) for key, text in _words(language).items()}
    if guests:
        texts["how"] = texts["how_guests"]
    else:
        texts["how"] = texts["how_members"]
    return texts


def _rendered(kind: str, texts: Mapping[str, str], language: str, link: str) -> str:
    """A mail as plain text (``txt``) or as HTML, from its template."""
    template = page_template(f"people/invitation.{kind}")
    return template.render(words=texts, language=language, link=link)


def _id_of_mail(mail: InvitationMail) -> str:
    """The id of a mail, the same whenever the mail is sent.

    A node that ends, or gets no answer, does not know whether the mail server
    has taken the mail. So a mail may be sent twice. The id is a hash, because
    the code itself lets people in.
    """
    return blake2b(mail.code.encode(), digest_size=_ID_BYTES).hexdigest()
