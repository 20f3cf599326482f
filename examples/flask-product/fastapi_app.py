"""The same for FastAPI: the two routes that imserver and its clients need."""

from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

import im

app = FastAPI()


def current_user(x_user: Annotated[str, Header()]) -> str:
    """Return who is logged in: here, a header that a proxy sets. Replace it by your own login."""
    return x_user


@app.get("/session")
def client_options(
    request: Request, user: Annotated[str, Depends(current_user)]
) -> dict:
    return im.client_options(user, request.url.hostname)


@app.post("/im/events")
async def events(request: Request) -> dict:
    if not im.is_from_imserver(
        request.headers.get("Imserver-Signature", ""), await request.body()
    ):
        raise HTTPException(403)
    for event in (await request.json())["events"]:
        await run_in_threadpool(im.handle, event)
    return {}
