"""The domains of a host: by number and by name, and what the world is still to be told of them."""

from xbd.abi import DomainType
from xbd.errors import BadArgument, NoSuchDomain
from xbd.machine.domain import Domain, DomainState
from xbd.machine.image import Image


class Registry:
    """The domains, zombies included.

    Attributes: *domains* by domid; *births*: how many there have been; *woken*: who has got messages, *vanished*: which
    zombies are gone, since somebody last asked, in that order.
    """

    def __init__(self, image: Image) -> None:
        self.image = image
        self.domains: dict[int, Domain] = {}
        self.births = 0
        self.woken: dict[int, None] = {}
        self.vanished: list[int] = []
        self._names: dict[str, int] = {}

    def add(self, domain: Domain) -> None:
        """Enter a new domain."""
        self.domains[domain.domid] = domain
        self._names[domain.name] = domain.domid

    def domain(self, domid: int) -> Domain:
        """Find a domain, or what is left of one. Raises NoSuchDomain."""
        try:
            return self.domains[domid]
        except KeyError:
            raise NoSuchDomain(f"no domain has domid {domid}", "one of `xbd list`") from None

    def living(self, domid: int) -> Domain:
        """Find a domain that is no zombie. Raises NoSuchDomain."""
        domain = self.domain(domid)
        if domain.state is DomainState.ZOMBIE:
            raise NoSuchDomain(
                f"d{domid} was destroyed; {domain.tot_pages} of its pages are still mapped by other domains",
                "a domain that lives; this one vanishes when those let go",
            )
        return domain

    def is_born(self, domid: int, birth: int) -> bool:
        """Say whether the domain of that number and birth still lives."""
        domain = self.domains.get(domid)
        return domain is not None and domain.birth == birth and domain.state is not DomainState.ZOMBIE

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

    def named(self, name: str) -> int | None:
        """Find the domid of the living domain of that name; None: there is none."""
        return self._names.get(name)

    def bury(self, domain: Domain) -> None:
        """Let others have a domain's name; nobody is to be told of its messages any more."""
        del self._names[domain.name]
        self.woken.pop(domain.domid, None)

    def remove(self, domain: Domain) -> None:
        """Let a domain that holds nothing vanish with its tables."""
        assert domain.tot_pages == 0, f"d{domain.domid} vanishes with {domain.tot_pages} pages"
        self.image.drop(f"domain.{domain.domid}.")
        del self.domains[domain.domid]
        if domain.state is DomainState.ZOMBIE:
            self.vanished.append(domain.domid)

    def ascending(self) -> list[Domain]:
        """List the domains by number."""
        return [self.domains[domid] for domid in sorted(self.domains)]
