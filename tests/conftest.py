"""Settings that every test shares, and how the tests are shared out among processes.

`pytest` runs the suite in as many processes as there are processors, at most four; a run of files that are named
needs none of that, and is begun at once. Tests of one module stay together, for the sake of what they share.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from tests.peer import OPENED

# The same examples on every run, on a machine of any speed.
settings.register_profile(
    "xbd", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("xbd")

MOST_WORKERS: Final = 4


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Say how many processes `-n auto`, as in `pyproject.toml`, means; 0: no other than this one."""
    is_whole_suite = config.args_source is not pytest.Config.ArgsSource.ARGS
    return min(os.cpu_count() or 1, MOST_WORKERS) if is_whole_suite else 0


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Iterable[pytest.Item]) -> None:
    """Say which tests go to the same process."""
    for item in items:
        module = item.getparent(pytest.Module)
        assert module is not None, f"{item.nodeid} is in no module"
        item.add_marker(pytest.mark.xdist_group(module.nodeid))


@pytest.fixture(autouse=True)
def close_peers() -> Iterator[None]:
    """Close what a test has opened."""
    yield
    while OPENED:
        OPENED.pop().close()
