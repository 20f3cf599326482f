"""The views of archives, which are sent in pieces."""

from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from time import monotonic

from flask import Blueprint, Response

from imserver.operate.exports.api import FILE, OWN_FILE
from imserver.operate.exports.exports import Exports
from imserver.operate.exports.rows import Job
from imserver.plugin.errors import ServiceRefused
from imserver.plugin.http import (
    PROBLEM,
    Api,
    ApiProblem,
    HttpRequest,
    HttpResponse,
    RequestRefused,
    Route,
)
from imserver.plugin.services import Core
from imserver.plugin.views import as_request, to_response


def create_export_view(core: Core, api: Api) -> tuple[Blueprint]:
    """The blueprint of the paths of archives."""
    blueprint = Blueprint("exports", __name__)
    routes = (("file", FILE, False), ("own_file", OWN_FILE, True))
    for name, route, is_own in routes:
        blueprint.add_url_rule(
            route.path,
            endpoint=name,
            view_func=_view(core, api, route, is_own),
            methods=["GET"],
        )
    return (blueprint,)


def _view(core: Core, api: Api, route: Route, is_own: bool) -> Callable[[], Response]:
    """Make the function that answers a request with the bytes of an archive.
    ``is_own``: the route sends only archives of the user who asks."""
    endpoint = api.bind(route)
    exports = core.service(Exports)

    def view() -> Response:
        """Answer with the archive, as long as the caller has the right to it.
        Answer with a problem if the caller has no right to it from the
        beginning, or if there is no archive."""
        http_request = as_request()
        try:
            call = api.call_of(endpoint, http_request)
            owner = None
            if is_own:
                owner = call.user
            job = exports.show(call.app, call.input.id, owner)
            proof = core.authority.proof(call.principal, http_request.headers)
            size, pieces = exports.open(job)
        except RequestRefused as refused:
            return to_response(refused.answer)
        except ApiProblem as problem:
            return _problem_response(http_request, problem)
        except ServiceRefused as error:
            return _problem_response(http_request, ApiProblem(error.problem))

        still_holds = partial(core.still_holds, call.app, call.principal.user, proof)
        response = Response(
            while_it_holds(pieces, still_holds), HTTPStatus.OK, direct_passthrough=True
        )
        response.headers.clear()
        response.headers.extend(
            {
                **dict(HttpResponse.content_headers("application/zip")),
                "Content-Length": str(size),
                "Content-Disposition": f'attachment; filename="{_name_of(job)}.zip"',
                "Cache-Control": "no-store",
                "X-Request-Id": http_request.id,
            }
        )
        return response

    return view


def _problem_response(http_request: HttpRequest, problem: ApiProblem) -> Response:
    refusal = PROBLEM.refuse(problem.problem, http_request, problem.detail)
    answer = to_response(refusal)
    answer.headers.extend(problem.headers)
    return answer


def _name_of(job: Job) -> str:
    """The name of the file for a browser, without its ending. It is ``export``
    if app or user have letters that are not ASCII."""
    letters = [
        letter if letter.isalnum() else "-" for letter in f"{job.app}-{job.user}"
    ]
    name = "".join(letters).strip("-")
    if name.isascii():
        return name
    return "export"


def while_it_holds(
    pieces: Iterator[bytes], still_holds: Callable[[], bool], seconds: float = 1.0
) -> Iterator[bytes]:
    """Yield the pieces of a download while its receiver still has the right to
    it. ``still_holds`` tells that, and is asked every ``seconds``."""
    checked_at = monotonic()
    for piece in pieces:
        if monotonic() - checked_at >= seconds:
            if not still_holds():
                return
            checked_at = monotonic()
        yield piece
