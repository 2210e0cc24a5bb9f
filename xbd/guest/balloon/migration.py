"""Migration of ballooned pages: a ballooned page *old* is backed, a free page *new* takes its place.

The back end's ways do that in one step; each falls back to the next where the host has not got it.
The last resort is two calls (populate old, then decrease new), which needs one page of headroom and
is not atomic. Per pair there are three outcomes: done, nothing changed, or half done: old is backed
and new still is too. Then the guest holds one page more than it should, and the worker levels it.
Source: Linux mm/balloon_compaction.c and virtio_balloon.c, virtballoon_migratepage.
"""

from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Final

from xbd.abi import Command, Frames, Result, Stop
from xbd.guest.backing import Backing
from xbd.guest.balloon.backends import TWO_CALLS, BackEnd, Way
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.procedures import Call, Request, carry_out

# Answers that mean that the host does not have the operation, whatever it promised.
_NOT_THERE: Final = frozenset({"EOPNOTSUPP", "ENOSYS", "EPERM"})


@dataclass(frozen=True, slots=True)
class Migrated:
    """How many pairs of a batch had which outcome."""

    done: int = 0
    unchanged: int = 0
    half_done: int = 0


class Migration:
    """The migration callback of one guest.

    Args:
        balloon: whose pages migrate.
        back_end: has the ways.
        list_extents: the most pairs that one command names.
        backing: counts what is given up that had been touched; None: nothing does.

    Attributes: *pages_migrated*, *pages_half_done*, *pages_unchanged*: pairs by outcome. *refused_without_headroom*:
    batches in which two calls brought nothing because the guest is at its limit; *lacks_headroom*: the last one that
    was tried was such.
    """

    def __init__(self, balloon: Balloon, back_end: BackEnd, list_extents: int, backing: Backing | None = None) -> None:
        self._balloon = balloon
        self._back_end = back_end
        self._backing = backing
        self._list_extents = list_extents
        # Those that the host is still believed to have, best first.
        self._ways = list(back_end.ways)
        self.pages_migrated = 0
        self.pages_half_done = 0
        self.pages_unchanged = 0
        self.refused_without_headroom = 0
        self.lacks_headroom = False

    @property
    def way(self) -> str:
        """Name the way that is in use."""
        return self._ways[0].name if self._ways else TWO_CALLS

    def migrate(self, old: Frames, new: Frames) -> Generator[Request, list[Result], Migrated]:
        """Migrate pairs: *old* ballooned single pages, *new* free pages that the caller isolated.

        The caller holds the balloon's token and *new*; both are settled here, whatever the outcome.
        """
        self._balloon.isolate_for_migration(old)
        refused_before = self.refused_without_headroom
        done = half_done = 0
        for first in range(0, old.size, self._list_extents):
            part = slice(first, min(first + self._list_extents, old.size))
            came, half_done = yield from self._migrate_list(old[part], new[part])
            done += came
            if done < part.stop:
                break
        self.lacks_headroom = self.refused_without_headroom > refused_before
        return self._settle(old, new, done, half_done)

    def _migrate_list(self, old: Frames, new: Frames) -> Generator[Request, list[Result], tuple[int, int]]:
        """Migrate the pairs of one list; returns how many are done, and how many after those are half done."""
        done, stop = yield from self._in_one_step(old, new)
        if self._ways and stop != Stop.ENOMEM:
            return done, 0
        # A full host cannot exchange, but where there is headroom it may still have frames for two calls.
        more, half_done = yield from self._in_two_calls(old[done:], new[done:])
        return done + more, half_done

    def _in_one_step(self, old: Frames, new: Frames) -> Generator[Request, list[Result], tuple[int, str | None]]:
        """Migrate by the best way that the host has; a way that the host refuses to know is never tried again."""
        done = 0
        while self._ways:
            call = Call(partial(_make_pairs, self._ways[0], new[done:]), old[done:])
            yield from carry_out([call])
            done += call.done
            if call.stop not in _NOT_THERE:
                return done, call.stop
            del self._ways[0]
        return done, None

    def _in_two_calls(self, old: Frames, new: Frames) -> Generator[Request, list[Result], tuple[int, int]]:
        """Populate what the headroom allows, decrease as much, and go on while that brings something.

        Returns how many are done, and how many after those are half done.
        """
        done = 0
        while done < old.size:
            populate = Call(self._back_end.populating(0), old[done:])
            yield from carry_out([populate])
            if not populate.done:
                self.refused_without_headroom += populate.stop == Stop.E2BIG
                break
            decrease = Call(self._back_end.decreasing(0), new[done : done + populate.done])
            yield from carry_out([decrease])
            done += decrease.done
            if decrease.left.size:
                return done, int(decrease.left.size)
        return done, 0

    def _settle(self, old: Frames, new: Frames, done: int, half_done: int) -> Migrated:
        self._balloon.settle_migrated(old[:done], new[:done])
        if self._backing is not None:
            self._backing.take(new[:done], 0)
        backed = done + half_done
        # Half done: both are backed. They are free, and the guest holds so many pages more.
        self._balloon.settle_deflated(old[done:backed], 0)
        self._balloon.settle_not_deflated(old[backed:], 0)
        self._balloon.settle_not_inflated(new[done:], 0)
        self.pages_migrated += done
        self.pages_half_done += half_done
        self.pages_unchanged += int(old.size) - backed
        return Migrated(done, int(old.size) - backed, half_done)


def _make_pairs(way: Way, new: Frames, old_left: Frames) -> Command:
    """Make the command for the pairs that are left: the last ones of both sides."""
    return way.make(old_left, new[new.size - old_left.size :])
