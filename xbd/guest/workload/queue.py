"""Programs that wait for memory: who asked first gets it first, and who has waited for too long ends."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Queue:
    """What was asked for and is not there yet; *patience_s*: who has waited for so long gets nothing any more.

    Attributes: *pages*: what is waited for; *waited*: since it was last taken, for each time at which something was
    asked for, (that time, how long until all of it was there or given up).
    """

    patience_s: float
    pages: int = 0
    waited: list[tuple[float, float]] = field(default_factory=list)
    _asked: deque[tuple[float, int]] = field(default_factory=deque)

    def wait(self, lacking_pages: int, now_s: float) -> int:
        """Note that so many pages are lacking now, of all that is asked for; returns how many are given up."""
        if not self.patience_s:
            return lacking_pages
        if lacking_pages > self.pages:
            self._asked.append((now_s, lacking_pages - self.pages))
            self.pages = lacking_pages
        else:
            self._take(self.pages - lacking_pages, now_s)
        given_up = sum(pages for since_s, pages in self._asked if now_s - since_s >= self.patience_s)
        self._take(given_up, now_s)
        return given_up

    def _take(self, pages: int, now_s: float) -> None:
        """Let the first have *pages*, or give them up."""
        self.pages -= pages
        while pages:
            since_s, asked = self._asked.popleft()
            if asked > pages:
                self._asked.appendleft((since_s, asked - pages))
                return
            pages -= asked
            self.waited.append((since_s, now_s - since_s))

    def end(self, now_s: float) -> int:
        """Let nobody wait any more; returns how many pages were waited for."""
        pages = self.pages
        self._take(pages, now_s)
        return pages

    def take_waited(self) -> list[tuple[float, float]]:
        """Return *waited*, and begin it anew."""
        waited, self.waited = self.waited, []
        return waited
