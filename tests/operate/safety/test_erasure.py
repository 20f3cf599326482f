"""What erased moderators have written, on every engine."""

from pathlib import Path

from imserver.gateway.config.settings import StorageSettings
from tests.rows import sections
from tests.security.node_harness import ALL, Harness, config
from tests.security.test_bots import person
from tests.users import User


def test_reports_do_not_name_an_erased_moderator(tmp_path: Path, url: str) -> None:
    of_features = sections(accounts={"registration": True, "registrations_per_address": 0})
    node = Harness(config(tmp_path, storage=StorageSettings(url, seconds=60), of_features=of_features))
    keyed = User(node, ALL.key, app="201")
    ann, bob, eve = (person(node, name) for name in ("ann", "bob", "eve"))
    for user in (ann, bob):
        keyed.post("accounts/role", user=user.user, role="moderator")
        bob.post("reports/send", person=eve.user, reason="spam")
        (report,) = user.get("reports")["reports"]
        user.post("reports/close", id=report["id"], outcome="dismissed", note="seen")
    node.node.core.erase_user("201", ann.user)
    rows = bob.get("reports", state="closed")["reports"]
    closed = sorted((row["closed_by"], row["note"]) for row in rows)
    assert closed == [("", ""), (f"staff:201/{bob.user}", "seen")]
    node.close()
