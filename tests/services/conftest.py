"""What the tests of the services share."""

from collections.abc import Iterator

import pytest

from tests.services.peer import OPENED


@pytest.fixture(autouse=True)
def close_peers() -> Iterator[None]:
    """Close what a test has opened."""
    yield
    while OPENED:
        OPENED.pop().close()
