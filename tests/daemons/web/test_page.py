"""The page in a real browser: what it shows is what the host says, by mouse and by keyboard, at any size, light and dark."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.browser import Browser, Page, needs_chromium, running_browser
from tests.processes import Xbd, running
from xbd.cli.map_view import kind_counts
from xbd.client import connect
from xbd.control.frames import KINDS, frames_of
from xbd.control.series import header, lines_of

pytestmark = [needs_chromium, pytest.mark.slow, pytest.mark.xdist_group("page")]
MARKUP = "<img src=x onerror=alert(1)>"
HOST = f"""
[host]
memory = "256m"
name = "shown"
[[guest]]
name = "web{{n}}"
count = 2
maximum = "64m"
target = "48m"
[[guest]]
name = "{MARKUP}"
maximum = "32m"
autostart = false
"""
MINUS = "\N{MINUS SIGN}"
IS_LIVE = "document.getElementById('status').textContent.startsWith('live')"


@contextmanager
def page_of(*arguments: str) -> Iterator[str]:
    """Run `xbd web`, for the length of a block; yields its address."""
    with running(*arguments, "--listen", "127.0.0.1:0") as web:
        yield web.wait_until_it_says("serving http").split()[1]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Run a browser for all tests."""
    with running_browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a host with two guests, and a domain whose name is markup."""
    directory = tmp_path_factory.mktemp("page")
    (directory / "host.toml").write_text(HOST)
    with running("up", str(directory / "host.toml"), "--runtime-dir", str(directory / "run")) as up:
        up.wait_until_it_says("guests are running")
        yield directory / "run"


@pytest.fixture(scope="module")
def url(run: Path) -> Iterator[str]:
    """Serve the host's page."""
    with page_of("--socket", str(run), "web") as url:
        yield url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    """Open the page; nothing may have gone wrong on it in the end."""
    page = browser.open(url)
    page.until(IS_LIVE)
    yield page
    assert page.errors == []
    page.close()


def settle(run: Path, name: str, pages: int) -> None:
    """Set a target, and wait until it is reached."""
    with connect(run) as client:
        client.set_target(name, pages)
        while client.info(name).tot_pages != pages:
            client.next_event(0.0)


LEGEND = "JSON.stringify([...document.querySelectorAll('#map-legend p')].map(one => ({...one.dataset})))"


def test_the_map_is_what_the_host_says(page: Page, run: Path) -> None:
    """Its counts by state and by owner are those of `frames`, before and after a guest was made smaller; the audit finds nothing."""
    settle(run, "web1", 12 * 256)
    for pages in (40 * 256 + 3, 30 * 256):
        settle(run, "web1", pages)
        with connect(run) as client:
            frames = frames_of(client.call("frames"))
            domid = client.info("web1").domid
            assert list(client.audit()) == []
        wanted = [{"kind": kind, "count": str(count)} for count, kind in kind_counts(frames)]
        page.until(f"{LEGEND}.startsWith({json.dumps(json.dumps(wanted, separators=(',', ':')))}.slice(0, -1))")
        owned = frames.owner == domid + 1
        whole, shattered = ((frames.kind[owned] == kind).sum() for kind in (1, 2))
        mine = [one for one in json.loads(page.read(LEGEND)) if one.get("domid") == str(domid)]
        assert mine == [{"domid": str(domid), "whole": str(whole), "shattered": str(shattered)}]


def test_the_map_is_walked_down_to_a_frame_and_back_by_keys(page: Page, run: Path) -> None:
    """Tab reaches it; arrows say whose each superframe is, Enter shows its 512 frames, Escape leads back."""
    with connect(run) as client:
        frames, names = frames_of(client.call("frames")), {one.domid: one.name for one in client.list()}
    for _ in range(20):
        if page.read("document.activeElement.id") == "map":
            break
        page.press("Tab")
    page.press("Home", "ArrowRight")
    whose = f"held by {names[int(frames.owner[1]) - 1]}" if frames.kind[1] == 2 else "one superpage of"
    assert page.text("#map-says").startswith(f"Superframe 1: {KINDS[frames.kind[1]]}")
    assert whose in page.text("#map-says")
    page.press("Enter")
    page.until("document.getElementById('map-where').textContent.includes('512 frames of superframe 1')")
    page.press("End")
    assert page.text("#map-says").startswith("Frame 511 of superframe 1: ")
    page.press("Escape")
    page.until("document.getElementById('map-where').textContent.startsWith('superframes 0 to 127')")
    page.click("#map", x=0.01, y=0.02)
    page.until("document.getElementById('map-where').textContent.includes('512 frames of superframe 0')")


