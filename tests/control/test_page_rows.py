"""What the page is told of a domain: the host's figures, its reasons, and its guest's word kept apart."""

import json

from tests.cli.views import told
from xbd.control.page_rows import depends_on_host, domain_details, domain_row
from xbd.control.policy_status import PolicyStatus
from xbd.domain import read_domain

FULL = {"free_frames": 0, "claimed_frames": 0}


def test_a_row_says_why_it_is_not_at_its_target() -> None:
    """By the reason that `xbd explain` gives first; a domain that is at its target has none."""
    lacking = read_domain(told(tot_pages=512, target_pages=1024, max_pages=2048, agent=False, state="waiting"))
    content = read_domain(told(tot_pages=1024, target_pages=1024, max_pages=2048))

    assert domain_row(lacking, FULL)["code"] == "no-agent"
    assert depends_on_host(lacking)
    assert domain_row(content, FULL)["why"] == ""
    assert not depends_on_host(content)


def test_a_guest_s_word_is_kept_apart_and_cannot_break_anything() -> None:
    """Figures that make no sense are no demand; texts stay as they are, as texts; what JSON has not is written as text."""
    word = {"movable_pages": 10, "unmovable_pages": 5, "cache_pages": 3, "unmet_pages": "<b>", "worker_state": "<img>"}
    domain = read_domain(told(report={**word, "odd": float("nan")}))
    details = domain_details(domain, FULL, PolicyStatus(trouble="it is busy"))

    assert details["demand"] == 12
    assert details["reasons"][-1]["text"].endswith("not known: it is busy")
    assert details["word"]["worker_state"] == "<img>"
    assert details["word"]["odd"] == "nan"
    assert "NaN" not in json.dumps(details)
    assert domain_row(read_domain(told(report={"movable_pages": True})), FULL)["demand"] is None
