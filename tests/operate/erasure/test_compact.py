"""``imserver erase --compact`` says in the audit log that it was done."""

from pathlib import Path

from tests.support import run_cli


def test_a_compacted_database_has_the_act_in_its_audit_log(tmp_path: Path) -> None:
    done = run_cli("erase", "--compact", "--data-dir", str(tmp_path))
    assert done.returncode == 0, done.stderr
    listed = run_cli("audit", "list", "--name", "database.compact", "--data-dir", str(tmp_path))
    assert "command:" in listed.stdout, listed