def test_what_is_called_like_markup_is_text(page: Page, run: Path) -> None:
    """In the map's legend, in the table, and as one domain, with its reasons."""
    with connect(run) as client:
        domid = client.info(MARKUP).domid
    page.until(f"document.getElementById('map-legend').textContent.includes({json.dumps(MARKUP)})")
    page.read("location.hash = 'domains'")
    page.until(f"document.querySelector('.rows .name').textContent === {json.dumps(MARKUP)}")
    page.read(f"location.hash = 'domain/{domid}'")
    page.until(f"document.getElementById('domain-name').textContent === {json.dumps(f'{MARKUP} (d{domid})')}")
    assert page.read("document.querySelectorAll('img').length") == 0


def test_keys_alone_lead_from_the_filter_to_one_domain(page: Page) -> None:
    """`/` and letters filter, Tab goes to the table, arrows and Enter choose a domain; `1` leads back, `p` pauses and goes on."""
    page.press("/")
    page.until("document.activeElement.id === 'filter'")
    page.press(*"web2")
    page.until("document.getElementById('domain-count').textContent === '1 of 3 domains'")
    while page.read("document.activeElement.getAttribute('role')") != "table":
        page.press("Tab")
    page.press("ArrowDown", "Enter")
    page.until("document.getElementById('domain-name').textContent.startsWith('web2 ')")
    page.until("document.getElementById('domain-word').textContent.includes('worker state')")
    assert (
        page.read("document.getElementById('domain-word').closest('.word').textContent").count(
            "not checked by the host"
        )
        == 1
    )
    page.press("p")
    page.until("document.getElementById('status').textContent.startsWith('paused')")
    page.press("p", "1")
    page.until(IS_LIVE)
    assert not page.read("document.getElementById('view-host').hidden")


def test_two_moments_are_compared(page: Page, run: Path) -> None:
    """Scrubbed by keys: what a domain came to hold between them, and what the host has less, are what was set."""
    settle(run, "web2", 16 * 256)
    page.read("new Promise(done => setTimeout(done, 2500))")
    settle(run, "web2", 24 * 256)
    page.read("new Promise(done => setTimeout(done, 2500))")
    page.press("4")
    page.until("document.querySelectorAll('#view-time .rows .row:not([hidden])').length === 3")
    page.read("document.getElementById('moment-a').focus()")
    changed = "[...document.querySelectorAll('#view-time .rows .row:not([hidden])')].find(row => row.textContent.startsWith('web2')).querySelector('.held_change').textContent"
    page.press("End")
    page.until(f"{changed} === '0'")
    for _ in range(60):
        if page.read(f"{changed}") == "+8 MiB":
            break
        page.press("ArrowLeft")
        page.read("new Promise(done => setTimeout(done, 100))")
    assert page.read(changed) == "+8 MiB"
    cells = "JSON.stringify([...document.querySelectorAll('[data-key=free_pages] td')].map(one => one.textContent))"
    assert json.loads(page.read(cells))[2] == f"{MINUS}8 MiB"
    page.until("Number.parseInt(document.getElementById('map-changes').textContent) >= 4")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1200])
def test_every_view_fits(browser: Browser, url: str, width: int, *, dark: bool) -> None:
    """A narrow window scrolls downwards alone; colours follow the system, and text stands out from its ground."""
    page = browser.open(url, width=width, dark=dark)
    page.until(IS_LIVE)
    for view in ("host", "domains", "domain", "time"):
        page.read(f"location.hash = '{view}'")
        page.until(f"!document.getElementById('view-{view}').hidden")
        page.read("new Promise(done => setTimeout(done, 300))")
        assert page.read("document.documentElement.scrollWidth") <= width
    lightness = "(name => getComputedStyle(document.body)[name].match(/[0-9]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765)"
    ground, ink = (page.read(f"{lightness}('{name}')") for name in ("backgroundColor", "color"))
    assert (ground < 0.2 and ink > 0.8) if dark else (ground > 0.9 and ink < 0.2)
    assert page.errors == []
    page.close()


