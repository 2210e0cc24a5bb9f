"""The values of the autoballoon policy: its input (snapshot), its settings, its output (actions) and its state.

All are values: a policy is a pure `step(state, snapshot, now) -> (state, actions)` (`plugin`), the safety layer around
it (`autoballoon`) another, and nothing here changes after it was made. Sizes are pages of 4 KiB; what the policy sets is a multiple of 512 (2 MiB).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Final, NamedTuple

from xbd.errors import BadArgument
from xbd.settings import flag, number, size
from xbd.target_rules import REFUSED_AFTER_S, STUCK_AFTER_S, Approach
from xbd.units import MIB_PAGES, round_down, round_up

# A domain without a minimum of its own keeps this part of its static maximum: a Linux guest's own tables
# (struct pages, 1/64) and its kernel fit with room to spare, and what is left is worth taking.
DEFAULT_MIN_DIVISOR: Final = 8
# A domain, a reservation, the host: no figure of any is larger (8 PiB), whatever a guest reports.
MOST_PAGES: Final = 1 << 41
_DAY_S: Final = 86_400.0


class Safety(StrEnum):
    """The safety mechanisms; each can be switched off to show that it is needed (never in production)."""

    HEADROOM = "headroom"  # free memory below the headroom is not handed out
    BUDGET = "budget"  # growing domains get no more than is free now and promised to nobody
    TWO_PHASES = "two-phases"  # no domain grows while a willing one still gives memory up
    CAP_MAX = "cap-max"  # max_pages follows the target: no domain grows unless the policy lets it
    HOLD_RESERVATIONS = "hold-reservations"  # reserved memory is not shared out
    LEAVE_OUT_STUCK = "leave-out-stuck"  # the policy does not wait for a domain that makes no progress
    HOLD_UNREACHABLE = "hold-unreachable"  # an unreachable target becomes what the domain holds
    REMEMBER_REFUSALS = "remember-refusals"  # what a domain refused is not asked of it at once again
    RETRY = "retry"  # what a domain refused is asked of it again later, 2 MiB at first
    BOUND_DEMAND = "bound-demand"  # a reported demand counts only within the domain's bounds
    ABLE_ONLY = "able-only"  # a domain that cannot balloon is neither shrunk nor grown
    THRESHOLD = "threshold"  # small changes are not sent
    MIN_INTERVAL = "min-interval"  # no domain is moved too often


@dataclass(frozen=True, slots=True)
class Settings:
    """What an operator sets; *off*: safety mechanisms that are switched off, for tests of the policy.

    Raises BadArgument for what makes no sense, naming the key.
    """

    # Enough for dom0's own bursts (page tables, grants) and for starting a small domain without waiting.
    headroom_pages: Annotated[int, size("free memory that is never handed out", MOST_PAGES, key="headroom")] = (
        128 * MIB_PAGES
    )
    # Below this a move costs more (hypercalls, shattered blocks, a guest's cache) than the balance is worth.
    threshold_pages: Annotated[
        int, size("smaller changes are not sent, unless memory is needed", MOST_PAGES, key="threshold")
    ] = 16 * MIB_PAGES
    # A guest moves GiB/s; demand that rises and falls within seconds is not worth following.
    min_interval_s: Annotated[
        float, number("no target is moved again within it, unless to free memory that is needed", 0, _DAY_S, "seconds")
    ] = 10.0
    # semantics.md section 5. A willing guest moves many times in 5 s; Linux's first back-offs (2, 4, 8 s) fit in 20 s.
    stuck_after_s: Annotated[
        float, number("a domain without progress for so long is stuck, and left out", 0, _DAY_S, "seconds")
    ] = STUCK_AFTER_S
    uncooperative_after_s: Annotated[
        float, number("after so long it has refused: its target becomes what it holds", 0, _DAY_S, "seconds")
    ] = REFUSED_AFTER_S
    # Twice Linux's longest back-off (32 s): a guest that can give again has noticed by then.
    retry_after_s: Annotated[
        float, number("what it refused is tried again after so long, with 2 MiB", 0, _DAY_S, "seconds")
    ] = 60.0
    bare: Annotated[
        bool, flag("the policy's targets are sent as they are, without any safety; only to look at a policy")
    ] = False
    off: frozenset[Safety] = frozenset()

    def __post_init__(self) -> None:
        for key in ("headroom_pages", "threshold_pages"):
            pages = getattr(self, key)
            if not 0 <= pages <= MOST_PAGES:
                raise BadArgument(f"{key} is {pages}", f"0 to {MOST_PAGES} pages")
        if not 0 <= self.min_interval_s <= self.uncooperative_after_s:
            raise BadArgument(
                f"min_interval_s is {self.min_interval_s}",
                f"0 to uncooperative_after_s ({self.uncooperative_after_s}): a move is judged before the next",
            )
        if not 0 < self.stuck_after_s < self.uncooperative_after_s <= self.retry_after_s:
            raise BadArgument(
                f"stuck_after_s, uncooperative_after_s, retry_after_s are {self.stuck_after_s}, "
                f"{self.uncooperative_after_s}, {self.retry_after_s}",
                "them to rise in this order, from above 0",
            )

    def on(self, safety: Safety) -> bool:
        """Whether a safety mechanism is on."""
        return safety not in self.off


@dataclass(frozen=True, slots=True)
class GuestReport:
    """What a guest last reported of itself, untrusted, each a count that is not negative; None: it does not say.

    Attributes:
        used_pages: what its programs and kernel hold, without page cache.
        unused_pages: what is free in it.
        cache_pages: its page cache.
        available_pages: what its programs could get without another target: free beyond its kernel's reserve, and cache.
        refaulted_pages: cache that was dropped and had to be read again, since it booted.
        pressure: the share of the last ten seconds in which some program waited for memory, or for such reading; 0 to 1.
    """

    used_pages: int | None = None
    unused_pages: int | None = None
    cache_pages: int | None = None
    available_pages: int | None = None
    refaulted_pages: int | None = None
    pressure: float | None = None


NO_REPORT: Final = GuestReport()


@dataclass(frozen=True, slots=True)
class DomainSnapshot:
    """One domain as it is now.

    Attributes:
        domid: its number.
        tot_pages: what it holds, by the hypervisor's count.
        target_pages: what it should hold.
        max_pages: what it cannot exceed.
        min_pages: its dynamic minimum; 0: the policy's default share of its static maximum.
        static_max_pages: its dynamic maximum.
        can_balloon: its agent is connected, it is not shut down and no zombie.
        demand_pages: what its guest reports that it needs; None: nothing. Untrusted.
        life: what tells it from every other domain; its number may be given to another one.
        guest: what its guest reports of itself.
        floor_pages, ceiling_pages: what it would not go below and above, as far as is known; both the same for one that
            does not move at all (stuck, or it cannot balloon). None: its bounds. A policy is told these.
    """

    domid: int
    tot_pages: int
    target_pages: int
    max_pages: int
    min_pages: int
    static_max_pages: int
    can_balloon: bool = True
    demand_pages: int | None = None
    life: str = ""
    guest: GuestReport = NO_REPORT
    floor_pages: int | None = None
    ceiling_pages: int | None = None

    @property
    def moves(self) -> bool:
        """Whether it moves at all when its target does."""
        return self.floor_pages is None or self.floor_pages != self.ceiling_pages


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The host as it is now: *claimed_pages* are free but claimed; *domains* are all that the policy manages.

    *set_aside_pages*: of what is free, what is kept free by headroom and reservations; a policy is told it.
    """

    free_pages: int
    total_pages: int
    claimed_pages: int
    domains: tuple[DomainSnapshot, ...]
    set_aside_pages: int = 0

    @property
    def usable_pages(self) -> int:
        """What is free for domains beside what they hold; negative: so much is missing."""
        return self.free_pages - self.claimed_pages - self.set_aside_pages


