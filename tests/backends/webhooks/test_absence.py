"""A node without webhooks sends nothing that the settings of an app in the database let a back end review."""

import json
from pathlib import Path

from tests.messenger.node import Accounts
from tests.rows import ROUTES
from tests.security.node_harness import ALL, SECRET, Harness, config

JWT = [{"algorithm": "HS256", "key": SECRET}]
WEBHOOK = {"secret": "x" * 20, "review_url": "http://127.0.0.1:9/"}


def test_without_the_feature_messages_of_apps_with_a_reviewer_are_refused(tmp_path: Path) -> None:
    first = Harness(config(tmp_path))
    for app, webhook in (("reviewed", WEBHOOK), ("free", {})):
        given = {"app": app, "settings": {"jwt": JWT, "webhook": webhook}}
        assert first.call("POST", "/api/v1/apps/create", given, ALL.key)[0] == 201
    first.close()
    node = Harness(config(tmp_path, features=("messages",)))
    node.node.core.authority.accounts = Accounts()
    push = next(row for row in ROUTES if row.path == "/user/sendMessage")
    for app, status, code in (("reviewed", 503, 1008), ("free", 200, 200)):
        message = {"app": app, "to": "2", "text": "rude"}
        assert node.call("POST", "/api/v1/messages/send", message, f"eyJ.{app}.1")[0] == status
        form = {"appID": app, "userID": "2", "message": "rude"}
        answer = node.ask(push, {"authorization": f"Bearer {node.session(app)}"}, body=form)
        assert json.loads(answer.body)["code"] == code, answer.body
    node.close()
