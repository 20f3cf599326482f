"""Invitations in the database. Each method is one transaction, may switch
greenlets, and raises StorageUnavailable."""

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Final, Literal

from msgspec import Struct

from imserver.plugin.http import about
from imserver.plugin.storage import (
    PooledStatements,
    Row,
    RowsOf,
    Statements,
    Store,
    marks_of,
    text_of,
)
from imserver.plugin.wire import id_of

_ENDED: Final = (
    "((expires_at > 0 AND expires_at <= %s) OR (max_uses > 0 AND uses >= max_uses))"
)
"""Condition: an invitation has expired or is used up. Value: the current Unix
second."""
_BY_LINK: Final = (
    "NOT EXISTS (SELECT 1 FROM invitation_mail m WHERE m.app = invitation.app "
    "AND m.id = invitation.code)"
)
"""Condition: an invitation was not made for an e-mail address. Invitations by
e-mail are listed and limited separately."""

Code = Annotated[
    str,
    about(
        "The code of the invitation. Put it into a link.", pattern="^[A-Za-z0-9_-]{22}$"
    ),
]
"""A random code. It is the only proof needed."""
OfGroup = Annotated[
    str,
    about(
        "The id of a group; empty: the invitation is to be a friend.",
        pattern="^([1-9][0-9]{0,18})?$",
    ),
]
Maker = Annotated[
    str, about("The user who made the invitation; empty: a back end made it.")
]
ForGuests = Annotated[
    bool,
    about("Whether people without an account may join, as guests with only a name."),
]
Ends = Annotated[int, about("When the invitation ends, in Unix seconds; 0: never.")]


class InvitationShown(Struct, frozen=True):
    """An invitation."""

    code: Code
    group: OfGroup
    user: Maker
    created: Annotated[int, about("The time of creation, in Unix seconds.")]
    expires_at: Ends
    uses: Annotated[int, about("How often the invitation was accepted.")]
    max_uses: Annotated[
        int, about("How often the invitation may be accepted; 0: no limit.")
    ]
    guests: ForGuests


MailState = Literal["waiting", "sent", "refused", "joined"]
MAIL_STATES: Final[tuple[MailState, ...]] = ("waiting", "sent", "refused", "joined")


class MailCounts(Struct, frozen=True):
    """The number of invitations by e-mail in each state."""

    waiting: int = 0
    sent: int = 0
    refused: int = 0
    joined: int = 0


class InvitationMail(Struct, frozen=True):
    """An invitation that is sent to an e-mail address."""

    code: Code
    group: OfGroup
    user: Maker
    email: Annotated[str, about("The address that is invited.")]
    state: Annotated[
        MailState,
        about(
            "`waiting`: the mail is not sent yet. `sent`: the mail server has accepted "
            "it. `refused`: the mail cannot be sent. `joined`: a person has joined by "
            "it."
        ),
    ]
    reason: Annotated[str, about("The last error of the mail server; empty: no error.")]
    created: Annotated[int, about("When the invitation was made, in Unix seconds.")]
    expires_at: Ends
    language: Annotated[str, about("The language of the mail.")]


_ROWS: Final = RowsOf(
    InvitationShown, "invitation", group="conversation", user="member"
)
_MAILS: Final = RowsOf(
    InvitationMail,
    "invitation_mail",
    code="id",
    group="conversation",
    user="member",
    state=MAIL_STATES,
)


