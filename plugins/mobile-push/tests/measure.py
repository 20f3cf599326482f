"""Measures the senders against the fakes: `python plugins/mobile-push/tests/measure.py 2000 16`, a minute.

Each service gets so many notifications by so many greenlets. Prints notifications a second, CPU time of the
sender for one, and the CPU time of the longest turn of its loop.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[3]))

from conftest import EMAIL, HMS_APP, HMS_SECRET, KEY_ID, PROJECT, TEAM_ID, TOPIC, make_keys
from fakes import Apns, Fcm, Hms
from test_mobile_many import run

if __name__ == "__main__":
    count, width = map(int, sys.argv[1:3])
    with tempfile.TemporaryDirectory() as folder:
        keys = make_keys(Path(folder))
        site = SimpleNamespace(
            fcm=Fcm(keys.google, EMAIL, PROJECT),
            apns=Apns(keys.apple_public, KEY_ID, TEAM_ID, TOPIC),
            hms=Hms(HMS_APP, HMS_SECRET),
        )
        for name in ("fcm", "apns", "hms"):
            result = run(site, keys, {name: (count, width)}, seconds=60)
            assert result["outcomes"][name] == {"taken": count}
            assert getattr(site, name).twice() == []
            print(
                f"{name}: {count / result['seconds']:.0f}/s, {result['cpu'] / count * 1e6:.0f} µs CPU each, "
                f"longest turn {result['longest_ms']:.1f} ms"
            )
