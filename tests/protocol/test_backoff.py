"""The pauses between attempts."""

from xbd.protocol.backoff import Backoff


def test_pauses_double_up_to_the_longest() -> None:
    """They begin with the first again when something has worked."""
    backoff = Backoff(1, 5)
    assert [backoff.next_s() for _ in range(5)] == [1, 2, 4, 5, 5]
    backoff.reset()
    assert backoff.next_s() == 1