class InvitationStore(Store.Rows):
    """The invitations in a store. Empty without a database."""

    @Store.writing
    def add(
        self,
        sql: PooledStatements,
        app: str,
        new: InvitationShown,
        most: int,
        account: int = 0,
    ) -> bool:
        """Store an invitation, after ended invitations of its maker are
        deleted.

        Returns False, and stores nothing, if the maker still has ``most``
        invitations. For a back end, only its invitations to this group count.
        Invitations by e-mail do not count.

        ``account`` is the account of the maker, whose row is locked during the
        count; 0 means that the maker has no account.
        """
        # So two requests at the same time cannot exceed the limit.
        if account:
            sql.query(
                f"SELECT id FROM account WHERE id = %s{sql.for_update}", (account,)
            )
        if _count_of_maker(sql, app, new) >= most:
            return False

        row = _row(app, new)
        statement = (
            f"INSERT INTO invitation ({_ROWS.columns}, app) VALUES {marks_of(len(row))}"
        )
        sql.execute(statement, row)
        return True

    @Store.writing
    def add_mails(
        self,
        sql: PooledStatements,
        app: str,
        new: Sequence[InvitationMail],
        guests: bool,
    ) -> None:
        """Store invitations to a group, each for one person, with their mails.

        The mails are sent later. With ``guests``, people without an account may
        come in by them.
        """
        links = [_row(app, _invitation_of(mail, guests)) for mail in new]
        sql.insert_new("invitation", f"{_ROWS.columns}, app", links)
        leased_until = 0  # no node sends them yet
        mails = [(*_MAILS.values(mail), app, leased_until) for mail in new]
        sql.insert_new("invitation_mail", f"{_MAILS.columns}, app, leased", mails)

    def get(self, app: str, code: str) -> InvitationShown | None:
        """The invitation with this code, ended or not; None if it does not
        exist."""
        return _ROWS.first(self._store.rows, "WHERE app = %s AND code = %s", app, code)

    def page(
        self,
        app: str,
        user: str | None,
        group: int | None,
        now: int,
        after: str,
        limit: int,
    ) -> list[InvitationShown]:
        """A page of the invitations that have not ended, after the code
        ``after``.

        They are ordered by code. Invitations by e-mail are left out. ``user``
        selects invitations of this maker, and ``group`` invitations to this
        group; None selects all.
        """
        condition = f"app = %s AND NOT {_ENDED} AND {_BY_LINK} AND code > %s"
        values: list[Any] = [app, now, after]
        if user is not None:
            condition += " AND member = %s"
            values.append(user)
        if group is not None:
            condition += " AND conversation = %s"
            values.append(group)
        clauses = f"WHERE {condition} ORDER BY code LIMIT %s"
        return _ROWS.find(self._store.rows, clauses, *values, limit)

    @Store.writing_or(None)
    def remove(self, sql: PooledStatements, app: str, code: str) -> None:
        """Delete an invitation.

        A mail that was not sent is not sent any more.
        """
        sql.execute("DELETE FROM invitation WHERE app = %s AND code = %s", (app, code))
        sql.execute(
            "DELETE FROM invitation_mail WHERE app = %s AND id = %s", (app, code)
        )

    # --- by e-mail ------------------------------------------------------------

    def mail(self, app: str, code: str) -> InvitationMail | None:
        """The invitation by e-mail with this code, in any state."""
        return _MAILS.first(self._store.rows, "WHERE app = %s AND id = %s", app, code)

    def mails(
        self, app: str, user: str, group: int, after: str, limit: int
    ) -> list[InvitationMail]:
        """A page of the invitations by e-mail to a group, after the code
        ``after``.

        They are ordered by code. ``user`` selects invitations of this maker;
        ``""`` selects all.
        """
        condition = "app = %s AND conversation = %s AND id > %s"
        values: list[Any] = [app, group, after]
        if user:
            condition += " AND member = %s"
            values.append(user)
        clauses = f"WHERE {condition} ORDER BY id LIMIT %s"
        return _MAILS.find(self._store.rows, clauses, *values, limit)

    @Store.reading_or(MailCounts())
    def count_mails(
        self, sql: PooledStatements, app: str, user: str, group: int
    ) -> MailCounts:
        """How many invitations :meth:`mails` lists on all pages, by state."""
        condition = "app = %s AND conversation = %s"
        values: list[Any] = [app, group]
        if user:
            condition += " AND member = %s"
            values.append(user)
        statement = (
            f"SELECT state, count(*) FROM invitation_mail WHERE {condition} "
            "GROUP BY state"
        )
        counts = {
            MAIL_STATES[state]: count for state, count in sql.query(statement, values)
        }
        return MailCounts(**counts)

    @Store.reading_or(frozenset())
    def invited_among(
        self,
        sql: PooledStatements,
        app: str,
        group: int,
        emails: Collection[str],
        now: int,
    ) -> Collection[str]:
        """The addresses among ``emails`` that have a valid, unused invitation
        to a group."""
        # 0 and 1 are the states "waiting" and "sent".
        statement = (
            "SELECT email FROM invitation_mail WHERE app = %s AND conversation = %s "
            "AND expires_at > %s AND state IN (0, 1) AND email IN {}"
        )
        rows = sql.query_in(statement, (app, group, now), list(emails), many=True)
        return {text_of(row[0]) for row in rows}

    @Store.writing
    def note_mail(
        self, sql: PooledStatements, app: str, code: str, reason: str
    ) -> None:
        """Store the last answer of the mail server to an invitation by e-mail.

        ``reason`` ``""`` means that nothing is wrong.
        """
        statement = "UPDATE invitation_mail SET reason = %s WHERE app = %s AND id = %s"
        sql.execute(statement, (reason, app, code))

    @Store.writing_or(None)
    def forget_mails(self, sql: PooledStatements, before: int) -> None:
        """Delete the invitations by e-mail of all apps from before this Unix
        second."""
        old = "SELECT id FROM invitation_mail WHERE created < %s"
        sql.execute(f"DELETE FROM invitation WHERE code IN ({old})", (before,))
        sql.execute("DELETE FROM invitation_mail WHERE created < %s", (before,))


