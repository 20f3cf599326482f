"""``imserver export`` and ``imserver import``, as people call them."""

from pathlib import Path
from zipfile import ZipFile

from tests.support import run_cli


def test_an_app_is_exported_to_a_new_file_and_imported(tmp_path: Path) -> None:
    def run(*words: str) -> tuple[int, str, str]:
        done = run_cli(*words, "--data-dir", str(tmp_path / "data"))
        return done.returncode, done.stdout, done.stderr

    archive = tmp_path / "shop.zip"
    assert run("app", "create", "shop")[0] == 0
    status, output, _ = run("export", "shop", str(archive))
    assert (status, output) == (0, f"written to {archive}: {archive.stat().st_size} bytes\n")
    assert "manifest.json" in ZipFile(archive).namelist()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["data", "shop.zip"]
    assert run("export", "shop", str(archive)) == (1, "", f"imserver: {archive} exists already\n")
    status, output, _ = run("import", "--app", "copy", str(archive))
    assert (status, output.split(";")[0]) == (0, "app copy imported")
    acts = run("audit", "list")[1]
    assert "exports.start" in acts
    assert "apps.import" in acts
