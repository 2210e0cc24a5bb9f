"""What front and back end write to each other: every message comes back, and garbage is refused."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xbd.abi import MAX_GRANTS, MAX_MESSAGE_WORDS
from xbd.guest.io.messages import (
    MAX_DISK_SECTORS,
    REQUEST_PAGES,
    Connect,
    Connected,
    Message,
    Request,
    Requests,
    Response,
    Responses,
    Status,
    decode,
    digest_words,
    encode,
    fit_requests,
)

WORDS = st.integers(0, (1 << 64) - 1)
NUMBERS = st.integers(0, (1 << 32) - 1)
REFS = st.lists(st.integers(0, MAX_GRANTS - 1), min_size=1, max_size=REQUEST_PAGES).map(
    lambda refs: np.array(refs, dtype=np.int64)
)
REQUESTS = st.builds(Request, NUMBERS, st.booleans(), WORDS, REFS, WORDS)
RESPONSES = st.builds(Response, NUMBERS, st.sampled_from(Status))
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(Connect, st.integers(1, MAX_DISK_SECTORS)),
    st.builds(Connected, NUMBERS, st.booleans()),
    st.builds(Requests, NUMBERS, st.lists(REQUESTS, min_size=1, max_size=26).map(tuple)),
    st.builds(Responses, NUMBERS, st.lists(RESPONSES, min_size=1, max_size=400).map(tuple)),
)


def plain(message: Message | None) -> Any:  # noqa: ANN401 - nested tuples, to be compared
    """Spell a message out in values that compare."""
    if isinstance(message, Requests):
        return message.connection, [
            (each.number, each.write, each.sector, each.refs.tolist(), each.digest) for each in message.requests
        ]
    return message


@given(MESSAGES)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    """Decoding is the inverse of encoding, and no message is too long to be sent."""
    words = encode(message)
    assert words.dtype == np.uint64
    assert words.size <= MAX_MESSAGE_WORDS
    assert plain(decode(words)) == plain(message)


@given(st.lists(WORDS | st.integers(0, 4), max_size=40), st.integers(0, 5), NUMBERS)
def test_garbage_is_refused_or_within_bounds(rest: list[int], kind: int, connection: int) -> None:
    """Whatever the words, the answer is None or a message whose numbers can be used."""
    for words in (rest, [connection << 32 | kind, *rest]):
        message = decode(np.array(words, dtype=np.uint64))
        if isinstance(message, Requests):
            assert message.requests
            for request in message.requests:
                assert 1 <= request.refs.size <= REQUEST_PAGES
                assert 0 <= int(request.refs.min()) <= int(request.refs.max()) < MAX_GRANTS
        elif isinstance(message, Connect):
            assert 1 <= message.sectors <= MAX_DISK_SECTORS
        if message is not None:
            assert encode(message).tolist() == words


@given(st.builds(Requests, NUMBERS, st.lists(REQUESTS, min_size=1, max_size=5).map(tuple)), st.data())
def test_a_message_cut_short_or_changed_is_never_an_exception(message: Requests, data: st.DataObject) -> None:
    """Each prefix of a message, and each message with one word changed, is a message or None."""
    words = encode(message)
    for end in range(words.size):
        shorter = decode(words[:end])
        assert shorter is None or len(shorter.requests) < len(message.requests)  # type: ignore[union-attr]  # requests
    at = data.draw(st.integers(0, words.size - 1))
    words[at] = data.draw(WORDS)
    assert plain(decode(words)) is None or encode(decode(words)).tolist() == words.tolist()  # type: ignore[arg-type]  # not None here


def test_a_ring_of_full_requests_is_two_messages() -> None:
    """26 requests of 32 pages fill a message; an odd number of references takes a half word more."""
    full = Request(1, write=True, sector=0, refs=np.arange(32, dtype=np.int64))
    odd = Request(1, write=False, sector=0, refs=np.arange(3, dtype=np.int64))
    assert fit_requests([full] * 32) == 26
    assert encode(Requests(1, (full,) * 26)).size == 1 + 26 * 19
    assert encode(Requests(1, (odd,))).size == 1 + 3 + 2
    assert fit_requests([full] * 5) == 5


def test_a_digest_knows_each_word_and_its_place() -> None:
    """Two requests digested together say what they say alone; swapped or changed words say something else."""
    words = np.arange(10, 20, dtype=np.uint64)
    both = digest_words(words, np.array([4, 6]))
    assert both.tolist() == [
        int(digest_words(words[:4], np.array([4]))[0]),
        int(digest_words(words[4:], np.array([6]))[0]),
    ]
    assert digest_words(words[[1, 0, 2, 3]], np.array([4]))[0] != both[0]
    assert digest_words(words[:4] + np.uint64(1), np.array([4]))[0] != both[0]


@pytest.mark.parametrize(
    "words",
    [
        [],
        [0],
        [1, 0],
        [1, MAX_DISK_SECTORS + 1],
        [1 << 32 | 1, 8],
        [2, 2],
        [3],
        [3, 0, 0, 0],
        [3, 33, 0, 0, *[0] * 17],
        [3, 1 << 9 | 1, 0, 0, 0],
        [3, 1, 0, 0, MAX_GRANTS],
        [3, 1, 0, 0, 1 << 32],
        [4],
        [4, 3],
        [5, 1],
    ],
)
def test_what_is_no_message_is_refused(words: list[int]) -> None:
    """Unknown kinds, counts and references out of range, words missing, bits set that mean nothing."""
    assert decode(np.array(words, dtype=np.uint64)) is None