@dataclass(frozen=True, slots=True)
class SetTarget:
    """Set a domain's target_pages.

    *reason*: why, in a few words. *urgent*: a policy wants it at once, however lately the domain was moved.
    """

    domid: int
    pages: int
    reason: str = field(default="", compare=False)
    urgent: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class SetMax:
    """Set a domain's max_pages."""

    domid: int
    pages: int


Action = SetTarget | SetMax


@dataclass(frozen=True, slots=True)
class CannotFree:
    """Not so much can be freed: *needed_pages* were asked for, *possible_pages* are the most there could be."""

    needed_pages: int
    possible_pages: int


@dataclass(frozen=True, slots=True)
class DomainsUncooperative:
    """It could be freed if these domains gave memory up, and they do not."""

    domids: tuple[int, ...]


Failure = CannotFree | DomainsUncooperative


class ReservationState(StrEnum):
    """Where a reservation stands."""

    PENDING = "pending"
    HELD = "held"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Reservation:
    """A client's reservation: being freed, held free, or failed (*failure* says why; nothing is held).

    Attributes: *since_s* is when it came to this *state*.
    """

    name: str
    pages: int
    since_s: float
    state: ReservationState = ReservationState.PENDING
    failure: Failure | None = None

    @property
    def live(self) -> bool:
        """Whether memory is freed or held for it."""
        return self.state is not ReservationState.FAILED


