"""``python -m bench`` is ``imserver bench``."""

from bench.cli import bench

bench(prog_name="imserver bench")
