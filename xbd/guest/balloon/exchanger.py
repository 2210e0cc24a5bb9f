"""The rival design: a periodic worker that exchanges 512 ballooned single pages for one 2 MiB page.

Where compaction moves pages until a block of the balloon is whole, this worker leaves them where they
are: it takes a wholly free block from the guest's allocator and lets the host back 512 ballooned
single pages in place of it, in one exchange of unequal orders. The balloon then has one 2 MiB page
instead of 512 single ones, and the host gets a superframe back, if the block was a superpage. What the
single pages get are frames from anywhere, so their own superpages stay broken; and the host must have
512 free frames before it gets one back.

It is off by default; the strategy `worker` switches it on, to be measured against coalescing that needs
no thread.
Source: the periodic worker of the discussion of 2014 on the Xen developers' list.
"""

from functools import partial

from xbd.guest.balloon.backends import BackEnd
from xbd.guest.balloon.balloon import Balloon
from xbd.guest.procedures import Call, Procedure, carry_out
from xbd.guest.settings import DriverSettings
from xbd.guest.state import Clock, Directives
from xbd.units import SUPER_ORDER, SUPER_PAGES


class Exchanger:
    """The periodic worker of one guest.

    Attributes: *running*: it is at work. *blocks_exchanged*, *failures*: exchanges that the host did, and refused.
    """

    def __init__(
        self, balloon: Balloon, back_end: BackEnd, *, directives: Directives, settings: DriverSettings, clock: Clock
    ) -> None:
        self._balloon = balloon
        self._exchange = back_end.exchange_block
        self._directives = directives
        self._period_s = settings.exchange_worker_s
        self._most = settings.compaction_batches
        self._clock = clock
        self.enabled = self._period_s > 0 and self._exchange is not None and balloon.blocks is not None
        self.running = False
        self.blocks_exchanged = 0
        self.failures = 0
        self._look_at: float | None = None

    def due(self) -> bool:
        """Whether it is to be started now."""
        if not self.enabled or self.running:
            return False
        if self._balloon.pages.extents < SUPER_PAGES:
            self._look_at = None
            return False
        if self._look_at is None:
            self._look_at = self._clock.now + self._period_s
        return self._clock.now >= self._look_at

    def deadline(self) -> float | None:
        """Say when to look again; None while there are too few single pages."""
        return None if self.running else self._look_at

    def run(self) -> Procedure:
        """Exchange until too few single pages or no free block is left, the host refuses, or the turn is over."""
        self.running = True
        yield self._balloon.token
        for _ in range(self._most):
            if self._directives.stopping or self._balloon.pages.extents < SUPER_PAGES:
                break
            block = self._balloon.isolate_blocks(1)
            if not block.size:
                break
            pages = self._balloon.take(self._balloon.pages, SUPER_PAGES)
            assert self._exchange is not None, "an exchange was begun that the host does not offer"
            call = Call(partial(self._exchange, pages), block)
            yield from carry_out([call])
            if not call.done:
                self._balloon.settle_not_inflated(block, SUPER_ORDER)
                self._balloon.settle_not_deflated(pages, 0)
                self.failures += 1
                break
            self._balloon.settle_inflated(block, SUPER_ORDER)
            self._balloon.settle_deflated(pages, 0)
            self.blocks_exchanged += 1
        self._balloon.token.release()
        self._look_at = self._clock.now + self._period_s
        self.running = False
