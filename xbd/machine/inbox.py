"""The inbox of a domain: a ring of words, before each message one that says its sender and its length.

A sender may fill its share of an inbox and no more, so that nobody can keep others from being heard.
The empty message that says that a domain is gone is never refused: a sender adds at most one to each
of its own messages, so that half of the ring is room enough for those.
Source: Xen common/argo.c, ring_info and ringbuf_insert.
"""

from typing import Final

import numpy as np

from xbd.abi import INBOX_WORDS, SENDER_WORDS, Frames, Words, message_header, split_header
from xbd.machine.image import Image

_MESSAGES_MOST_WORDS: Final = INBOX_WORDS // 2


class Inbox:
    """The inbox of one domain.

    Attributes: *used_words*: in it, headers included; *shares*: of them each sender's.
    """

    def __init__(self, image: Image, name: str) -> None:
        self._ring: Words = image.make(name, INBOX_WORDS, np.uint64)
        self._first = 0
        self.used_words = 0
        self.shares: dict[int, int] = {}
        # Whose newest message here is the empty one: another would say nothing new.
        self._departed: set[int] = set()

    def has_room(self, sender: int, length: int) -> bool:
        """Say whether *sender* may put a message of *length* words."""
        within_share = self.shares.get(sender, 0) + length + 1 <= SENDER_WORDS
        return within_share and self.used_words + length + 1 <= _MESSAGES_MOST_WORDS

    def put(self, sender: int, words: Words) -> None:
        """Append a message for which there is room; one without words says that *sender* is gone or has rebooted."""
        if not words.size and sender in self._departed:
            return
        header = np.array([message_header(sender, words.size)], dtype=np.uint64)
        self._ring[self._span(self.used_words, words.size + 1)] = np.concatenate((header, words))
        self.used_words += words.size + 1
        self.shares[sender] = self.shares.get(sender, 0) + words.size + 1
        (self._departed.discard if words.size else self._departed.add)(sender)

    def take(self, most_words: int, most_messages: int) -> Words:
        """Remove whole messages, oldest first; returns them with their headers."""
        taken = 0
        for _ in range(most_messages):
            if taken == self.used_words:
                break
            sender, length = split_header(int(self._ring[(self._first + taken) % INBOX_WORDS]))
            if taken + length + 1 > most_words:
                break
            taken += length + 1
            self._return_share(sender, length)
        words = self._ring[self._span(0, taken)]
        self._first = (self._first + taken) % INBOX_WORDS
        self.used_words -= taken
        return words

    def _return_share(self, sender: int, length: int) -> None:
        self.shares[sender] -= length + 1
        if not self.shares[sender]:
            del self.shares[sender]
            self._departed.discard(sender)

    def _span(self, offset: int, length: int) -> Frames:
        return np.arange(self._first + offset, self._first + offset + length) % INBOX_WORDS

    def check(self) -> list[str]:
        """Walk the ring and say where it disagrees with the counts; empty when all is well."""
        shares: dict[int, int] = {}
        at = 0
        while at < self.used_words:
            sender, length = split_header(int(self._ring[(self._first + at) % INBOX_WORDS]))
            shares[sender] = shares.get(sender, 0) + length + 1
            at += length + 1
        if at != self.used_words or shares != self.shares:
            return [f"inbox: {self.used_words} words counted, shares {self.shares}; the ring says {at}, {shares}"]
        return []
