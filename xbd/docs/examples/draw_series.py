"""Draw a series: what each domain holds and should hold, and the share of it in superpages. Needs `xbd[plots]`.

Run it so: `xbd replay guest.csv --series series.csv && python draw_series.py series.csv series.png`.
"""

import csv
import sys
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure

MIB_PAGES = 256


def main(series: Path, picture: Path) -> None:
    """Read the series, and write the picture."""
    domains: dict[str, list[dict[str, str]]] = defaultdict(list)
    with series.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["kind"] == "domain":
                domains[f"{row['name']} ({row['run']})"].append(row)
    figure = Figure(figsize=(9, 6), layout="constrained")
    memory, superpages = figure.subplots(2, sharex=True)
    for name, rows in domains.items():
        t_s = [float(row["t_s"]) for row in rows]
        (line,) = memory.plot(t_s, [int(row["held_pages"]) / MIB_PAGES for row in rows], label=name)
        targets = [int(row["target_pages"]) / MIB_PAGES for row in rows]
        memory.plot(t_s, targets, color=line.get_color(), linestyle="dotted")
        superpages.plot(t_s, [100 * float(row["superpage_coverage"] or "nan") for row in rows])
    memory.set_ylabel("held (dotted: target), MiB")
    memory.legend()
    superpages.set_ylabel("in superpages, %")
    superpages.set_ylim(0, 102)
    superpages.set_xlabel("seconds")
    figure.savefig(picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
