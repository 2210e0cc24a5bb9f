"""The frame table: heap, owners, content words, and how many frames of each superframe are at home.

Per superframe one entry each: `whole_owner` (the domain that holds it as one leaf, +1),
`at_home` (how many of its frames back the entries that belong there; above 0 means that a block
claims it), `written` (whether any content word in it may be other than 0) and `pinned` (how many of
its frames are referenced). 4 KiB detail (`frame_owner`) is 0 except for used frames of shattered
superframes; `references` counts how often other domains map a frame, whatever its superframe is.

A superframe is *kept* when a block claims it, all its used frames are that block's at home, and at
least half of it is used: then the heap serves others from it last (`keep_holes`).
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from xbd.abi import MAX_DOMAINS, Frames, Words
from xbd.arrays import MfnKind, Mfns, Superframe, SuperKind, Supers
from xbd.errors import DamagedState
from xbd.frames import FrameAllocator, Groups, expand_supers
from xbd.machine.content_check import ContentChecks
from xbd.machine.domain import Domain, P2m
from xbd.machine.settings import HOME_FILLS, HostSettings
from xbd.machine.waiting import Waiting
from xbd.storage.image import Column, Image, Layout, Section
from xbd.units import SUPER_ORDER, SUPER_PAGES

# A superframe is "nearly whole" from one half up: below, using the rest gains more than waiting for its owner.
KEPT_MIN_FRAMES = SUPER_PAGES // 2
# Spare words: a few more settings can be added without another layout.
_SETTINGS: Final = 16
_HAS_CHECKS: Final = 6
_HIGH_FIRST: Final = 7


def host_layout(superframes: int) -> Layout:
    """Lay out what is saved of a host, beside its domains."""
    return Layout(
        {"settings": (1, _SETTINGS), "births": (MAX_DOMAINS + 1, 1), "content": (superframes << SUPER_ORDER, 1)}
    )


# The columns that are read whole at every start.
READ_WHOLE: Final = ("settings", "births")


def save_host(section: Section, superframes: int, settings: HostSettings) -> None:
    """Save the host's size and settings, which never change, in its new section."""
    column = section.column("settings")
    column.note_row(0)
    column.words[0, :6] = (
        superframes,
        settings.populate_depopulate,
        settings.exchange_translated,
        HOME_FILLS.index(settings.home_fill),
        settings.coalesce,
        settings.keep_holes,
    )
    column.words[0, _HIGH_FIRST] = settings.high_first


def saved_host(section: Section) -> tuple[int, HostSettings]:
    """Read what `save_host` wrote: superframes and settings. Raises DamagedState: the values are impossible."""
    if section.layout.columns.get("settings") != (1, _SETTINGS):
        raise DamagedState("the host is laid out as another version of xbd does")
    words = section.column("settings").words[0].tolist()
    superframes, populate_depopulate, exchange, home_fill, coalesce, keep_holes = words[:6]
    # 0 in what earlier versions saved.
    high_first = words[_HIGH_FIRST]
    flags = {populate_depopulate, exchange, coalesce, keep_holes, high_first}
    fits = superframes >= 1 and section.layout == host_layout(superframes)
    if flags - {0, 1} or not 0 <= home_fill < len(HOME_FILLS) or not fits:
        raise DamagedState("the host's settings make no sense")
    return superframes, HostSettings(
        populate_depopulate=bool(populate_depopulate),
        exchange_translated=bool(exchange),
        home_fill=HOME_FILLS[home_fill],
        coalesce=bool(coalesce),
        keep_holes=bool(keep_holes),
        high_first=bool(high_first),
    )


def has_checks(section: Section) -> bool:
    """Tell whether a host's content words have checks. Raises DamagedState: the value is impossible."""
    flag = int(section.column("settings").words[0, _HAS_CHECKS])
    if flag not in (0, 1):
        raise DamagedState(f"the host's content words have {flag} kinds of checks")
    return bool(flag)


def save_has_checks(section: Section) -> None:
    """Save that a host's content words have checks from the commit of this step on."""
    column = section.column("settings")
    column.note_row(0)
    column.words[0, _HAS_CHECKS] = 1


