"""A policy: to each domain what it uses and a part of that; what is beyond is taken away slowly.

Run it so: `python spare_policy.py`; or let autoballoon take it, with its directory in PYTHONPATH: policy = "spare_policy:Spare".
"""

from dataclasses import dataclass
from typing import Annotated

from click import echo

import xbd.testing
from xbd.policy import SetTarget, Snapshot
from xbd.settings import number
from xbd.units import format_pages

TRIED_FOR_S = 300.0


@dataclass(frozen=True)
class Spare:
    """Keeps a part of what a guest uses free in it, and takes the rest away a tenth at a time."""

    part: Annotated[float, number("the part of what it uses that stays free", 0, 1)] = 0.5

    def step(self, state: object, snapshot: Snapshot, now: float) -> tuple[object, list[SetTarget]]:
        """Set a target for each domain that reports what it uses; neither the state nor the time is needed."""
        del now
        targets = []
        for domain in snapshot.domains:
            if domain.guest.used_pages is not None and domain.moves:
                wanted = int(domain.guest.used_pages * (1 + self.part))
                slowly = domain.tot_pages - domain.tot_pages // 10
                targets.append(SetTarget(domain.domid, max(wanted, slowly), f"it uses {domain.guest.used_pages} pages"))
        return state, targets


if __name__ == "__main__":
    with xbd.testing.host("2g") as host:
        guests = {name: host.add(name, "512m", workload=name) for name in ("idle", "steady")}
        host.govern(Spare())
        host.advance(host.now + TRIED_FOR_S)
        for name, domid in guests.items():
            echo(f"{name}: {format_pages(host.machine.domain_info(domid).tot_pages)} of 512 MiB")
