"""The same for Django, in one file: the two views that imserver and its clients need."""

import json
import secrets
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponseForbidden, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

import im

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=secrets.token_hex(32),
)


def current_user(request):
    """Return who is logged in: here, a header that a proxy sets. Replace it by your own login."""
    return request.headers["X-User"]


@require_GET
def client_options(request):
    return JsonResponse(
        im.client_options(current_user(request), request.get_host().partition(":")[0])
    )


@csrf_exempt
@require_POST
def events(request):
    if not im.is_from_imserver(
        request.headers.get("Imserver-Signature", ""), request.body
    ):
        return HttpResponseForbidden()
    for event in json.loads(request.body)["events"]:
        im.handle(event)
    return JsonResponse({})


urlpatterns = [path("session", client_options), path("im/events", events)]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
