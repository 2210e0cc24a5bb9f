"""The benchmark of hypercalls: what it tells."""

from pathlib import Path

import pytest

from tests.catching import skip_where_none_are_caught
from xbd.lab.bench.shell.xen import measure_xen


@pytest.mark.slow
async def test_hypercalls_are_measured_against_calls_of_the_client(tmp_path: Path) -> None:
    """Each figure is there, in its unit, and the ratio says to what."""
    skip_where_none_are_caught()
    figures = await measure_xen(tmp_path, repeats=1)
    units = {"xen_hypercall": "us", "xen_hypercall_to_direct": "ratio", "xen_start": "ms"}
    assert {name: figure.unit for name, figure in figures.items()} == units
    assert figures["xen_hypercall_to_direct"].ratio_to == "a call of the client"
    assert all(figure.value > 0 for figure in figures.values())
