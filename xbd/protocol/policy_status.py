"""What the autoballoon daemon's `status` says of each domain: a part of the table of the protocol (`methods`)."""

from typing import Final

from xbd.domain import COUNT
from xbd.shapes import Part, Schema, choice, optional, record, text

_MAYBE_PAGES: Final = optional(COUNT)
DETAILS: Final[Schema] = {
    "type": "object",
    "additionalProperties": record(
        {
            "life": Part(text(), "of which domain this is said"),
            "verdict": Part(choice(("willing", "stuck", "uncooperative", "unable")), "how it is judged"),
            "aim_pages": Part(COUNT, "the target that its progress is judged by"),
            "goal_pages": Part(COUNT, "what it should hold"),
            "least_pages": Part(_MAYBE_PAGES, "what it refused to go below, or nil"),
            "most_pages": Part(_MAYBE_PAGES, "what it refused to go above, or nil"),
            "rests_s": Part(COUNT, "in how many seconds it is asked again for what it refused"),
            "kept": Part(
                choice(("moved", "at-goal", "headroom", "threshold", "interval", "two-phases", "unable", "stuck")),
                "why its target was left alone, if it was",
            ),
            "reason": Part(optional(text()), "why it should hold that, as the policy says, or nil"),
        }
    ),
    "description": "by domid",
}
