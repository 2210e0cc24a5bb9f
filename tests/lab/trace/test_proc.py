"""What a row of a trace has of what /proc says, and what is left out where it says less."""

import pytest

from xbd.errors import TraceError
from xbd.guest.workload.trace import ORDERS, parse_trace
from xbd.lab.trace.columns import NUMBERS
from xbd.lab.trace.proc import BUDDYINFO, MEMINFO, PSI, VMSTAT, ZONEINFO, machine_row, missing
from xbd.lab.trace.table import header_text, row_text

TEXTS = {
    BUDDYINFO: "Node 0, zone  DMA32 2 0 0 0 0 0 0 0 0 1 3\nNode 0, zone Normal 5 1 0 0 0 0 0 0 0 0 1\n",
    MEMINFO: "MemTotal: 400000 kB\nMemFree: 19000 kB\nMemAvailable: 30000 kB\nBuffers: 40 kB\nCached: 4000 kB\n"
    "SwapTotal: 8000 kB\nSwapFree: 4000 kB\nAnonPages: 400 kB\nShmem: 16 kB\nSlab: 80 kB\nSUnreclaim: 40 kB\n"
    "KernelStack: 8 kB\nPageTables: 4 kB\n",
    ZONEINFO: "        managed  90000\n  pagesets\n              count:    7\n              count:    60\n",
    VMSTAT: "nr_free_pages 4617\npgfault 90\npgmajfault 3\nworkingset_refault_anon 0\nworkingset_refault_file 12\n",
    PSI: "some avg10=0.00 avg60=0.00 avg300=0.00 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=66\n",
}


def test_a_row_is_what_the_files_of_proc_say() -> None:
    """Zones and processors are added up, kB become pages of 4 KiB, and all columns are there, in their order."""
    row = machine_row(TEXTS)

    assert tuple(row) == NUMBERS
    assert row["free_pages"] == 2 + 5 + 2 + 512 + 4 * 1024
    assert row["free_superframes"] == 1 + 4 * 2
    assert (row["total_pages"], row["page_cache_pages"], row["slab_pages"]) == (100_000, 1000, 20)
    assert (row["order0"], row["order10"], row["listed_pages"], row["managed_pages"]) == (7, 4, 67, 90_000)
    assert row["ballooned_pages"] == 10_000
    assert (row["faults"], row["major_faults"], row["refaults_file"]) == (90, 3, 12)
    assert (row["psi_some_us"], row["psi_full_us"], row["swapped_pages"]) == (77, 66, 1000)
    assert missing(row) == {}


@pytest.mark.parametrize("file", [BUDDYINFO, ZONEINFO, VMSTAT, PSI])
def test_what_a_kernel_does_not_say_is_left_out(file: str) -> None:
    """And told by its file; the allocator's free memory is known without free blocks, too."""
    row = machine_row({name: text for name, text in TEXTS.items() if name != file})

    assert list(missing(row)) == [file]
    assert row["free_pages"] == 4617


def test_a_kernel_before_5_9_counts_refaults_of_files_alone() -> None:
    """Under the name that they had then."""
    row = machine_row({**TEXTS, VMSTAT: "pgfault 90\npgmajfault 3\nworkingset_refault 12\n"})

    assert row["refaults_file"] == 12
    assert missing(row) == {VMSTAT: ["refaults_anon"]}


def test_what_a_balloon_has_taken_is_nobodys_demand() -> None:
    """It is in no free block, and told apart; who plays the trace leaves it to the balloon."""
    row = machine_row(TEXTS)
    trace = parse_trace(header_text(row) + row_text(0, list(row.values()), 0) + "\n", "t.csv")

    assert row["free_pages"] == sum(row[order] << at for at, order in enumerate(ORDERS))
    assert trace.anon_pages.tolist() == [100_000 - 10_000 - 4617 - 1000]
    assert trace.wear == 1 - 9 * 512 / 4617


@pytest.mark.parametrize(
    ("zones", "page_bytes", "orders"),
    [
        ("Node 0, zone Normal 3 1\n", 4096, {"order0": 3, "order1": 1}),
        ("Node 0, zone Normal 3 1 0 0 0 0 0 0 0 0 2 5 1\n", 4096, {"order0": 3, "order1": 1, "order10": 2 + 2 * 5 + 4}),
        ("Node 0, zone Normal 3 1 0 0 0 0 0 0 0 0 2\n", 16384, {"order2": 3, "order3": 1, "order10": 4 * 2}),
    ],
)
def test_other_kernels_blocks_are_told_in_those_of_a_trace(zones: str, page_bytes: int, orders: dict[str, int]) -> None:
    """Fewer orders, larger ones, larger pages: the same memory in blocks of 4 KiB to 4 MiB."""
    row = machine_row({**TEXTS, BUDDYINFO: zones, ZONEINFO: ""}, page_bytes)

    assert {order: row[order] for order in ORDERS if row[order]} == orders
    assert row["free_pages"] == sum(count << int(order[5:]) for order, count in orders.items())


def test_without_the_least_there_is_no_trace() -> None:
    """A kernel that does not say how much memory there is, and is free or cache, is refused in a sentence."""
    for line in ("MemTotal", "MemFree", "Cached"):
        with pytest.raises(TraceError, match=f"/proc/meminfo: no line {line}"):
            machine_row({**TEXTS, MEMINFO: TEXTS[MEMINFO].replace(f"{line}:", "Other:")})