def host_file(directory: Path, count: int, more: str = "") -> None:
    """Describe a host of as many domains, which no agent plays."""
    guests = f'[[guest]]\nname = "web{{n}}"\ncount = {count}\nmaximum = "2m"\nautostart = false\n'
    (directory / "host.toml").write_text(f'[host]\nmemory = "2g"\nname = "many"\n{more}\n{guests}')


@contextmanager
def hypervisor(directory: Path) -> Iterator[Xbd]:
    """Run the hypervisor of the host that is described in *directory*."""
    paths = ("--config", str(directory / "host.toml"), "--runtime-dir", str(directory / "run"))
    with running("hypervisor", *paths) as daemon:
        daemon.wait_until_it_says("hypervisor_ready")
        yield daemon


def test_a_thousand_domains(browser: Browser, tmp_path: Path) -> None:
    """A few dozen rows are made, whichever are seen; all are sorted and filtered."""
    host_file(tmp_path, 1000)
    with hypervisor(tmp_path), page_of("--socket", str(tmp_path / "run"), "web") as url:
        page = browser.open(f"{url}#domains")
        page.until("document.getElementById('domain-count').textContent === '1,000 domains'")
        rows = "document.querySelectorAll('.rows .row')"
        assert page.read(f"{rows}.length") < 60
        page.click(".head [data-key=domid] button")
        page.read("document.querySelector('.scroller').scrollTop = 1e6")
        page.until(f"[...{rows}].some(row => row.firstChild.textContent === 'web1000')")
        assert page.read(f"{rows}.length") < 60
        page.read("document.getElementById('filter').focus()")
        page.press(*"d777")
        page.until("document.getElementById('domain-count').textContent === '1 of 1,000 domains'")
        assert page.errors == []
        page.close()


def test_the_page_outlives_the_hypervisor(browser: Browser, tmp_path: Path) -> None:
    """It says that there is none; that it is there; after a kill and a restart it goes on by itself, and says what is otherwise."""
    host_file(tmp_path, 3, 'state_dir = "state"')
    with page_of("--socket", str(tmp_path / "run" / "hypervisor.sock"), "web") as url:
        page = browser.open(f"{url}#domains")
        is_lost = "document.getElementById('status').textContent.includes('cannot be reached')"
        page.until(is_lost)
        with hypervisor(tmp_path) as daemon:
            page.until("document.getElementById('domain-count').textContent === '3 domains'")
            daemon.end(signal.SIGKILL)
        page.until(is_lost)
        with hypervisor(tmp_path), connect(tmp_path / "run") as client:
            page.until(IS_LIVE)
            client.destroy("web2")
            page.until("document.getElementById('domain-count').textContent === '2 domains'")
        assert page.errors == []
        page.close()


def test_a_file_is_opened(browser: Browser, tmp_path: Path) -> None:
    """Its runs are chosen, its first and last moments compared; there is nothing live on the page."""
    host = {"frames": 4096, "free_frames": 1024, "claimed_frames": 0, "free_superframes": 2, "shattered_superframes": 1}
    moments = [("stock", 0.0, 1024), ("stock", 60.0, 512), ("full", 0.0, 1024), ("full", 60.0, 256)]
    text = "".join(lines_of(run, t_s, host | {"free_frames": free}, []) for run, t_s, free in moments)
    (tmp_path / "series.csv").write_text(header() + text)
    with page_of("web", "--open", str(tmp_path / "series.csv")) as url:
        page = browser.open(url)
        change = "document.querySelector('[data-key=free_pages]')?.lastChild.textContent"
        page.until(f"{change} === '{MINUS}2 MiB'")
        page.read("document.querySelector('#view-time select').focus()")
        page.press("ArrowDown")
        page.until(f"{change} === '{MINUS}3 MiB'")
        assert page.read("[...document.querySelectorAll('nav a:not([hidden])')].length") == 1
        assert page.errors == []
        page.close()
