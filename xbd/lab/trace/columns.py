"""The columns of a trace: what each is, and what its numbers must be."""

from typing import Final

from xbd.guest.workload.trace import ORDERS

TIME: Final = "t_s"
TOTAL, FREE, CACHE = REQUIRED = ("total_pages", "free_pages", "page_cache_pages")
SUPERFRAMES: Final = "free_superframes"
# The time of the sample as UTC. It stands last and ends with a Z: a row that does not is torn.
UTC: Final = "utc"
UTC_END: Final = "Z"

# Memory of a kind, in pages of 4 KiB, with its line of /proc/meminfo.
MEMORY: Final = {
    CACHE: "Cached",
    "available_pages": "MemAvailable",
    "anon_pages": "AnonPages",
    "buffers_pages": "Buffers",
    "shmem_pages": "Shmem",
    "slab_pages": "Slab",
    "unreclaimable_slab_pages": "SUnreclaim",
    "page_table_pages": "PageTables",
    "kernel_stack_pages": "KernelStack",
}
SWAPPED: Final = "swapped_pages"
LISTED, MANAGED, BALLOONED = OF_ZONEINFO = ("listed_pages", "managed_pages", "ballooned_pages")
# Counts since the machine was booted, with their lines of /proc/vmstat; the second name is that of a kernel before 5.9.
COUNTS: Final = {
    "faults": ("pgfault",),
    "major_faults": ("pgmajfault",),
    "refaults_anon": ("workingset_refault_anon",),
    "refaults_file": ("workingset_refault_file", "workingset_refault"),
}
# How long some, or all, programs waited for memory since the machine was booted, in microseconds.
PRESSURE: Final = {"psi_some_us": "some", "psi_full_us": "full"}
# What only rises, until the machine is booted anew.
COUNTERS: Final = (*COUNTS, *PRESSURE)
# All that a trace can have between its time and UTC, in the order in which it is written.
NUMBERS: Final = (
    TOTAL,
    FREE,
    SUPERFRAMES,
    *MEMORY,
    SWAPPED,
    *ORDERS,
    *OF_ZONEINFO,
    *COUNTERS,
)
# Those of them that are pages, and no more than there are.
PAGES: Final = (FREE, *MEMORY, SWAPPED, *OF_ZONEINFO)
