"""A grid that runs in a fraction of a second, for the tests of experiments."""

from pathlib import Path

from xbd.daemons.trace_files import read_trace
from xbd.lab.experiments.grid import Grid
from xbd.lab.experiments.plan import parse_grid
from xbd.lab.experiments.results import Results, as_csv, series_rows, summary_rows

TINY = """
[experiment]
name = "tiny"

[[workload]]
name = "churn"
profile = { profile = "steady", used = 0.3, churn = 0.05 }
guests = 3
memory = "32m"
rounds = 4
round_s = 4
quiet_s = 4
sample_s = 2
verify = true

[[workload]]
name = "trace"
traces = ["a.csv", "b.csv"]
sample_s = 10

[[budget]]
name = "small"
compaction_batches = 1

[[grid]]
strategies = ["stock", "full-4k-targets"]
overcommit = 1.3
seeds = [1, 2]

[[grid]]
strategies = ["relocate", "full-4k-targets"]
workloads = ["churn"]
slack = [0.0, 0.1]
overcommit = 1.3
budgets = ["own", "small"]
seeds = [1]
"""
# 2 strategies, 2 workloads, 2 seeds; then 2 x 2 x 2, of which one is in the first grid, too.
TINY_CELLS = 15


def trace_text(phase: int) -> str:
    """Make the text of a trace of a 32 MiB guest (and a few pages) whose demand swings."""
    total = 16 * 512 + 77
    lines = ["t_s,total_pages,free_pages,page_cache_pages"]
    for sample in range(20):
        level = (sample * 7 + phase) % 23 / 23
        lines.append(f"{sample * 2.0},{total},{total - 1700 - int(level * 4500)},200")
    return "\n".join(lines)


def write_tiny(directory: Path, text: str = TINY) -> Path:
    """Write a grid file and the traces that it names to *directory*; returns its path."""
    for name, phase in (("a.csv", 0), ("b.csv", 11)):
        (directory / name).write_text(trace_text(phase), encoding="utf-8")
    path = directory / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


def tiny_grid(directory: Path, text: str = TINY) -> Grid:
    """Read the grid."""
    return parse_grid(text, write_tiny(directory, text), read_trace)


def tables(results: Results) -> tuple[str, str]:
    """Format results as the two CSV files."""
    return as_csv(summary_rows(results)), as_csv(series_rows(results))
