"""docs/scale.md shows what tools/scale.py computes."""

from dataclasses import replace

from tools import scale


def test_the_page_shows_what_the_script_computes() -> None:
    """``python -m tools.scale --write`` brings it up to date."""
    text = scale.PAGE.read_text(encoding="utf-8")
    assert scale.filled(text) == text


def test_a_plan_is_the_smallest_cluster_in_whole_racks() -> None:
    load = scale.Load()
    site = scale.Site()
    plan = scale.planned(load, site)
    step = site.cores * site.racks
    smaller = replace(plan, nodes=plan.nodes - step)
    assert plan.nodes % step == 0
    assert sum(plan.cores().values()) <= plan.nodes * site.use
    assert sum(smaller.cores().values()) > smaller.nodes * site.use
