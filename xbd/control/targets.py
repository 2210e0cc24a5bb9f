"""Which domains and which sizes a request means; pure.

Domains are given by name, number (`7`, `d7`, `Domain-0`) or a pattern (`'web*'`, `'*'`). For commands that change anything a pattern
matches only guests: dom0 has to be named in full, and a zombie cannot be changed. Amounts are sizes as xl's users
write them, or percentages of each domain's maximum. Targets are whole superpages (2 MiB):
other sizes are rounded down, never to nothing, and the plan records it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from xbd.abi import MAX_DOMAIN_PAGES, MAX_NODES
from xbd.domain import DOM0, ZOMBIE, DomainInfo, number_of
from xbd.errors import BadSize, XbdError
from xbd.target_rules import Bound, broken_bound, limit_comes_first
from xbd.text import WILDCARDS
from xbd.units import format_pages, parse_size_pages, round_to_superpages

_PERCENT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*%")
# xl's own words, which scripts look for.
_BEYOND_STATIC_MAX: Final = "memory_dynamic_max must be less than or equal to memory_static_max"
_SIZE_HINT: Final = "write a number above 0 and b, k, m, g or t (a bare number is MiB), such as 512m or 2g"


class BadRequest(XbdError):
    """A request that cannot be meant: an unknown domain, no size, or more than a domain's maximum."""


@dataclass(frozen=True, slots=True)
class Amount:
    """How much memory: *pages*, or *share* of a domain's maximum (then *pages* is 0)."""

    text: str
    pages: int = 0
    share: float = 0.0

    def of(self, static_max_pages: int) -> int:
        """Compute the pages that this means for a domain, not rounded."""
        return self.pages or int(static_max_pages * self.share)


def parse_amount(text: str) -> Amount:
    """Read a size or a percentage (above 0, at most 100).

    Raises:
        BadRequest: in xl's words.
    """
    percent = _PERCENT.fullmatch(text.strip())
    if percent is not None:
        share = float(percent[1]) / 100
        if not 0 < share <= 1:
            raise BadRequest(f"invalid memory size: {text}; a percentage lies above 0 % and at most at 100 %")
        return Amount(text, share=share)
    return Amount(text, pages=parse_pages(text))


def parse_pages(text: str) -> int:
    """Read a size as pages. Raises BadRequest, in xl's words."""
    try:
        return parse_size_pages(text)
    except BadSize as error:
        raise BadRequest(f"invalid memory size: {text}; {_SIZE_HINT}") from error


@dataclass(frozen=True, slots=True)
class Rounded:
    """A size in whole superpages: *pages*, and *asked_pages*, what it was rounded from."""

    pages: int
    asked_pages: int

    @property
    def exact(self) -> bool:
        """Whether there was nothing to round."""
        return self.pages == self.asked_pages

    def __str__(self) -> str:
        if self.exact:
            return format_pages(self.pages)
        return f"{format_pages(self.pages)} ({format_pages(self.asked_pages)} rounded to a multiple of 2 MiB)"


def round_pages(pages: int) -> Rounded:
    """Round to whole superpages: down, but up where that would be nothing."""
    return Rounded(round_to_superpages(pages), pages)


def parse_claim(text: str) -> tuple[Rounded, int | None]:
    """Read what of a claim set is written: a size, and behind an @ the number of a node; None: of the whole host.

    Raises:
        BadRequest: it is something else.
    """
    size, at, node = text.partition("@")
    if at and not (node.isdecimal() and node.isascii() and len(node) <= len(str(MAX_NODES))):
        raise BadRequest(f"invalid claim: {text}; write a size and the number of a node, such as 4g@1")
    return round_pages(parse_pages(size)), int(node) if at else None


@dataclass(frozen=True, slots=True)
class Change:
    """A new target for a domain: *domain* as it was listed, *target* what it should hold."""

    domain: DomainInfo
    target: Rounded

    @property
    def grows(self) -> bool:
        """Whether max_pages is to be set before the target (growing), not after it (shrinking)."""
        return limit_comes_first(self.target.pages, self.domain.max_pages)


def is_guest(domain: DomainInfo) -> bool:
    """Whether it is a guest and no zombie: what a pattern matches for commands that change something."""
    return domain.domid != DOM0 and domain.state != ZOMBIE


def can_be_destroyed(domain: DomainInfo) -> bool:
    """Whether it can be destroyed, or is being so: a guest or a zombie."""
    return domain.domid != DOM0


def is_any(domain: DomainInfo) -> bool:
    """Whether it is listed at all: what a pattern matches for commands that only read."""
    del domain
    return True


def choose(
    domains: Sequence[DomainInfo], names: Sequence[str], meant: Callable[[DomainInfo], bool] = is_guest
) -> list[DomainInfo]:
    """Find the domains that *names* mean: names, numbers and patterns; each once, in the order of domids.

    A pattern matches only domains for which *meant* is true; so does a zombie's name, which another domain may have by now.

    Raises:
        BadRequest: a name that no domain has (in xl's words), a pattern that none matches.
    """
    chosen: dict[int, DomainInfo] = {}
    for name in names:
        named = [one for one in domains if one.name == name and (one.state != ZOMBIE or meant(one))]
        number = None if named else number_of(name)
        found = [one for one in domains if one in named or one.domid == number or (meant(one) and _matches(name, one))]
        if not found and WILDCARDS & set(name):
            raise BadRequest(f"no domain matches {name!r}; `xbd list` shows those that there are")
        if not found:
            raise BadRequest(f"{name} is an invalid domain identifier; `xbd list` shows those that there are")
        chosen |= {domain.domid: domain for domain in found}
    return [chosen[domid] for domid in sorted(chosen)]


def _matches(name: str, domain: DomainInfo) -> bool:
    # Saved names may hold a bracket or a star, of before they were refused; one that is written so is found by its name.
    return bool(WILDCARDS & set(name)) and fnmatchcase(domain.name, name)


def plan(domains: Sequence[DomainInfo], amount: Amount, *, is_limit: bool = False) -> list[Change]:
    """Compute what each of *domains* should hold, or, if it *is a limit*, may hold, which may be more than its maximum.

    Raises:
        BadRequest: it is more than a domain's maximum or less than its minimum; nothing is planned for any.
    """
    changes = [Change(domain, round_pages(amount.of(domain.static_max_pages))) for domain in domains]
    for change in changes:
        most = MAX_DOMAIN_PAGES if is_limit else change.domain.static_max_pages
        broken = broken_bound(max(change.target.pages, change.target.asked_pages), change.domain.min_pages, most)
        if broken is Bound.MOST:
            raise BadRequest(
                f"{change.domain.name}: {_BEYOND_STATIC_MAX}; "
                f"{amount.text} is asked for, {format_pages(most)} is its maximum"
            )
        if broken is Bound.MINIMUM:
            raise BadRequest(
                f"{change.domain.name}: {amount.text} is less than its minimum, {format_pages(change.domain.min_pages)}"
            )
    return changes
