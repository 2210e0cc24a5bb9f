"""The benchmark of the store's socket: its figures, and what they are measured against."""

from pathlib import Path

import pytest

from xbd.lab.bench.shell.xenstore import measure_xenstore


@pytest.mark.slow
async def test_reads_and_writes_are_measured_beside_an_echo(tmp_path: Path) -> None:
    """Rates, and ratios to a bare echo of the same bytes."""
    figures = await measure_xenstore(tmp_path, rounds=2)
    assert {name: figure.unit for name, figure in figures.items()} == {
        "xenstore_reads": "1/s",
        "xenstore_writes": "1/s",
        "xenstore_echo": "1/s",
        "xenstore_reads_vs_echo": "ratio",
        "xenstore_writes_vs_echo": "ratio",
    }
    assert all(figure.value > 0 for figure in figures.values())
