"""What is printed, to the letter."""

from tests.cli.views import MIB, domain
from xbd.cli import render, tables
from xbd.cli.progress import Following, Outcome


def text(lines: list[str]) -> str:
    """Join lines as they are printed, between two line ends."""
    return "\n" + "\n".join(lines) + "\n"


def test_list_has_xls_layout_and_more_columns() -> None:
    """Name, ID and Mem end where xl's do."""
    domains = [
        domain(),
        domain(
            domid=12, name="batch-with-a-long-name", tot_pages=300 * MIB, superpage_coverage=0.48777, state="waiting"
        ),
    ]
    assert (
        text(tables.domains_table(domains))
        == """
Name                                        ID   Mem Target  Limit State    Superpages
web1                                         1   512    512    512 running      100.0%
batch-with-a-long-name                      12   300    512    512 waiting       48.8%
"""
    )


def test_list_without_domains_is_its_header() -> None:
    """As with xl."""
    assert len(tables.domains_table([])) == 1


def test_list_makes_room_for_what_is_wide() -> None:
    """Columns grow; control characters in a name reach no terminal."""
    lines = tables.domains_table([domain(name="n" * 64, domid=123456, tot_pages=1 << 36), domain(name="a\x1b[2Jb")])
    assert lines[1].startswith("n" * 64 + " 123456 268435456")
    assert lines[2].startswith("a?[2Jb ")
    assert len({len(line) for line in lines}) == 1


def test_info_shows_a_domain_as_xl_info_shows_a_host() -> None:
    """What the guest says of itself stands apart: it need not be true."""
    seen = domain(
        report_age_s=3.2, report={"current_kb": 524288, "balloon_2m_pages": 1024, "balloon_4k_pages": 3, "slots": 40}
    )
    assert (
        text(render.domain_details(seen))
        == """
name                   : web1
domid                  : 1
type                   : pvh
state                  : running
agent                  : connected
vcpus                  : 1
memory                 : 512 MiB (131072 pages)
target                 : 512 MiB (131072 pages)
minimum                : 0 KiB (0 pages)
limit                  : 512 MiB (131072 pages)
maximum                : 512 MiB (131072 pages)
superpages             : 256 leaves of 2 MiB
superpage_coverage     : 100.0%
grants                 : 0
mapped_grants          : 0
referenced_pages       : 0
claimed                : 0 KiB (0 pages)
mode                   : normal
guest_settings         : strategy=full
hypercalls             : decrease:done=3
extents_done           : decrease=1024

what its guest said of itself, 3 s ago:
queue of 2 MiB pages   : 4 MiB (1024 pages)
queue of 4 KiB pages   : 12 KiB (3 pages)
queue of foreign pages : 160 KiB (40 pages)
current_kb             : 524288
balloon_2m_pages       : 1024
balloon_4k_pages       : 3
slots                  : 40
"""
    )


def test_info_of_the_host_has_xls_words() -> None:
    """Memory in MiB, one setting a line."""
    host = {
        "name": "small",
        "version": "0.1",
        "protocol": 1,
        "frames": 1 << 20,
        "free_frames": 1 << 18,
        "free_in_whole_superframes": 0.5,
        "domains": 3,
        "settings": {"home_fill": "always", "coalesce": True},
    }
    assert (
        text(render.host_details(host))
        == """
host                      : small
xbd_version               : 0.1
protocol_version          : 1
total_memory              : 4096
free_memory               : 1024
free_in_whole_superframes : 50.0%
xen_pagesize              : 4096
domains                   : 3
home_fill                 : always
coalesce                  : yes
"""
    )


def test_an_event_is_a_line() -> None:
    """Number, time, what, who, details; an event without a domain has none, one of an older daemon no time."""
    event = {"number": 7, "time": 1e9, "event": "target", "domid": 3, "name": "web1", "pages": 65536}
    told = "     7 2001-09-09T01:46:40Z target           web1 (d3)                pages=65536"
    assert render.event_line(event) == told
    assert render.event_line({"number": 8, "event": "stopped"}) == "     8 -                    stopped"


def following(number: int, held_mib: int, outcome: Outcome = Outcome.MOVING, reason: str = "") -> Following:
    """Follow webN from 512 to 256 MiB."""
    one = Following(number, f"web{number}", f"{number} web{number}", 512 * MIB, 256 * MIB, 0.0)
    one.tot_pages, one.outcome, one.reason = held_mib * MIB, outcome, reason
    return one


def test_progress_shows_the_least_done_first() -> None:
    """Those that have arrived are only counted."""
    lines = render.progress_lines(
        [following(1, 256, Outcome.REACHED), following(2, 320), following(3, 512, Outcome.STUCK)], width=90, height=20
    )
    assert (
        text(lines)
        == """
1 of 3 at their targets
web3                     [....................]     512 MiB of 256 MiB  stuck
web2                     [###############.....]     320 MiB of 256 MiB  moving
"""
    )


def test_progress_never_leaves_its_window() -> None:
    """Whatever the size of the terminal and the number of domains."""
    many = [following(number, 400) for number in range(100)]
    for height in range(1, 30):
        for width in (1, 10, 79):
            lines = render.progress_lines(many, width=width, height=height)
            assert len(lines) <= height
            assert max(map(len, lines)) <= width
    assert render.progress_lines(many, width=79, height=5)[-1] == "... and 97 more"


def test_what_became_of_a_few_is_told_of_each() -> None:
    """Reached, or why not."""
    some = [following(1, 256, Outcome.REACHED), following(2, 400, Outcome.STUCK, "its guest gives up no more")]
    assert (
        text(render.outcome_lines(some, waited=True))
        == """
web1: target 256 MiB, reached
web2: target 256 MiB, stuck at 400 MiB: its guest gives up no more
"""
    )
    assert render.outcome_lines([following(1, 512)], waited=False) == ["web1: target 256 MiB"]


def test_what_became_of_many_is_told_in_a_few_lines() -> None:
    """A thousand lines help nobody."""
    many = [following(number, 400, Outcome.STUCK, "no reason") for number in range(50)]
    lines = render.outcome_lines([*many, following(50, 256, Outcome.REACHED)], waited=True)
    assert len(lines) == 18
    assert lines[-2:] == ["... and 34 more; --json tells of all", "1 of 51 domains have reached their targets"]
    assert render.outcome_lines([following(n, 512) for n in range(20)], waited=False) == [
        "20 of 20 domains were told their targets"
    ]


def test_json_of_an_outcome_is_in_pages() -> None:
    """`told` where nobody waited for more."""
    one = following(1, 512)
    assert render.outcomes_json([one], {1: 65537}, waited=False) == [
        {
            "domid": 1,
            "name": "web1",
            "asked_pages": 65537,
            "target_pages": 65536,
            "tot_pages": 131072,
            "outcome": "told",
            "reason": "",
        }
    ]
    assert render.outcomes_json([one], {1: 1}, waited=True)[0]["outcome"] == "moving"
