"""The table of the autoballoon daemon's methods, on `autoballoon.sock` beside `hypervisor.sock`."""

from collections.abc import Mapping
from typing import Final

from xbd.domain import COUNT, DOMID
from xbd.protocol.methods import HOST_NAME, SPEAKS, VERSION_SPOKEN, Method, map_of, pages
from xbd.protocol.policy_status import DETAILS
from xbd.shapes import COUNTS, Part, Schema, array_of, choice, optional, text

_RESERVATION: Final[Schema] = {
    **map_of(
        state=Part(choice(("none", "pending", "held", "failed")), "none: there is no reservation, and no other key"),
        name=Part(text(), "its name"),
        pages=pages("how much"),
        cannot_free=Part(COUNTS, "where it failed: needed_pages, and possible_pages, the most there could be"),
        uncooperative={**array_of(DOMID.schema), "description": "where it failed: who does not give memory up"},
    ),
    "required": ["state"],
}
_VERDICTS: Final[Schema] = {
    "type": "object",
    "additionalProperties": {"enum": ["willing", "stuck", "uncooperative", "unable"]},
    "description": "by domid",
}
_EXCLUDED: Final[Schema] = map_of(excluded=array_of(text().schema))
AUTOBALLOON_METHODS: Final[Mapping[str, Method]] = {
    "hello": Method("Agree on the version.", {"version": VERSION_SPOKEN}, map_of(version=SPEAKS, host=HOST_NAME)),
    "reserve": Method(
        "Free memory and hold it free until this connection ends; one reservation for each connection.",
        {"pages": pages("how much, in whole superpages")},
        _RESERVATION,
    ),
    "reservation": Method("Describe this connection's reservation.", answer=_RESERVATION),
    "exclude": Method(
        "Leave a domain out from now on: its target and limit stay what others set.",
        {"life": Part(text(), "its UUID")},
        _EXCLUDED,
    ),
    "include": Method("Govern a domain again.", {"life": Part(text(), "its UUID")}, _EXCLUDED),
    "status": Method(
        "Describe how the policy judges each domain, and all reservations.",
        answer=map_of(
            domains=_VERDICTS,
            details=DETAILS,
            reservations=array_of(_RESERVATION),
            excluded=array_of(text().schema),
            headroom_pages=Part(COUNT, "free memory that is never handed out"),
            balance=Part(text(), "the policy's name"),
            trouble=Part(optional(text()), "why the policy is not asked any more, or nil: it is"),
        ),
    ),
}
