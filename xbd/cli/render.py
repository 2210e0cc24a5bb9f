"""The text that commands print: values to lines; pure.

Layouts follow xl's where xl has one (`list`, `info`); figures in JSON are in pages, those in text in MiB
and larger units.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from xbd.cli.progress import Following, Outcome
from xbd.cli.tables import affinity, percent
from xbd.control.explain import hindrances
from xbd.domain import SILENT, DomainInfo
from xbd.text import printable
from xbd.units import MIB_PAGES, PAGE_BYTES, format_pages

# xl info: "%-22s : %s".
_KEY_WIDTH: Final = 22
_BAR_CHARS: Final = 20
# The balloon's queues, by the names that a guest's report has for what is on them.
_QUEUES: Final = {
    "queue of 2 MiB pages": "balloon_2m_pages",
    "queue of 4 KiB pages": "balloon_4k_pages",
    "queue of foreign pages": "slots",
}
# So many domains get a line each; of more, at most so many that did not get there, and a summary.
_LINES_EACH: Final = 16


def domain_details(domain: DomainInfo) -> list[str]:
    """Draw `xbd info NAME`."""
    pairs: dict[str, object] = {
        "name": printable(domain.name),
        "domid": domain.domid,
        **({"uuid": printable(domain.uuid)} if domain.uuid else {}),
        "type": domain.type,
        "state": domain.state,
        **({"shutdown_reason": domain.shutdown_reason} if domain.shutdown_reason else {}),
        "agent": "does not answer" if domain.state == SILENT else "connected" if domain.agent else "none",
        "vcpus": domain.vcpus,
        "memory": size(domain.tot_pages),
        "target": size(domain.target_pages),
        "minimum": size(domain.min_pages),
        "limit": size(domain.max_pages),
        "maximum": size(domain.static_max_pages),
        "superpages": f"{domain.leaves} leaves of 2 MiB",
        "superpage_coverage": percent(domain.superpage_coverage),
        "grants": domain.grants,
        "mapped_grants": domain.mapped_grants,
        "referenced_pages": domain.referenced_pages,
        "claimed": size(domain.claimed_pages),
        **(_by_node(domain) if len(domain.node_pages) > 1 else {}),
        "mode": domain.mode,
        "guest_settings": _in_one_line(domain.guest),
        "hypercalls": _in_one_line(domain.hypercalls),
        "extents_done": _in_one_line(domain.extents),
    }
    for reason in hindrances(domain):
        if reason.code == "cancelled":
            pairs["balloon"] = reason.text
    lines = key_values(pairs)
    if domain.reported:
        age = "" if domain.report_age_s is None else f", {domain.report_age_s:.0f} s ago"
        lines += ["", f"what its guest said of itself{age}:", *_queue_lines(domain.reported)]
        lines += key_values(domain.reported)
    return lines


def _by_node(domain: DomainInfo) -> dict[str, object]:
    """Say where a domain's memory should lie, where it lies, and what it claims there."""
    host_wide = domain.claimed_pages - sum(domain.node_claims)
    claims = [f"{format_pages(pages)}@{node}" for node, pages in enumerate(domain.node_claims) if pages]
    claims += [format_pages(host_wide)] if host_wide else []
    return {
        "nodes": affinity(domain),
        "memory_by_node": ", ".join(f"{node}: {format_pages(pages)}" for node, pages in enumerate(domain.node_pages)),
        "locality": percent(domain.locality),
        **({"claims": ", ".join(claims)} if claims else {}),
    }


def _queue_lines(report: Mapping[str, Any]) -> list[str]:
    """Draw the three queues of a balloon: 2 MiB pages, 4 KiB pages, and slots for other domains' pages."""
    queues = {name: report.get(field) for name, field in _QUEUES.items()}
    return key_values({name: size(pages) for name, pages in queues.items() if isinstance(pages, int)})


def host_details(host: Mapping[str, Any]) -> list[str]:
    """Draw `xbd info`: xl's words where there are any (total_memory and free_memory in MiB)."""
    settings = host.get("settings") or {}
    known = {"name", "version", "protocol", "frames", "free_frames", "free_in_whole_superframes", "settings"}
    known |= {"target_waits", "target_waits_s", "nodes"}
    pairs: dict[str, object] = {
        "host": host.get("name", ""),
        "xbd_version": host.get("version", ""),
        "protocol_version": host.get("protocol", ""),
        "total_memory": int(host["frames"]) // MIB_PAGES,
        "free_memory": int(host["free_frames"]) // MIB_PAGES,
        "free_in_whole_superframes": percent(float(host["free_in_whole_superframes"])),
        "xen_pagesize": PAGE_BYTES,
    }
    if reached := sum((host.get("target_waits") or {}).values()):
        pairs["targets_reached"] = f"{reached}, after {float(host['target_waits_s']) / reached:.2f} s on average"
    if len(host.get("nodes") or ()) > 1:
        pairs["nodes"] = len(host["nodes"])
    if not host.get("offline_frames"):
        known.add("offline_frames")
    pairs |= {key: entry for key, entry in host.items() if key not in known and entry is not None}
    pairs |= {key: _plain(entry) for key, entry in settings.items()}
    return key_values(pairs)


