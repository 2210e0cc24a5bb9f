"""The domains of a host, by number and by name, and the news of them that is still to be passed on.

Numbers rise, as Xen's do; at the end they begin again, with the one that has been free the longest. So whoever still
means a domain that is gone does not soon meet another under its number; only its UUID says for certain which one it is.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

import numpy as np

from xbd.abi import MAX_DOMAINS, DomainType
from xbd.arrays import repeats
from xbd.domain import number_of
from xbd.errors import AlreadyExists, BadArgument, DamagedState, NoSuchDomain, OutOfFrames
from xbd.limits import Limits
from xbd.machine.counts import MAX_COUNT
from xbd.machine.domain import Domain, DomainState
from xbd.machine.parts import Parts
from xbd.storage.image import Image, Kind, Section
from xbd.text import DOMAIN_NAME, is_domain_name, quote
from xbd.units import exact_size

# The row behind those of the domids: the number of births so far.
_BIRTHS_SO_FAR: Final = MAX_DOMAINS


class DomainTable:
    """The domains, zombies included.

    Attributes: *limits* of each, and the *parts* that each is made of; *domains* by domid; *woken*: domains that got messages, *vanished*: zombies that are gone, both since
    the
    last time these were taken, oldest first.
    """

    def __init__(self, image: Image, section: Section, limits: Limits, parts: Parts) -> None:
        self.image = image
        self.limits, self.parts = limits, parts
        self.domains: dict[int, Domain] = {}
        self._section = section
        self._births = section.column("births")
        self.woken: dict[int, None] = {}
        self.vanished: list[int] = []
        self._names: dict[str, int] = {}
        # Numbers up to the highest that was ever given which no domain has, the one that has been free the longest first.
        self._resting: OrderedDict[int, None] = OrderedDict()
        self._highest_domid = 0

    @property
    def births(self) -> int:
        """Count the domains that were ever created."""
        return int(self._births.words[_BIRTHS_SO_FAR])

    def next_birth(self) -> int:
        """Draw the birth number of a new domain."""
        self.save_birth(_BIRTHS_SO_FAR, self.births + 1)
        return self.births

    def saved(self) -> Iterator[tuple[int, int]]:
        """List the saved domains: domid and birth. Raises DamagedState: the numbers are impossible."""
        births = self._births.words[:_BIRTHS_SO_FAR]
        domids = np.flatnonzero(births > 0)
        if not 0 <= self.births <= MAX_COUNT or births.min() < -self.births or repeats(births[domids]).size:
            raise DamagedState(f"the numbers of {domids.size} domains, of {self.births} so far, make no sense")
        self._highest_domid = int(np.flatnonzero(births).max(initial=0))
        free = 1 + np.flatnonzero(births[1 : self._highest_domid + 1] <= 0)
        self._resting = OrderedDict.fromkeys(free[np.argsort(-births[free], kind="stable")].tolist())
        for domid in domids.tolist():
            birth = int(births[domid])
            if not 1 <= birth <= self.births:
                raise DamagedState(f"d{domid} is domain number {birth} of {self.births} so far")
            yield domid, birth

    def save_birth(self, domid: int, birth: int) -> None:
        """Save the birth of the domain that has this domid; below 0, none has it: how many births there were by its end."""
        self._births.note_row(domid)
        self._births.words[domid] = birth

    def add(self, domain: Domain) -> None:
        """Add a new domain, and save it."""
        self.save_birth(domain.domid, domain.birth)
        domain.save()
        domain.save_identity()
        self.restore(domain)

    def restore(self, domain: Domain) -> None:
        """Add a domain that is saved already."""
        self.domains[domain.domid] = domain
        self._resting.pop(domain.domid, None)
        self._resting |= dict.fromkeys(range(self._highest_domid + 1, domain.domid))
        self._highest_domid = max(self._highest_domid, domain.domid)
        if domain.state is not DomainState.ZOMBIE:
            self._names[domain.name] = domain.domid

    def domain(self, domid: int) -> Domain:
        """Find a domain, zombies included. Raises NoSuchDomain."""
        try:
            return self.domains[domid]
        except KeyError:
            raise NoSuchDomain(f"no domain has domid {domid}", "one of `xbd list`") from None

    def living(self, domid: int) -> Domain:
        """Find a domain that is no zombie. Raises NoSuchDomain."""
        domain = self.domain(domid)
        if domain.state is DomainState.ZOMBIE:
            raise NoSuchDomain(
                f"d{domid} was destroyed; {exact_size(domain.tot_pages)} of it are still mapped by other domains",
                "a domain that lives; this one vanishes when those let go",
            )
        return domain

    def is_born(self, domid: int, birth: int) -> bool:
        """Say whether the domain of that number and birth still lives."""
        domain = self.domains.get(domid)
        return domain is not None and domain.birth == birth and domain.state is not DomainState.ZOMBIE

    def free_domid(self) -> int:
        """Choose the number of a new guest: the next one, or the one that has been free the longest. Raises OutOfFrames.

        Source: Xen do_domctl, XEN_DOMCTL_createdomain (its rover); that a freed number rests, libxl's domid history.
        """
        if self._highest_domid + 1 < MAX_DOMAINS:
            return self._highest_domid + 1
        if self._resting:
            return next(iter(self._resting))
        raise OutOfFrames(f"all numbers of guests, 1 to {MAX_DOMAINS - 1}, are taken", "a guest less")

    def partner(self, domain: Domain, domid: int) -> Domain:
        """Find the other domain that *domain* grants or sends something to.

        Raises NoSuchDomain (also for a virtio domain, which has no part in it); BadArgument for itself.
        """
        if domid == domain.domid:
            raise BadArgument(f"d{domid} named itself", "another domain")
        partner = self.living(domid)
        if partner.domain_type is DomainType.VIRTIO:
            raise NoSuchDomain(
                f"d{domid} is a virtio domain, which has neither grants nor messages", "a pv or pvh domain"
            )
        return partner

    def find(self, name_or_domid: str | int) -> int:
        """Find a domid by name, number, or number as text (`number_of`). Raises NoSuchDomain."""
        domid: int | None
        if isinstance(name_or_domid, str):
            named = self.named(name_or_domid)
            domid = number_of(name_or_domid) if named is None else named
        else:
            domid = name_or_domid
        if domid is None or domid not in self.domains:
            raise NoSuchDomain(f"{name_or_domid} is an invalid domain identifier", "a name or domid of `xbd list`")
        return domid

    def check_name(self, name: str) -> None:
        """Check the name that a domain is to have. Raises BadArgument: it cannot be one; AlreadyExists: another one has it."""
        if not is_domain_name(name):
            raise BadArgument(f"domain name {quote(name)}", DOMAIN_NAME)
        named = self.named(name)
        if named is not None:
            raise AlreadyExists(f"a domain named {name!r} exists (d{named})", "another name")

    def named(self, name: str) -> int | None:
        """Find the domid of the living domain of that name; None: there is none."""
        return self._names.get(name)

    def rename(self, domain: Domain, name: str) -> None:
        """Call a living domain otherwise, and save it. Raises BadArgument, AlreadyExists: it cannot be called so."""
        if name == domain.name:
            return
        self.check_name(name)
        del self._names[domain.name]
        domain.name = name
        self._names[name] = domain.domid
        domain.save_identity()

    def retire(self, domain: Domain) -> None:
        """Free the name of a destroyed domain, and drop its notice of messages."""
        del self._names[domain.name]
        self.woken.pop(domain.domid, None)

    def remove(self, domain: Domain) -> None:
        """Remove a domain that holds no page, and its tables."""
        assert domain.tot_pages == 0, f"d{domain.domid} vanishes with {domain.tot_pages} pages"
        self.save_birth(domain.domid, -self.births)
        if domain.domid:
            self._resting[domain.domid] = None
        self.image.drop(f"domain.{domain.domid}.")
        self.image.drop_section(Kind.DOMAIN, domain.domid)
        del self.domains[domain.domid]
        if domain.state is DomainState.ZOMBIE:
            self.vanished.append(domain.domid)

    def ascending(self) -> list[Domain]:
        """List the domains by number."""
        return [self.domains[domid] for domid in sorted(self.domains)]
