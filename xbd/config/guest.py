"""What a guest can be told to be: the settings that a host file has for each, and that `create` takes as a map."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

from xbd.config.strategies import DEFAULT_STRATEGY, STRATEGIES
from xbd.guest import BlockBackEnd, DriverSettings, GuestSettings
from xbd.guest.workload import PROFILES, Idle, Pace, Profile
from xbd.guest.workload.profiles import LONGEST_TRACE_S
from xbd.settings import Section, Variant, choice, flag, number, settings_of, text, whole

MAX_SEED: Final = (1 << 63) - 1
# A day in a minute and a half; faster than that, samples of a second come faster than a guest can follow.
_MOST_SPEED: Final = 1000.0


@dataclass(frozen=True, slots=True)
class PlaysTrace:
    """A workload that plays a trace, which whoever runs the guest reads."""

    trace: Annotated[
        str,
        text(
            "the file that is played, of a guest as large as this one's maximum; relative to the host file",
            missing='is missing; it is the file that is played: workload = { trace = "FILE.csv" }',
        ),
    ]
    speed: Annotated[float, number("how many times as fast as it was recorded", 0.001, _MOST_SPEED)] = 1.0
    loop: Annotated[bool, flag("whether it begins anew at its end; else its last sample holds")] = False
    offset_s: Annotated[
        float,
        number("where in the trace to begin: the time of its own that is played first", 0, LONGEST_TRACE_S, "seconds"),
    ] = 0.0
    io_pages_s: Annotated[float, settings_of(Idle)["io_pages_s"]] = 0.0

    @property
    def pace(self) -> Pace:
        """How it is played."""
        return Pace(self.speed, self.loop, self.offset_s)


@dataclass(frozen=True, kw_only=True)
class OwnChoices:
    """What a host file and `create` have in common."""

    strategy: Annotated[
        str | None, choice("its balloon driver, by the name of a strategy; left out: full, or the host's", STRATEGIES)
    ] = None
    driver: Annotated[
        Mapping[str, Any], Section(of=DriverSettings, only=(), doc="of its balloon driver, over what its strategy says")
    ] = field(default_factory=dict)
    workload: Annotated[
        Profile | PlaysTrace,
        Variant(kinds={**PROFILES, "trace": PlaysTrace}, implied={"trace": "trace"}, doc="what runs in it"),
    ] = Idle()  # noqa: RUF009 - frozen
    verify: Annotated[bool, flag("whether every content word is checked when its page is freed or moved")] = False
    wear: Annotated[
        float | None,
        number(
            "as if it had been up for long: the share of its free memory in broken blocks as its programs begin; left"
            " out: as its trace says, else 0",
            0,
            1,
        ),
    ] = None
    huge_pages: Annotated[bool, flag("whether its processes get transparent huge pages")] = True
    seed: Annotated[int | None, whole("what its chance is drawn from; left out: its domain's number", 0, MAX_SEED)] = (
        None
    )


@dataclass(frozen=True, kw_only=True)
class GuestChoices(OwnChoices):
    """What `create` takes as `guest`."""

    block_back_end: Annotated[
        BlockBackEnd | None, Section(of=BlockBackEnd, doc="of a guest that serves the others' disks; left out: none")
    ] = None

    @property
    def settings(self) -> GuestSettings:
        """Make the guest's settings: its driver's are the strategy's, and what is said of its own."""
        driver = replace(STRATEGIES[self.strategy or DEFAULT_STRATEGY].driver, **self.driver)
        return GuestSettings(
            driver,
            verify=self.verify,
            block_back_end=self.block_back_end,
            wear=self.wear or 0.0,
            huge_pages=self.huge_pages,
        )
