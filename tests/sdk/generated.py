"""What is generated of the npm packages: their types, and the bundle for
mini-programs.

``python -m tests.sdk.generated`` (``make sdk``) writes it into sdk/.
"""

from pathlib import Path

from tests.sdk.node import PACKAGES, run
from tests.support import ROOT
from tests.tools import require

SDK = ROOT / "sdk"
MINIPROGRAM = Path("js/miniprogram_dist/index.js")


def generate(folder: Path) -> list[Path]:
    """Write the generated files below ``folder`` as they stand below sdk/;
    returns their names."""
    for package in PACKAGES:
        types = folder / package / "types"
        run([require("tsc"), "-p", str(SDK / package), "--outDir", str(types)])
    # Old phones have no private fields, and mini-programs no ES modules.
    flags = (
        "--bundle",
        "--minify",
        "--format=cjs",
        "--target=es2017",
        "--log-level=warning",
    )
    run(
        [
            require("esbuild"),
            str(SDK / "js" / "wechat.js"),
            *flags,
            f"--outfile={folder / MINIPROGRAM}",
        ]
    )
    types = (
        path
        for package in PACKAGES
        for path in (folder / package / "types").glob("*.d.ts")
    )
    return sorted([*(path.relative_to(folder) for path in types), MINIPROGRAM])


if __name__ == "__main__":
    generate(SDK)
