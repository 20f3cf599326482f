"""Deletion of apps, at once or after some time."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import sleep, time
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Struct, UnsetType

from imserver.operate.erasure.declared import HTTP_NOT_WAITING, NotWaiting
from imserver.operate.erasure.waiting import (
    AppName,
    DueErasures,
    PlannedErasure,
    ReasonText,
    Seconds,
)
from imserver.plugin.errors import Problems, StorageUnavailable, Unavailable
from imserver.plugin.http import ApiProblem, Call, Resource, about, view
from imserver.plugin.identity import Needs, Tenants
from imserver.plugin.services import Core
from imserver.plugin.storage import Erasure, Store

log = logging.getLogger(__name__)


_LOOKS: Final = 1.5
"""How many times ``storage.look_seconds`` pass until every node has seen the
change."""


class DeletionGoesOn(StorageUnavailable, problem=Problems.STORAGE_UNAVAILABLE):
    """The deletion of an app has begun, and could not end.

    Something does not answer; nodes continue the deletion. ``contents`` are the
    numbers of the app's contents.
    """

    contents: Any = None


class AppDeletion:
    """Deletes apps, at once or after some time, in a node or a command.

    Methods switch greenlets, and raise StorageUnavailable.
    """

    def __init__(self, store: Store, tenants: Tenants, look_seconds: float) -> None:
        self._store = store
        self._tenants = tenants
        self._look_seconds = look_seconds
        self.waiting = DueErasures(store)

    def contents(self, app: str) -> Any:
        """The numbers of the contents that would be deleted with an app.

        Raises ServiceRefused if it may not be deleted.
        """
        # A deletion may have been interrupted. Then the app is deleted, still
        # has rows, and may be deleted again.
        is_deleted = self._tenants.find(app) is None and self._store.is_deleted(app)
        if not is_deleted:
            self._tenants.check_deletable(app)
        return self._store.contents(app)

    def delete(self, app: str, erasures: Sequence[Erasure], reason: str = "") -> Any:
        """Delete an app: its keys, sessions and rows, and the data of features.

        Returns how much the app had of each kind of content.

        Nodes close the sessions of the app within ``storage.look_seconds``.
        Then the last reviews of messages end. Rows are deleted only after both,
        because no node writes rows of the app any more. If an app with this
        name was created again meanwhile, its data stay. If the deletion fails
        after the first step, a node continues it within minutes, like a planned
        deletion; you may also call it again.

        Raises the errors of :meth:`contents`, and DeletionGoesOn.
        """
        contents = self.contents(app)
        tenant = self._tenants.get(app)
        # False if an earlier call has done this step and was interrupted.
        is_first = self._store.delete_app(app)
        if is_first:
            self.waiting.add(app, user="", seconds=0, reason=reason, is_begun=True)
        try:
            self._delete_contents(app, tenant, erasures, is_first)
        except Unavailable as error:
            goes_on = DeletionGoesOn(str(error))
            goes_on.contents = contents
            raise goes_on from error
        return contents

    def _delete_contents(
        self, app: str, tenant: Any, erasures: Sequence[Erasure], has_sessions: bool
    ) -> None:
        """Delete the rows of an app and the data of features.

        With ``has_sessions``, wait first until no node writes for the app:
        until all nodes have closed the sessions, and the last message was
        reviewed.
        """
        if has_sessions:
            sleep(self._look_seconds * _LOOKS + _review_seconds(tenant))
        # A feature deletes the rows of its own tables.
        done_tables: set[str] = set()
        for erasure in erasures:
            erasure.app(app)
            done_tables |= erasure.tables
        self._store.delete_rows(app, done_tables)
        # This row is deleted last, because it makes nodes continue a deletion.
        self.waiting.drop(app)

    def plan(self, app: str, seconds: int, reason: str) -> PlannedErasure:
        """Plan the deletion of an app to begin after some seconds.

        If a deletion of the app is planned already, the earlier plan stays. The
        app is locked, so that no new data appear. Raises NotWaiting if somebody
        has deleted the app, or taken the deletion back, meanwhile.
        """
        self.waiting.add(app, user="", seconds=seconds, reason=reason)
        if not self._tenants.lock(app):
            self.waiting.drop(app)
            raise NotWaiting
        return self.waiting.added(app)

    def begin(self, app: str, erasures: Sequence[Erasure]) -> bool:
        """Delete an app whose time has come, and return True.

        Returns False if another app has the name now, which is not deleted.
        Raises the errors of :meth:`delete`.
        """
        # The app may be new, or unlocked, since this node has read the apps.
        self._store.refresh()
        tenant = self._tenants.get(app)
        # :meth:`plan` has locked the app. An app that was created anew
        # meanwhile is not locked.
        is_same = tenant is None or tenant.locked
        if is_same:
            self.delete(app, erasures)
        else:
            self.waiting.drop(app)
        return is_same

    def undo(self, app: str) -> None:
        """Take back a deletion that has not begun.

        Raises NotWaiting if no deletion is planned, or if the deletion has
        begun.
        """
        tenant = self._tenants.find(app)
        may_unlock = self.waiting.take_back(app)
        if not may_unlock and tenant is not None and tenant.locked:
            # Without a row, the app is locked because an earlier undo was
            # interrupted after it had deleted the row.
            may_unlock = self.waiting.get(app) is None
        if not (may_unlock and self._tenants.unlock(app)):
            raise NotWaiting


def _review_seconds(tenant: Any) -> float:
    """How long the back end of an app may take to review a message."""
    if tenant is None or tenant.webhook is None or not tenant.webhook.review_url:
        return 0.0
    seconds: float = tenant.webhook.review_seconds
    return seconds


class AppDeleted(Struct):
    """The numbers of rows and files that were or will be deleted with an
    app."""

    app: str
    keys: Annotated[
        int,
        about(
            "The number of API keys that were limited to the app. These keys are "
            "revoked."
        ),
    ]
    accounts: int
    messages: Annotated[
        int, about("The number of stored messages and other entries of the log.")
    ]
    uploads: int
    groups: int
    ends: Annotated[
        int | UnsetType,
        about(
            "When the deletion begins, in Unix seconds. Until then, you can cancel it. "
            "If the time is over, the deletion has begun, but a service does not "
            "answer. The server continues by itself within minutes."
        ),
    ] = UNSET


class ErasureShown(Struct):
    """The progress of an erasure."""

    state: Annotated[
        Literal["none", "waiting", "under way", "ended"],
        about(
            "`waiting`: the erasure begins at `ends`, and you can cancel it until "
            "then. `ended`: the user was erased."
        ),
    ]
    ends: Annotated[
        int, about("When the erasure begins or ended, in Unix seconds; 0: unknown.")
    ]
    stored: Annotated[
        bool | UnsetType,
        about(
            "Whether the database has rows of the user. Only if no erasure is "
            "scheduled."
        ),
    ] = UNSET

    @staticmethod
    def of(due: PlannedErasure) -> ErasureShown:
        """The progress of an erasure that will begin, or has begun."""
        if due.ends > time():
            return ErasureShown("waiting", due.ends)
        return ErasureShown("under way", due.ends)


class DeletionApi(Struct, frozen=True):
    """The services that the routes use."""

    deletion: AppDeletion
    core: Core


routes = Resource(
    "apps",
    service=lambda core, _: DeletionApi(core.service(AppDeletion), core),
    hot=False,
)


@routes.post(
    "/apps/delete",
    Needs.ADMIN,
    schema=("AppDelete", "The app to delete. It was created at run time."),
    reach="all",
    problems=(
        Problems.UNKNOWN_APP,
        Problems.APP_CONFIGURED,
        Problems.MEDIA_UNAVAILABLE,
    ),
)
def delete_app(
    api: DeletionApi,
    call: Call,
    app: AppName,
    confirm: Annotated[str, about("The name of the app, for confirmation.")],
    seconds: Seconds = 0,
    reason: ReasonText = "",
) -> AppDeleted:
    """Delete an app that was created at run time, with its accounts, groups,
    messages and files.

    All nodes close the sessions of the app with 4506 within
    `storage.look_seconds`. Then the server deletes rows and files, so the
    answer takes a few seconds. If a service does not answer, the answer has
    `ends`, and the server continues by itself. An app with aliases cannot be
    deleted.

    With `seconds`, the app is locked at once and deleted after that time. The
    sessions end, and logins and requests are refused as if the app did not
    exist. Until the deletion begins, `apps/delete/undo` cancels it.
    """
    if confirm != app:
        raise ApiProblem.invalid("`confirm`: repeat the name of the app")
    tenant = api.core.tenants.find(app)
    if tenant is not None and tenant.configured:
        raise ApiProblem(Problems.APP_CONFIGURED)
    if seconds:
        contents = api.deletion.contents(app)
        planned = api.deletion.plan(app, seconds, reason)
        return view(AppDeleted, contents, app=app, ends=planned.ends)
    return _delete_now(api, app, reason)


def _delete_now(api: DeletionApi, app: str, reason: str) -> AppDeleted:
    """Delete an app at once, as far as the services answer."""
    try:
        contents = api.deletion.delete(app, api.core.erasures, reason)
    except DeletionGoesOn as error:
        log.warning("the deletion of the app %s goes on later: %s", app, error)
        return view(AppDeleted, error.contents, app=app, ends=int(time()))
    return view(AppDeleted, contents, app=app, ends=UNSET)


@routes.post(
    "/apps/delete/undo",
    Needs.ADMIN,
    schema=("AppDeleteUndo", "The app whose deletion you want to cancel."),
    reach="all",
    problems=(HTTP_NOT_WAITING,),
)
def undo(api: DeletionApi, call: Call, app: AppName) -> ErasureShown:
    """Cancel a deletion that has not begun.

    The app works as before. Its users can log in again.
    """
    api.deletion.undo(app)
    return ErasureShown("none", ends=0)


@routes.get("/apps/delete/show", Needs.ADMIN, reach="all")
def show(api: DeletionApi, call: Call, app: AppName) -> ErasureShown:
    """Show the progress of the deletion of an app."""
    due = api.deletion.waiting.get(app)
    if due is not None:
        return ErasureShown.of(due)
    if api.core.store.is_deleted(app):
        return ErasureShown("ended", ends=0)
    return ErasureShown("none", ends=0)
