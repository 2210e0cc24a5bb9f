"""How long targets take is counted, by the host's own clock, and served as a histogram."""

import numpy as np

from xbd.abi.commands import Decrease
from xbd.cli.render import host_details
from xbd.control.controller import Controller
from xbd.control.waits import BOUNDS_S, TargetWaits
from xbd.daemons.metric_families import families
from xbd.machine import Machine


def test_each_wait_is_in_one_class() -> None:
    """A wait of just a bound is within it; the longest class has no bound; a wait whose begin is unknown is not counted."""
    waits = TargetWaits()
    for domid, wait_s in enumerate((0.0, 0.1, 0.2, 301.0)):
        waits.begin(domid, 0.0)
        waits.end(domid, wait_s)
    waits.end(7, 1.0)
    told = waits.told()

    assert told["target_waits"] == dict.fromkeys([*(f"{one:g}" for one in BOUNDS_S), "inf"], 0) | {
        "0.01": 1,
        "0.1": 1,
        "0.5": 1,
        "inf": 1,
    }
    assert told["target_waits_s"] == sum((0.1, 0.2, 301.0))


def test_a_target_that_is_set_anew_begins_a_new_wait() -> None:
    """Only what was reached in the end is counted, from when it was set."""
    waits = TargetWaits()
    waits.begin(1, 0.0)
    waits.begin(1, 50.0)
    waits.end(1, 52.0)
    waits.end(1, 60.0)

    assert waits.told()["target_waits_s"] == 2.0


def test_a_host_counts_from_the_call_to_the_page_that_reaches_the_target() -> None:
    """0.3 s from `set_target` to the guest's last `decrease`: `host` says so, and so do `xbd info` and the metrics page."""
    now_s = 5.0
    host = Controller(Machine(8), clock=lambda: now_s)
    domid = host.call("create", {"name": "web", "max_pages": 2048, "target_pages": 2048})["domid"]
    host.machine.reboot(1)
    host.call("set_target", {"domid": domid, "pages": 1024})
    for first in (0, 512):
        now_s += 0.15
        host.execute(host.record(1), Decrease(np.array([first]), order=9))
    told = host.call("host", {})
    samples = {
        (sample.name, sample.labels.get("le")): sample.value
        for family in families(told, [])
        for sample in family.samples
    }

    assert host.machine.domain(1).tot_pages == 1024
    assert next(line for line in host_details(told) if "targets_reached" in line).endswith(
        ": 1, after 0.30 s on average"
    )
    assert [samples["xbd_target_wait_seconds_bucket", le] for le in ("0.01", "0.1", "0.5", "300.0", "+Inf")] == [
        0,
        0,
        1,
        1,
        1,
    ]
    assert samples["xbd_target_wait_seconds_count", None] == 1
    assert round(samples["xbd_target_wait_seconds_sum", None], 6) == 0.3
