"""What a guest can be told to be: the settings that a host file has for each, and that `create` takes as a map."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final

from xbd.config.strategies import DEFAULT_STRATEGY, STRATEGIES
from xbd.guest import BlockBackEnd, DriverSettings, GuestSettings
from xbd.guest.workload import PROFILES, Idle, Profile
from xbd.settings import Section, Variant, choice, flag, number, whole

MAX_SEED: Final = (1 << 63) - 1


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
        Profile,
        Variant(
            kinds={name: kind for name, kind in PROFILES.items() if name != "trace"},
            hints={"trace": "a trace needs somebody who plays it: use `xbd replay TRACE.csv`"},
            doc="what runs in it",
        ),
    ] = Idle()  # noqa: RUF009 - frozen
    verify: Annotated[bool, flag("whether every content word is checked when its page is freed or moved")] = False
    wear: Annotated[
        float,
        number(
            "as if it had been up for long: the share of its free memory in broken blocks as its programs begin", 0, 1
        ),
    ] = 0.0
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
            wear=self.wear,
            huge_pages=self.huge_pages,
        )
