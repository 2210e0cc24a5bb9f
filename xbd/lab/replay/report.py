"""The text output of `xbd replay`: one report, or a comparison of several; pure."""

from collections.abc import Sequence
from typing import Final

from xbd.lab.costs.prices import Prices
from xbd.lab.replay.replay import GuestReport, ReplayReport
from xbd.units import PAGE_BYTES, SUPER_PAGES, format_pages

_NAME_CHARS: Final = 44
_COLUMN_CHARS: Final = 20


def render(report: ReplayReport, elapsed_s: float) -> str:
    """Format one report."""
    hours, times = report.trace_s / 3600, report.trace_s / max(elapsed_s, 1e-9)
    lines = [
        f"strategy {report.strategy}, variant {report.variant}, seed {report.seed}, {len(report.guests)} guests, a host of {format_pages(report.host_pages)}",
        f"{hours:.2f} h of trace in {elapsed_s:.1f} s, {times:,.0f} times real time",
        f"{report.pages_allocated_and_freed / 1e6:,.0f} M pages allocated and freed, {report.samples} samples",
        "",
        f"{'guest':16} {'superpages':>10} {'mean':>7} {'free whole':>11} {'moved':>12} {'denied':>10}",
    ]
    for guest in report.guests:
        whole = guest.guest_free_superframes * SUPER_PAGES / max(guest.guest_free_pages, 1)
        lines.append(
            f"{guest.trace:16} {guest.superpage_coverage:10.1%} {guest.superpage_coverage_mean:7.1%} {whole:11.1%}"
            f" {guest.pages_moved:12,} {guest.pages_denied:10,}"
        )
    lines += ["", f"{'hypercalls':28} " + " ".join(f"{guest.trace:>14}" for guest in report.guests)]
    for kind in sorted({kind for guest in report.guests for kind in guest.hypercalls}):
        lines.append(f"{kind:28} " + " ".join(f"{guest.hypercalls.get(kind, 0):14,}" for guest in report.guests))
    lines += [
        "",
        f"host: {report.host_free_in_whole_superframes:.1%} of its free memory lies in whole superframes",
        f"content errors: {report.content_errors}; violations: {len(report.violations)}",
        *report.violations,
    ]
    return "\n".join(lines)


def render_prices(report: ReplayReport, prices: Prices) -> str:
    """Format what a replay that was counted costs."""
    lines = [
        f"variant {report.variant}, by the prices {prices.name}; slowdown is for each processor that is busy all the time",
        f"{'guest':16} {'guest cpu s':>12} {'host cpu s':>12} {'slowdown s':>12} {'traffic':>10} {'wait p99 s':>12} {'waits':>8}",
    ]
    for guest, counted in zip(report.guests, report.counted, strict=True):
        cost = counted.priced(prices.values())
        lines.append(
            f"{guest.trace:16} {cost['guest_cpu_s']:12,.3f} {cost['host_cpu_s']:12,.3f} {cost['slowdown_cpu_s']:12,.1f}"
            f" {format_pages(cost['traffic_bytes'] // PAGE_BYTES):>10} {cost['wait_p99_s']:12,.6f} {cost['waits']:8,}"
        )
    return "\n".join(lines)


def render_side_by_side(done: Sequence[tuple[ReplayReport, float]]) -> str:
    """Format reports on the same traces, each with its run time in seconds, as columns of one table."""
    reports = [report for report, _ in done]
    first = reports[0]
    where = f"{len(first.guests)} guests, a host of {format_pages(first.host_pages)}"
    lines = [
        f"strategy {first.strategy}, seed {first.seed}, {where}, {first.trace_s / 3600:.2f} h of trace",
        "",
        _row("", [report.variant for report in reports]),
    ]
    for at, guest in enumerate(first.guests):
        lines.append(f"{guest.trace}:")
        columns = [_guest_cells(report.guests[at]) for report in reports]
        lines += [_row(f"  {name}", [column[name] for column in columns]) for name in columns[0]]
    lines += [
        "host:",
        _row("  free memory in whole superframes", [f"{r.host_free_in_whole_superframes:.1%}" for r in reports]),
        _row("  content errors", [str(report.content_errors) for report in reports]),
        _row("  violations", [str(len(report.violations)) for report in reports]),
        _row("  seconds", [f"{elapsed_s:.1f}" for _, elapsed_s in done]),
    ]
    return "\n".join(lines + [violation for report in reports for violation in report.violations])


def _guest_cells(guest: GuestReport) -> dict[str, str]:
    """Return the compared figures of a guest, formatted, by name."""
    calls = {kind: count for kind, count in guest.hypercalls.items() if count}
    return {
        "superpages at the end": f"{guest.superpage_coverage:.1%}",
        "superpages, mean over time": f"{guest.superpage_coverage_mean:.1%}",
        "hypercalls": f"{sum(calls.values()):,}",
        "of them not done at once": f"{sum(n for kind, n in calls.items() if not kind.endswith(':done')):,}",
        "in-use pages moved": f"{guest.pages_moved:,}",
        "pages denied": f"{guest.pages_denied:,}",
        "migration by": guest.migration_way,
        "ballooned pages migrated": f"{guest.pages_migrated:,}",
        "half done": f"{guest.pages_half_done:,}",
        "batches that found no headroom": f"{guest.migrations_without_headroom:,}",
    }


def _row(name: str, cells: Sequence[str]) -> str:
    return (f"{name:{_NAME_CHARS}}" + "".join(f"{cell:>{_COLUMN_CHARS}}" for cell in cells)).rstrip()
