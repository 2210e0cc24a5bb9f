"""Settings of drivers and workloads, and how bad ones are refused."""

import numpy as np
import pytest

from xbd.guest import DRIVERS, DriverSettings, GuestSettings, override_driver
from xbd.guest.workload import PROFILES, Steady, make_workload


def test_driver_settings_can_be_overridden_one_by_one() -> None:
    """What is not named stays as it was."""
    options = {"queues": ["4k"], "retry_max": 0, "migration": False, "slots_max_pages": 700}
    driver = override_driver(DRIVERS["full"], options)
    assert (driver.queues, driver.retry_max, driver.migration) == (("4k",), 0, False)
    assert (driver.delay_max_s, driver.slots_max_pages) == (32, 700)


def test_floor_and_bound_of_slots_are_shares_of_the_guest_unless_they_are_set() -> None:
    """1/32 and 1/8 of the gfns; 0 means none, and a floor is never more than there is."""
    assert (DriverSettings().floor(8000), DriverSettings().slots_limit(8000)) == (250, 1000)
    assert DriverSettings(floor_pages=0, slots_max_pages=0).slots_limit(8000) == 0
    assert DriverSettings(floor_pages=0).floor(8000) == 0
    assert DriverSettings(floor_pages=9000, slots_max_pages=9000).floor(8000) == 8000


def test_the_kernel_takes_as_much_as_linux() -> None:
    """13,838 pages of 512 MiB, a struct page more for each page beyond; of a miniature a fiftieth, and never more than half."""
    settings = GuestSettings()
    assert settings.kernel_footprint(1 << 17) == 13_838
    assert settings.kernel_footprint(1 << 20) == 11_790 + (1 << 14)
    assert settings.kernel_footprint(5000) == 100
    assert GuestSettings(kernel_pages=1000).kernel_footprint(1000) == 500


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_asks_for_what_a_guest_has(name: str) -> None:
    """By default no profile wants more than the guest's memory, in any tick."""
    workload = make_workload(name)
    rng = np.random.default_rng(0)
    for tick in range(60):
        goals = workload.goals(100_000, tick, rng)
        assert goals.anon_pages + goals.cache_pages + goals.kernel_pages <= 100_000
        assert min(goals.anon_pages, goals.cache_pages, goals.kernel_pages, goals.churn_pages) >= 0


def test_a_workload_is_made_by_name_with_options() -> None:
    """Options override a profile's numbers."""
    assert make_workload("steady", {"used": 0.2, "churn": 0}) == Steady(used=0.2, churn=0)
