"""Tables as data: their columns, the rows of an app and of a user, the
statements that erase them, and the columns that an export reads.

Importing this loads no database library.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from msgspec import Struct, json
from msgspec.structs import force_setattr

from imserver.gateway.errors import StorageUnavailable

if TYPE_CHECKING:
    from alembic.operations import Operations

Migration = str | Callable[["Operations"], object]
"""A step that makes tables of a feature: a text with their columns, or a
function of the operations of Alembic. A step only adds, and may run twice,
because MySQL keeps what was done before a crash. A function imports its modules
itself, so most starts do not load them."""

OF_APP: Final = "app = %s"
"""The condition for rows that name the app in the column ``app``."""
OF_LOGS: Final = "log IN (SELECT number FROM log WHERE app = %s)"
"""The condition for rows that have the number of a message log of the app in
the column ``log``."""


class IndexText(Struct, frozen=True):
    """An index that a step adds to a table with rows."""

    name: str
    table: str
    columns: tuple[str, ...]
    is_unique: bool


class Reason(Struct, frozen=True):
    """The reason, in words, in place of an absent value."""

    why: str


_EMPTY: Final = {"small": 0, "int": 0, "big": 0}
"""Kind of a column → the value of a column that an import leaves empty. Columns
of other kinds get an empty text."""
_USER_AS: Final[dict[str, str]] = {"big": "account", "byt": "bytes"}
"""First letters of the kind of a column with a user → the value of ``user_as``.
Other kinds have the user as text."""


def _exported_in(columns: list[list[str]]) -> tuple[str, ...]:
    """Return the names of the columns that an export reads."""
    return tuple(name for name, _, *words in columns if "out" in words)


def _empty_in(columns: list[list[str]]) -> tuple[tuple[str, Any], ...]:
    """Return the columns that an import leaves empty, each with its value."""
    return tuple(
        (name, _EMPTY.get(kind, ""))
        for name, kind, *words in columns
        if "empty" in words
    )


def _is_of_key(kind: str) -> bool:
    """Whether a column of this kind belongs to the primary key."""
    return kind.endswith("*") or "serial" in kind


class Table(Struct, frozen=True, kw_only=True):
    """A table: its columns, the rows of an app and of a user, the statements
    that erase them, and the columns that an export reads.

    Most tables give only ``types``, the list of their columns. The fields
    ``key``, ``columns``, ``of_user``, ``user_as``, ``erase_user`` and
    ``imported`` follow from it if they are not given. Example:
    ``"app name500*, member name255* out user, until big out"``.

    A column in ``types`` has a name, a kind with a size, a sign and words. The
    signs are ``*``: it belongs to the primary key; ``?``: it may be NULL;
    ``=0``: its default is 0. The words are:

    - ``out``: an export reads the column.
    - ``user``: the column names a user. The first such column names the user to
      whom the row belongs. Further columns name other users.
    - ``words``: the column has words that a user has written.
    - ``empty``: an import leaves the column empty, or 0.

    These are the other fields. A :class:`Reason` in place of a value says why
    there is no value.

    - ``key``: the columns of the primary key.
    - ``of_app``: the condition for the rows of an app, which are deleted with
      the app. It has one ``%s``, for the app.
    - ``of_user``: a second condition, for the rows of a user. It has one
      ``%s``, for the user. A reason is also the value of ``erase_user`` and
      ``columns`` if they are empty.
    - ``user_as``: the form of the user in that condition. ``account`` is the id
      of an account, so users who are no accounts have no rows.
    - ``erase_user``: the statements that erase the rows of a user, with the app
      and the user as values. The first statement deletes from this table. The
      statements may run again. A statement may be an UPDATE that removes the
      user from the rows.
    - ``erase_app``: statements that run first when an app is deleted, with the
      app as value, for rows that stay.
    - ``columns``: the columns that an export of an app or a user reads. They
      have no secrets: no password, token, code or key.
    - ``scan``: no index leads to the rows of a user, so all rows of the app are
      searched.
    - ``stays``: the condition for the rows of an app that an export reads
      although they stay when the app is deleted. ``of_app`` is then the reason
      why they stay.
    - ``imported``: the columns that are in no archive, besides the app and the
      log, each with the value that an import writes. A reason means that an
      import makes no rows.
    - ``parents``: the columns with ids of rows of :data:`PARENT`; the id 0
      means no parent. An import accepts only ids that are in its archive.
    - ``ranges``: columns with their least and greatest number, if numbers may
      be below 0 or have a limit of their own. In other columns an import
      accepts numbers from 0 on.

    The steps name the columns and their kinds, too. The steps cannot be derived
    from the fields, nor the fields from the steps. A released step describes
    for ever how a table was at that time, and later steps add to it. No node
    loads the language of the steps. A test compares both on a database of each
    engine.
    """

    name: str
    key: tuple[str, ...] = ()
    of_app: str | Reason = OF_APP
    of_user: str | Reason = ""
    user_as: Literal["text", "bytes", "account"] = "text"
    erase_user: tuple[str, ...] | Reason = ()
    erase_app: tuple[str, ...] = ()
    columns: tuple[str, ...] | Reason = ()
    scan: bool = False
    stays: str = ""
    imported: tuple[tuple[str, str | int], ...] | Reason = ()
    parents: tuple[str, ...] = ()
    ranges: tuple[tuple[str, int, int], ...] = ()
    types: str = ""

    OF_ACCOUNTS: ClassVar[str] = "account IN (SELECT id FROM account WHERE app = %s)"
    """A condition for ``of_app``: the rows whose column ``account`` has the id
    of an account of the app."""

    PARENT: ClassVar[str] = "account"
    """The table whose ids are in the columns of ``parents``."""

    def __post_init__(self) -> None:
        """Fill the fields that follow from ``types``. Raises ValueError if a
        field is missing."""
        if self.types:
            self._take_types([words.split() for words in self.types.split(",")])
        if not (self.key and self.of_user and self.columns):
            raise ValueError(
                f"table {self.name}: no key, no word about users, or nothing to export"
            )

    def _take_types(self, columns: list[list[str]]) -> None:
        """Fill the fields that are not given from the columns in ``types``.

        A column is a list of its name, its kind, and its words, such as
        ``["member", "name255*", "out", "user"]``.
        """
        of_user = self._take_user(
            [(name, kind) for name, kind, *words in columns if "user" in words]
        )
        # If the table has no rows of users, the reason also says why nothing
        # is erased or exported.
        reason = of_user if isinstance(of_user, Reason) else ()
        erase = f"DELETE FROM {self.name} WHERE {self.of_app} AND {of_user}"
        self._fill(
            key=tuple(name for name, kind, *_ in columns if _is_of_key(kind)),
            of_user=of_user,
            erase_user=reason or (erase,),
            columns=_exported_in(columns) or reason,
            imported=_empty_in(columns),
        )

    def _fill(self, **values: object) -> None:
        """Set each of these fields that was not given."""
        for field, value in values.items():
            if not getattr(self, field):
                force_setattr(self, field, value)

    def _take_user(self, users: list[tuple[str, str]]) -> str | Reason:
        """Return the condition for the rows of a user, and set ``user_as``.

        ``users`` has the columns with users, each with its kind. The first
        column names the user to whom the row belongs. A table without such
        columns has no rows of users, so its result follows from the condition
        for the rows of an app.
        """
        if not self.of_user and users:
            column, kind = users[0]
            force_setattr(self, "user_as", _USER_AS.get(kind[:3], "text"))
            return f"{column} = %s"
        return self.of_user or self.of_app

    @property
    def exported(self) -> str:
        """The condition for the rows that an export of an app reads; ``""`` if
        the export reads no rows."""
        if isinstance(self.columns, Reason):
            return ""
        if isinstance(self.of_app, Reason):
            return self.stays
        return self.of_app


CONDITIONS_OF_APP: Final = (OF_APP, OF_LOGS, Table.OF_ACCOUNTS)
"""The allowed values of ``of_app`` in tables with rows of users."""


def tables_in(feature: str, record: bytes) -> tuple[Table, ...]:
    """Return the tables that a row of ``feature_schema`` describes.

    Raises StorageUnavailable if somebody has damaged the row.
    """
    try:
        return json.decode(record, type=tuple[Table, ...])
    except (ValueError, RecursionError) as error:
        words = (
            f"the row of {feature!a} in the table feature_schema is damaged: {error}"
        )
        raise StorageUnavailable(words) from None


class FeatureTables(Struct, frozen=True):
    """The tables of a feature of another distribution, in the order of their
    deletion, and the steps that make them, numbered from 1."""

    feature: str
    tables: tuple[Table, ...]
    migrations: tuple[Migration, ...]


CORE_TABLES: Final = (
    Table(
        name="ban",
        types="""app name500*, member bytes255* out user, until big out, version big empty,
            reason name1000? out""",
    ),
    Table(
        name="app",
        types="name name500*, settings text, version big, created big",
        of_app=Reason(
            "all nodes learn from it that the app was deleted; its settings have secrets"
        ),
    ),
    Table(
        name="api_key",
        types="""id string16*, digest string64, scopes text, apps text, note text, version big, created big,
            revoked big, expires big?, used big?, used_from name64?, maker big?""",
        of_app=Reason(
            "the deletion of an app takes it out of keys, which belong to operators"
        ),
    ),
    Table(
        name="erasure",
        types="digest name64*, ended big*, app name500, name name64, member name255, leased big",
        of_app=Reason("a restored database needs it, and it has no name of a user"),
    ),
    Table(
        name="directory",
        types="one int*, id string32, version big, created big",
        of_app=Reason("it names the database"),
    ),
    Table(
        name="feature_schema",
        types="feature name255*, step int, tables blob",
        of_app=Reason("it names tables of features"),
    ),
    Table(
        name="owner_step",
        types="owner name255*, step int",
        of_app=Reason("it names the last migrations"),
    ),
    Table(
        name="alembic_version",
        types="version_num string32*",
        of_app=Reason("it names the last migration"),
    ),
)
"""The tables of the core, in the order of their deletion."""


class StoreTables(Struct, frozen=True):
    """The tables of a store.

    ``of_server()`` returns the tables of the core and of all features of this
    server, in the order of their deletion. Features that the node does not have
    are included. ``of_others`` has the tables of features of other
    distributions that the node has.
    """

    of_server: Callable[[], Sequence[Table]] = lambda: CORE_TABLES
    of_others: tuple[FeatureTables, ...] = ()


OF_CORE: Final = StoreTables()
