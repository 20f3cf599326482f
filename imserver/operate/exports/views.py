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
    """The blueprint of the two paths from which archives are downloaded.

    One is for the operators of an app, the other for users and their own data.
    """
    blueprint = Blueprint("exports", __name__)
    for name, route in {"file": FILE, "own_file": OWN_FILE}.items():
        view = _view(core, api, route, is_own=route is OWN_FILE)
        blueprint.add_url_rule(
            route.path, endpoint=name, view_func=view, methods=["GET"]
        )
    return (blueprint,)


def _view(core: Core, api: Api, route: Route, is_own: bool) -> Callable[[], Response]:
    """Make the function that answers a request with the bytes of an archive.

    ``is_own`` means that the route sends only archives of the user who asks.
    """
    endpoint = api.bind(route)
    exports = core.service(Exports)

    def view() -> Response:
        """Answer with the archive, or with a problem.

        A download may take long. It ends early if the caller loses the right to
        the archive meanwhile, for example because a key is revoked.
        """
        http_request = as_request()
        try:
            call = api.call_of(endpoint, http_request)
            owner = None
            if is_own:
                owner = call.user
            job = exports.show(call.app, call.input.id, owner)
            # A proof is the credential of the request, which is checked again
            # during the download.
            proof = core.authority.proof(call.principal, http_request.headers)
            size, pieces = exports.open(job)
        except RequestRefused as refused:
            return to_response(refused.answer)
        except ApiProblem as problem:
            return _problem_response(http_request, problem)
        except ServiceRefused as error:
            return _problem_response(http_request, ApiProblem(error.problem))

        still_holds = partial(core.still_holds, call.app, call.principal.user, proof)
        headers = _headers_of(job, size, http_request.id)
        return _streamed(while_it_holds(pieces, still_holds), headers)

    return view


def _headers_of(job: Job, size: int, request_id: str) -> dict[str, str]:
    """The headers of the answer with an archive; ``size`` is in bytes."""
    return {
        **dict(HttpResponse.content_headers("application/zip")),
        "Content-Length": str(size),
        "Content-Disposition": f'attachment; filename="{_name_of(job)}.zip"',
        "Cache-Control": "no-store",
        "X-Request-Id": request_id,
    }


def _problem_response(http_request: HttpRequest, problem: ApiProblem) -> Response:
    """The answer that describes a problem as JSON."""
    refusal = PROBLEM.refuse(problem.problem, http_request, problem.detail)
    answer = to_response(refusal)
    answer.headers.extend(problem.headers)
    return answer


def _name_of(job: Job) -> str:
    """The name of the file for a browser, without its ending.

    For the user ``ann`` of the app ``shop`` it is ``shop-ann``. A header takes
    only ASCII. So it is ``export`` if app or user have other letters.
    """
    letters = [
        letter if letter.isalnum() else "-" for letter in f"{job.app}-{job.user}"
    ]
    name = "".join(letters).strip("-")
    if name.isascii():
        return name
    return "export"


def _streamed(pieces: Iterator[bytes], headers: dict[str, str]) -> Response:
    """A response with these pieces, and with these headers alone."""
    response = Response(pieces, HTTPStatus.OK, direct_passthrough=True)
    response.headers.clear()
    response.headers.extend(headers)
    return response


def while_it_holds(
    pieces: Iterator[bytes], still_holds: Callable[[], bool], seconds: float = 1.0
) -> Iterator[bytes]:
    """Yield the pieces of a download while its receiver still has the right to
    read the download.

    ``still_holds()`` returns whether the receiver still has this right. If the
    right has ended, the download ends without an error. The function is called
    only every ``seconds``, because each call may cost a query.
    """
    checked_at = monotonic()
    for piece in pieces:
        if monotonic() - checked_at >= seconds:
            if not still_holds():
                return
            checked_at = monotonic()
        yield piece