class FrameTable:
    """The frames of a host of *superframes* superframes; derived arrays lie in *image*, content words in *section*."""

    def __init__(self, superframes: int, settings: HostSettings, image: Image, section: Section) -> None:
        self.settings = settings
        shelf_of = self._shelf_of if settings.keep_holes else None
        self.heap: FrameAllocator[MfnKind, SuperKind] = FrameAllocator(
            superframes << SUPER_ORDER, shelf_of=shelf_of, high_first=settings.high_first
        )
        # What is free, but promised to a domain.
        self.claimed_pages = 0
        self.waiting = Waiting()
        # Domids of which something that is told of them may have changed; emptied by whoever tells it.
        self.touched: set[int] = set()
        frames = superframes << SUPER_ORDER
        self.whole_owner: NDArray[np.uint16] = image.make("host.whole_owner", superframes, np.uint16)
        self.at_home: NDArray[np.uint16] = image.make("host.at_home", superframes, np.uint16)
        self.written: NDArray[np.bool_] = image.make("host.written", superframes, np.bool_)
        self.pinned: NDArray[np.uint16] = image.make("host.pinned", superframes, np.uint16)
        self.references: NDArray[np.uint32] = image.make("host.references", frames, np.uint32)
        self.frame_owner: NDArray[np.uint16] = image.make("host.frame_owner", frames, np.uint16)
        self._saved_content: Column[MfnKind] = section.column("content")
        self._saved_content_rows: Column[SuperKind] = section.column("content", width=SUPER_PAGES)
        self.content: Words = self._saved_content.words.view(np.uint64)
        self.content_rows: Words = self._saved_content_rows.words.view(np.uint64)
        self.owner_rows = self.frame_owner.reshape(-1, SUPER_PAGES)
        self.checks: ContentChecks | None = None

    def _shelf_of(self, supers: Frames) -> Frames:
        at_home = self.at_home[supers]
        used = SUPER_PAGES - self.heap.free_count[supers]
        kept: NDArray[np.bool_] = (at_home == used) & (at_home >= KEPT_MIN_FRAMES)
        return kept.astype(np.int64)

    def add_at_home(self, groups: Groups[SuperKind], sign: int) -> None:
        """Count frames, given as groups, as being at home (+1) or no longer (-1)."""
        supers, counts = groups
        self.at_home[supers] = self.at_home[supers] + sign * counts
        self.heap.reshelve(supers)

    def is_unclaimed(self, superframe: Superframe) -> bool:
        """Say whether no block has its home in a superframe."""
        return not self.at_home[superframe]

    def room_pages(self, domain: Domain) -> int:
        """Count the pages that a domain may have beside those it has."""
        return max(domain.max_pages - domain.tot_pages, 0)

    def free_frames_for(self, domain: Domain | None) -> int:
        """Count the free frames that are not claimed for another domain than this one (None: for any)."""
        own = 0 if domain is None else domain.claimed_pages
        return self.heap.free_frames - self.claimed_pages + own

    def are_referenced(self, mfns: Mfns) -> NDArray[np.bool_]:
        """Say for each of (n,) frames, or of (n, 512), whether others map it."""
        referenced: NDArray[np.bool_] = self.references[mfns] > 0
        return referenced

    def are_pinned(self, supers: Supers) -> NDArray[np.bool_]:
        """Say for each of (n,) superframes whether others map any frame of it."""
        pinned: NDArray[np.bool_] = self.pinned[supers] > 0
        return pinned

    def write(self, frames: Mfns, words: Words) -> None:
        """Write the content words of single frames."""
        self._saved_content.note(frames)
        self.content[frames] = words
        self.written[frames >> SUPER_ORDER] = True
        if self.checks is not None:
            self.checks.write(frames, words)

    def scrub(self, frames: Mfns, groups: Groups[SuperKind] | None = None) -> None:
        """Zero the content words of single frames; *groups*, if known, are `group_by_super` of them."""
        if groups is not None and not np.count_nonzero(self.written[groups[0]]):
            return
        written = self.written[frames >> SUPER_ORDER]
        if np.count_nonzero(written):
            # Only these: where nothing was ever written the file has a hole, and writing zeros there would take disk
            # space.
            dirty = frames[written]
            self._saved_content.note(dirty)
            self.content[dirty] = 0
            if self.checks is not None:
                self.checks.scrub(dirty)

    def scrub_superframes(self, supers: Supers) -> None:
        """Zero the content words of whole superframes."""
        written = self.written[supers]
        if np.count_nonzero(written):
            dirty = supers[written]
            self._saved_content_rows.note(dirty)
            self.content_rows[dirty] = 0
            self.written[dirty] = False
            if self.checks is not None:
                self.checks.scrub_superframes(dirty)

    def scrub_moved(self, frames: Mfns) -> None:
        """Zero the content words of single frames that their owner keeps, at other gfns."""
        self.scrub(frames)

    def scrub_rebooted(self, p2m: P2m, piece: slice) -> None:
        """Zero the content words of all that a *piece* of a p2m's blocks has."""
        self.scrub_superframes(p2m.leaf_supers(piece))
        self.scrub(p2m.frames(piece))

    def shatter(self, supers: Supers, owner: int) -> None:
        """Move the ownership of leaves down to their single frames."""
        self.whole_owner[supers] = 0
        self.owner_rows[supers] = owner + 1

    def make_whole(self, supers: Supers, owner: int) -> None:
        """Move the ownership of 512 frames each up to one entry."""
        self.owner_rows[supers] = 0
        self.whole_owner[supers] = owner + 1

    def give(self, frames: Mfns, groups: Groups[SuperKind] | None = None) -> None:
        """Return single frames to the heap, scrubbed and unowned; *groups*, if known, are `group_by_super` of them."""
        self.scrub(frames, groups)
        self.frame_owner[frames] = 0
        self.heap.give(frames, groups)

    def give_superframes(self, supers: Supers) -> None:
        """Return leaves to the heap, scrubbed, unowned and unclaimed."""
        self.scrub_superframes(supers)
        self.whole_owner[supers] = 0
        self.at_home[supers] = 0
        self.heap.give_superframes(supers)

    def owners(self) -> NDArray[np.uint16]:
        """Spell out who owns each frame: (frames,) uint16, domid + 1, 0 for free."""
        owners = self.frame_owner.copy()
        whole = np.flatnonzero(self.whole_owner)
        owners[expand_supers(whole)] = np.repeat(self.whole_owner[whole], SUPER_PAGES)
        return owners
