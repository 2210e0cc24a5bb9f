"""The inbox of a domain: a ring of words; each message is preceded by a header with its sender and length.

A sender may fill only its share of an inbox, so that it cannot keep others from sending. The empty
message that says that a domain is gone is never refused: there is at most one for each message that
the sender has in the ring, so half of the ring, kept for these, is always enough.
Source: Xen common/argo.c, ring_info and ringbuf_insert.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from xbd.abi import SENDER_WORDS, Frames, Words, message_header, split_header
from xbd.errors import DamagedState
from xbd.storage.image import Column

# Before the ring: where the oldest message begins, and how many words are in use.
_FIRST: Final = 0
_USED: Final = 1
_RING: Final = 8


def inbox_column_words(inbox_words: int) -> int:
    """Count the words of the column of an inbox that holds *inbox_words*."""
    return _RING + inbox_words


class Inbox:
    """The inbox of one domain, in a column of `inbox_column_words`. Raises DamagedState: they are no inbox.

    Attributes: *used_words*: words in use, headers included; *shares*: how many of them each sender has.
    """

    def __init__(self, column: Column[Any]) -> None:
        self._column = column
        self._ring: Words = column.words[_RING:].view(np.uint64)
        self._ring_words = self._ring.size
        self._first = int(column.words[_FIRST])
        self.used_words = int(column.words[_USED])
        if not (0 <= self._first < self._ring_words and 0 <= self.used_words <= self._ring_words):
            raise DamagedState(f"an inbox of {self.used_words} words from {self._first} on makes no sense")
        self.shares: dict[int, int] = {}
        # Senders whose newest message here is the empty one: they need no second.
        self._departed: set[int] = set()
        for sender, length in self._walk():
            self._count_in(sender, length)

    @property
    def next_row(self) -> int:
        """Tell the row of the column where the next message begins."""
        return _RING + (self._first + self.used_words) % self._ring_words

    def has_room(self, sender: int, length: int) -> bool:
        """Say whether *sender* may put a message of *length* words."""
        within_share = self.shares.get(sender, 0) + length + 1 <= SENDER_WORDS
        return within_share and self.used_words + length + 1 <= self._ring_words // 2

    def put(self, sender: int, words: Words) -> None:
        """Append a message for which there is room; one without words says that *sender* is gone or has rebooted."""
        if not words.size and sender in self._departed:
            return
        header = np.array([message_header(sender, words.size)], dtype=np.uint64)
        span = self._span(self.used_words, words.size + 1)
        self._column.note(span + _RING)
        self._ring[span] = np.concatenate((header, words))
        self._move(self._first, self.used_words + words.size + 1)
        self._count_in(sender, words.size)

    def take(self, most_words: int, most_messages: int) -> Words:
        """Remove whole messages, oldest first; returns them with their headers."""
        taken = 0
        for _ in range(most_messages):
            if taken == self.used_words:
                break
            sender, length = self._message_at(taken)
            if taken + length + 1 > most_words:
                break
            taken += length + 1
            self._return_share(sender, length)
        words = self._ring[self._span(0, taken)]
        self._move((self._first + taken) % self._ring_words, self.used_words - taken)
        return words

    def clear(self) -> None:
        """Throw all messages away."""
        self._move(0, 0)
        self.shares.clear()
        self._departed.clear()

    def _move(self, first: int, used_words: int) -> None:
        self._first, self.used_words = first, used_words
        for row, word in ((_FIRST, first), (_USED, used_words)):
            self._column.note_row(row)
            self._column.words[row] = word

    def _count_in(self, sender: int, length: int) -> None:
        self.shares[sender] = self.shares.get(sender, 0) + length + 1
        (self._departed.discard if length else self._departed.add)(sender)

    def _return_share(self, sender: int, length: int) -> None:
        self.shares[sender] -= length + 1
        if not self.shares[sender]:
            del self.shares[sender]
            self._departed.discard(sender)

    def _span(self, offset: int, length: int) -> Frames:
        return np.arange(self._first + offset, self._first + offset + length) % self._ring_words

    def _message_at(self, offset: int) -> tuple[int, int]:
        return split_header(int(self._ring[(self._first + offset) % self._ring_words]))

    def _walk(self) -> Iterator[tuple[int, int]]:
        """Go through the messages, oldest first: sender and length of each."""
        at = 0
        while at < self.used_words:
            sender, length = self._message_at(at)
            yield sender, length
            at += length + 1

    def check(self) -> list[str]:
        """Walk the ring and say where it disagrees with the counts; empty when all is well."""
        shares: dict[int, int] = {}
        at = 0
        for sender, length in self._walk():
            shares[sender] = shares.get(sender, 0) + length + 1
            at += length + 1
        if at != self.used_words or shares != self.shares:
            return [f"inbox: {self.used_words} words counted, shares {self.shares}; the ring says {at}, {shares}"]
        return []
