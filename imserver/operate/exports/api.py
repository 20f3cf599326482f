"""``/api/v1/exports``: archives of users and apps."""

from collections.abc import Mapping
from typing import Annotated, Final, Literal

from msgspec import Struct

from imserver.operate.exports.declared import HTTP_EXPORT_UNFINISHED
from imserver.operate.exports.exports import Exports, UnknownExport
from imserver.operate.exports.rows import DONE, FAILED, UNDER_WAY, Job, Subject
from imserver.plugin.errors import Problems, ServiceRefused
from imserver.plugin.http import Acting, Call, Header, Resource, about, view
from imserver.plugin.identity import Needs, Tenants
from imserver.plugin.storage import Store

ExportId = Annotated[str, about("The id of the export.", max_length=32)]
_App = Annotated[str, about("The app.", min_length=1, max_length=255)]
_STATES: Final[Mapping[int, Literal["under way", "done", "failed"]]] = {
    UNDER_WAY: "under way",
    DONE: "done",
    FAILED: "failed",
}


class ExportQuery(Struct, forbid_unknown_fields=True):
    """The export that you want."""

    app: _App
    id: ExportId


class ExportsQuery(Struct, forbid_unknown_fields=True):
    """Whose exports are wanted."""

    app: _App
    user: Annotated[
        str,
        about(
            "Only exports of this user; empty: all exports of the app.", max_length=255
        ),
    ] = ""


class OwnExport(Acting):
    """The user whose data you want."""


class OwnExportQuery(Acting, kw_only=True):
    """Which export of the user is wanted."""

    id: Annotated[
        str, about("The id of the export; empty: the newest one.", max_length=32)
    ] = ""


class ExportShown(Struct):
    """An export, and its progress."""

    id: ExportId
    app: _App
    user: Annotated[str, about("The user; empty: the whole app.")]
    state: Annotated[
        Literal["none", "under way", "done", "failed"],
        about(
            "`done`: you can fetch the archive. `failed`: the log of the server has "
            "the reason. `none`: the user has no export."
        ),
    ]
    created: Annotated[int, about("When the export was started, in Unix seconds.")]
    ends: Annotated[int, about("When the archive is deleted, in Unix seconds.")]
    entries: Annotated[int, about("The number of files in the archive so far.")]
    records: Annotated[int, about("The number of rows in it so far.")]
    bytes: Annotated[
        int,
        about(
            "The size of the archive in bytes. Until the export is done: the size of "
            "its contents so far."
        ),
    ]


class ExportsAnswer(Struct):
    """Exports, the newest first."""

    exports: list[ExportShown]


_FILE: Final = (
    UnknownExport.problem,
    HTTP_EXPORT_UNFINISHED,
    Problems.TOO_MANY_REQUESTS,
)
_HEADERS: Final = (
    Header(
        "Content-Disposition", "The file name for the download.", example="attachment"
    ),
)


class ExportsApi(Struct, frozen=True):
    """The services that the routes use."""

    exports: Exports
    store: Store
    tenants: Tenants


routes = Resource(
    "exports",
    lambda core, _: ExportsApi(core.service(Exports), core.store, core.tenants),
    hot=False,
    chapter="All data of a user or an app as one archive.",
)


@routes.post(
    "/exports/start",
    Needs.ADMIN,
    schema=("ExportRequest", "The app or user whose data you want."),
    problems=(Problems.UNKNOWN_ACCOUNT,),
    status=202,
)
def start(
    api: ExportsApi,
    call: Call,
    app: _App,
    user: Annotated[str, about("The user; empty: the whole app.", max_length=255)] = "",
) -> ExportShown:
    """Start an export of a user or of an app.

    The server makes the archive in the background. If an export of the same
    user or app is already running, the answer shows that export. A user without
    stored data is refused.
    """
    if user and not any(True for _ in api.store.rows_of_user(call.app, user)):
        raise ServiceRefused("nothing is stored of this user", Problems.UNKNOWN_ACCOUNT)
    if user:
        subject = Subject(call.app, user)
    else:
        settings, left_out = api.tenants.described(call.app)
        subject = Subject(call.app, user="", settings=settings, left_out=left_out)
    return shown(api.exports.start(subject))


@routes.get("/exports/show", Needs.ADMIN, problems=(UnknownExport.problem,))
def show(api: ExportsApi, call: Call, request: ExportQuery) -> ExportShown:
    """Show the progress of an export."""
    return shown(api.exports.show(call.app, request.id))


@routes.get("/exports", Needs.ADMIN)
def list_exports(api: ExportsApi, call: Call, request: ExportsQuery) -> ExportsAnswer:
    """List the exports of an app or a user that are running or stored, the
    newest first, at most 100."""
    jobs = api.exports.of(call.app, request.user or None)
    return ExportsAnswer([shown(job) for job in jobs])


@routes.post("/exports/delete", Needs.ADMIN, problems=(UnknownExport.problem,))
def delete(api: ExportsApi, call: Call, request: ExportQuery) -> ExportShown:
    """Delete an archive at once, or stop making it."""
    exports = api.exports
    job = exports.show(call.app, request.id)
    # The audit log names this user as the target of the act.
    call.user = job.user
    exports.delete(job)
    return shown(job)


@routes.post(
    "/exports/start/self",
    Needs.ADMIN_OR_USER,
    status=202,
)
def start_own(api: ExportsApi, call: Call, request: OwnExport) -> ExportShown:
    """Start an export of the user's own data.

    The archive has the user's profile, readable messages, files, memberships,
    settings and devices. It also has the acts by and about the user, and a page
    to read everything without a network.
    """
    return shown(api.exports.start(Subject(call.app, call.user)))


@routes.get(
    "/exports/show/self", Needs.ADMIN_OR_USER, problems=(UnknownExport.problem,)
)
def show_own(api: ExportsApi, call: Call, request: OwnExportQuery) -> ExportShown:
    """Show the progress of the export of the user's own data."""
    try:
        return shown(api.exports.show(call.app, request.id, call.user))
    except UnknownExport:
        # Without an id, a user without an export gets the state ``none``.
        if request.id:
            raise
        return ExportShown(
            id="",
            app=call.app,
            user=call.user,
            state="none",
            created=0,
            ends=0,
            entries=0,
            records=0,
            bytes=0,
        )


FILE: Final = routes.elsewhere(
    "GET",
    "/exports/file",
    Needs.ADMIN,
    """Fetch the archive of an export.

    The archive is a zip file. It is deleted after `exports.retention_seconds`.
    """,
    query=ExportQuery,
    content_type="application/zip",
    answer_headers=_HEADERS,
    problems=_FILE,
)
OWN_FILE: Final = routes.elsewhere(
    "GET",
    "/exports/file/self",
    Needs.ADMIN_OR_USER,
    """Fetch the archive of the user's own data.""",
    query=OwnExportQuery,
    user="required",
    content_type="application/zip",
    answer_headers=_HEADERS,
    problems=_FILE,
)


def shown(job: Job) -> ExportShown:
    """An export as the routes show it."""
    return view(ExportShown, job, state=_STATES[job.state], bytes=job.size)
