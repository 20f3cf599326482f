"""Steps of the tables of notifications."""

from typing import Final

STEPS: Final = {
    35: """
    # "name": of the caller's own. "kind" and "target" (JSON): whom it reaches. "content": JSON of what
    # is shown. "state": 0 users are being gone through, 1 all deliveries are queued, 2 done, 3
    # cancelled. "last_user": the last user whose deliveries are queued. "users": how many were gone
    # through. "queued", "taken", "gone" and "refused": numbers of deliveries. "created" and "ended":
    # Unix seconds.
    table notify_audience: id serial, app name500, name name64, kind name16, target blob, content blob,
        state small, last_user name255, users big, queued big, taken big, gone big, refused big,
        created big, ended big
      unique notify_audience_by_name: app name
      unique notify_audience_by_app: app id
      unique notify_audience_by_state: state id
    # "audience": the audience to which a delivery belongs; 0: none.
    columns notify_delivery: audience int=0
      index notify_delivery_by_audience: audience
    """
}