class Verdict(StrEnum):
    """What the policy thinks of a domain's progress."""

    WILLING = "willing"  # at its target, or on its way
    STUCK = "stuck"  # no progress for stuck_after_s
    UNCOOPERATIVE = "uncooperative"  # none until the deadline: it refused
    UNABLE = "unable"  # it cannot balloon


@dataclass(frozen=True, slots=True)
class Progress:
    """What the policy remembers of one domain.

    Attributes:
        aim_pages: the target that its progress is judged by.
        approach: the closest that it came to it, and when it last came closer, or was there, or got a new aim.
        stuck: it has made no progress for stuck_after_s.
        least_pages: what it would not go below; None: nothing refused.
        most_pages: what it would not go above; None: nothing refused.
        refused_s: when it last refused, or was last tried.
        moved_s: when the policy last moved its target; None: never.
        able: it could balloon when last seen.
        life: of which domain this is remembered.
    """

    aim_pages: int
    approach: Approach
    stuck: bool = False
    least_pages: int | None = None
    most_pages: int | None = None
    refused_s: float = 0.0
    moved_s: float | None = None
    able: bool = True
    life: str = ""

    @property
    def refused(self) -> bool:
        """Whether it refused to shrink or grow, and has not moved beyond that since."""
        return self.least_pages is not None or self.most_pages is not None

    @property
    def verdict(self) -> Verdict:
        """Sum it up."""
        if not self.able:
            return Verdict.UNABLE
        if self.refused:
            return Verdict.UNCOOPERATIVE
        return Verdict.STUCK if self.stuck else Verdict.WILLING


class Kept(StrEnum):
    """Why a step left a domain's target alone, if it did."""

    MOVED = "moved"  # it did not
    AT_GOAL = "at-goal"  # it has what it should have
    HEADROOM = "headroom"  # what is free beyond headroom, claims and reservations does not suffice
    THRESHOLD = "threshold"  # the change is too small
    INTERVAL = "interval"  # it was moved just before
    TWO_PHASES = "two-phases"  # others give up first
    UNABLE = "unable"  # it cannot balloon
    STUCK = "stuck"  # it makes no progress


class Decision(NamedTuple):
    """What a step decided about a domain: what it should hold, why it was not told to, and the policy's reason."""

    goal_pages: int = 0
    kept: Kept = Kept.UNABLE
    reason: str = ""


def _nothing() -> Mapping[int, Progress]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class State:
    """What the policy carries from step to step; an empty one can start on any host at any time.

    Attributes: *progress* by domid; *decisions* of the last step by domid, which are only told, never read by a step;
    *reservations* in the order in which they were asked for; *own*: the policy's own state, None at first;
    *trouble*: what was wrong with the policy, which is not asked any more then; *number*: of the policy, if it is changed.
    """

    settings: Settings = field(default_factory=Settings)
    progress: Mapping[int, Progress] = field(default_factory=_nothing)
    reservations: tuple[Reservation, ...] = ()
    decisions: Mapping[int, Decision] = field(default_factory=dict)
    own: object = None
    trouble: str = ""
    number: int = 0

    def reservation(self, name: str) -> Reservation | None:
        """Find a reservation by its name."""
        return next((each for each in self.reservations if each.name == name), None)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a domain's target and max_pages lie between, in whole superpages."""

    least: int
    most: int

    def clamp(self, pages: int) -> int:
        """Return the nearest that is within."""
        return min(max(pages, self.least), self.most)


def bounds_of(domain: DomainSnapshot) -> Bounds:
    """Work out a domain's bounds; `most` is 0 for one without a whole superpage, which is left alone."""
    most = round_down(domain.static_max_pages)
    least = domain.min_pages or max(domain.static_max_pages // DEFAULT_MIN_DIVISOR, 1)
    return Bounds(min(round_up(least), most), most)


# No reservation larger than a host makes sense; this only bounds the number.
MAX_RESERVATION_PAGES: Final = MOST_PAGES
# Clients are few; the list is read at every step, so it must have a bound.
MAX_RESERVATIONS: Final = 256