def key_values(pairs: Mapping[str, object]) -> list[str]:
    """Draw `key : value` lines as xl info does."""
    width = max((_KEY_WIDTH, *map(len, pairs)))
    return [f"{printable(key).ljust(width)} : {printable(_plain(entry))}".rstrip() for key, entry in pairs.items()]


def event_line(event: Mapping[str, Any]) -> str:
    """Draw one event."""
    rest = {key: entry for key, entry in event.items() if key not in ("number", "time", "event", "domid", "name")}
    who = f"{printable(str(event.get('name', '')))} (d{event['domid']})" if "domid" in event else ""
    return f"{event['number']:>6} {_when(event.get('time')):<20} {event['event']:<16} {who:<24} {_in_one_line(rest)}".rstrip()


def _when(time_s: object) -> str:
    """Write a time in UTC, as `date -u` does with `-Iseconds`; a daemon of an earlier version tells none."""
    return time.strftime("%FT%TZ", time.gmtime(time_s)) if isinstance(time_s, float) else "-"


def progress_lines(following: Sequence[Following], *, width: int, height: int) -> list[str]:
    """Draw how far domains have come, in at most *height* lines of *width* characters: the unsettled ones first."""
    done = sum(one.outcome is Outcome.REACHED for one in following)
    lines = [f"{done} of {len(following)} at their targets"]
    ongoing = sorted((one for one in following if one.outcome is not Outcome.REACHED), key=_least_done_first)
    room = max(height - 1, 0)
    if len(ongoing) > room:
        ongoing = ongoing[: max(room - 1, 0)]
    lines += [_progress_line(one) for one in ongoing]
    hidden = len(following) - done - len(ongoing)
    if hidden:
        lines.append(f"... and {hidden} more")
    return [line[:width] for line in lines[: max(height, 1)]]


def _least_done_first(one: Following) -> tuple[float, int]:
    return one.share_done, one.domid


def _progress_line(one: Following) -> str:
    filled = int(one.share_done * _BAR_CHARS)
    bar = "#" * filled + "." * (_BAR_CHARS - filled)
    held = f"{format_pages(one.tot_pages)} of {format_pages(one.target_pages)}"
    return f"{printable(one.name)[:24]:<24} [{bar}] {held:>22}  {one.outcome}"


def outcome_lines(following: Sequence[Following], *, waited: bool) -> list[str]:
    """Draw what became of a `mem-set`: each domain, or, of many, the first that did not get there and a summary."""
    good = (Outcome.REACHED,) if waited else (Outcome.MOVING, Outcome.REACHED)
    if len(following) <= _LINES_EACH:
        return [_outcome_line(one, waited=waited) for one in following]
    short = [one for one in following if one.outcome not in good]
    lines = [_outcome_line(one, waited=waited) for one in short[:_LINES_EACH]]
    if len(short) > _LINES_EACH:
        lines.append(f"... and {len(short) - _LINES_EACH} more; --json tells of all")
    done = "have reached their targets" if waited else "were told their targets"
    return [*lines, f"{len(following) - len(short)} of {len(following)} domains {done}"]


def _outcome_line(one: Following, *, waited: bool) -> str:
    head = f"{printable(one.name)}: target {format_pages(one.target_pages)}"
    if not waited and one.outcome in (Outcome.MOVING, Outcome.REACHED):
        return head
    if one.outcome is Outcome.REACHED:
        return f"{head}, reached"
    return f"{head}, {one.outcome} at {format_pages(one.tot_pages)}: {printable(one.reason) or 'still on its way'}"


def outcomes_json(
    following: Sequence[Following], asked_pages: Mapping[int, int], *, waited: bool
) -> list[dict[str, Any]]:
    """Make the JSON of a `mem-set`; *asked_pages* by domid, before rounding."""
    return [
        {
            "domid": one.domid,
            "name": one.name,
            "asked_pages": asked_pages[one.domid],
            "target_pages": one.target_pages,
            "tot_pages": one.tot_pages,
            "outcome": str(one.outcome) if waited or one.outcome is Outcome.REFUSED else "told",
            "reason": one.reason,
        }
        for one in following
    ]


def size(pages: int) -> str:
    """Write an amount of memory, with its exact number of pages."""
    return f"{format_pages(pages)} ({pages} pages)"


def _in_one_line(pairs: Mapping[str, object]) -> str:
    return " ".join(f"{key}={_plain(entry)}" for key, entry in pairs.items())


def _plain(entry: object) -> str:
    if isinstance(entry, bool):
        return "yes" if entry else "no"
    if isinstance(entry, float):
        return f"{entry:.6g}"
    if isinstance(entry, dict):
        return "{" + _in_one_line(entry) + "}"
    return str(entry)