def _invitation_of(mail: InvitationMail, guests: bool) -> InvitationShown:
    """The invitation for one person that a mail sends."""
    return InvitationShown(
        code=mail.code,
        group=mail.group,
        user=mail.user,
        created=mail.created,
        expires_at=mail.expires_at,
        uses=0,
        max_uses=1,
        guests=guests,
    )


def _count_of_maker(sql: PooledStatements, app: str, new: InvitationShown) -> int:
    """Delete ended invitations of a maker, and count the remaining invitations.

    ``new`` is an invitation of this maker. Invitations by e-mail do not count.
    """
    of_maker, values = _of_maker(app, new)
    sql.execute(
        f"DELETE FROM invitation WHERE {of_maker} AND {_ENDED}",
        (*values, new.created),
    )
    count = f"SELECT count(*) FROM invitation WHERE {of_maker} AND {_BY_LINK}"
    number: int = sql.query(count, values)[0][0]
    return number


def _of_maker(app: str, new: InvitationShown) -> tuple[str, Row]:
    """The condition of the invitations that count together with a new
    invitation, and its values."""
    condition = "app = %s AND member = %s"
    values: Row = (app, new.user)
    is_of_back_end = not new.user
    if is_of_back_end:
        return f"{condition} AND conversation = %s", (*values, id_of(new.group))
    return condition, values


def _row(app: str, new: InvitationShown) -> Row:
    """The values of a new invitation, in the order of :data:`_ROWS`, and the
    app.

    The group is stored as a number.
    """
    code, group, *others = _ROWS.values(new)
    return code, id_of(group), *others, app


def use(sql: Statements, app: str, code: str, now: int) -> bool:
    """Count one use of an invitation.

    If it was sent by e-mail, note that somebody has joined. Returns False, and
    changes nothing, if the invitation does not exist or has ended.
    """
    statement = (
        "UPDATE invitation SET uses = uses + 1 WHERE app = %s AND code = %s "
        f"AND NOT {_ENDED}"
    )
    if sql.execute(statement, (app, code, now)) != 1:
        return False
    joined = MAIL_STATES.index("joined")
    sql.execute(
        "UPDATE invitation_mail SET state = %s WHERE app = %s AND id = %s",
        (joined, app, code),
    )
    return True
