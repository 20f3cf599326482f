"""Generate the classes of the protobuf frames from the schemas in
``sdk/protobuf``: ``make proto``.

The server's classes for ``chat.proto`` are made from a variant of the schema
that has the same wire format. Text is bytes there, so that one field that is
not UTF-8 does not make the whole frame unreadable. Limits have 64 bits, so that
large ones are not truncated. Enums are numbers, as in the wire of the dialect.
Those for ``centrifuge.proto`` are made from the schema itself.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support import ROOT

SCHEMA = ROOT / "sdk" / "protobuf" / "chat.proto"
CENTRIFUGE = ROOT / "sdk" / "protobuf" / "centrifuge.proto"
PACKAGES = {
    SCHEMA: Path("imserver", "dialects", "protobuf"),
    CENTRIFUGE: Path("imserver", "dialects", "centrifuge"),
}
TYPES = {"string": "bytes", "uint32": "uint64"}
"""Type in the schema → type in the server's variant; enums are ``int32``."""
_ENUM = re.compile(r"^enum (\w+) \{.*?^\}\n+", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"^(  (?:optional |repeated )?)(\w+)(?= \w+ = \d+;)", re.MULTILINE)


def server_schema() -> str:
    text = SCHEMA.read_text(encoding="utf-8")
    types = TYPES | dict.fromkeys(_ENUM.findall(text), "int32")
    return _FIELD.sub(
        lambda found: found[1] + types.get(found[2], found[2]), _ENUM.sub("", text)
    )


def generate(folder: Path) -> list[Path]:
    """Write the modules and their types below a folder. Returns their paths,
    relative to it."""
    schemas = {
        SCHEMA: server_schema(),
        CENTRIFUGE: CENTRIFUGE.read_text(encoding="utf-8"),
    }
    with tempfile.TemporaryDirectory() as sources:
        copies = [Path(sources) / PACKAGES[path] / path.name for path in schemas]
        for copy, text in zip(copies, schemas.values(), strict=True):
            copy.parent.mkdir(parents=True)
            copy.write_text(text, encoding="utf-8")
        compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{sources}"]
        outputs = [f"--python_out={folder}", f"--pyi_out={folder}"]
        subprocess.run([*compiler, *outputs, *map(str, copies)], check=True)
    return [
        PACKAGES[path] / f"{path.stem}_pb2.{suffix}"
        for path in schemas
        for suffix in ("py", "pyi")
    ]


if __name__ == "__main__":
    generate(ROOT)
