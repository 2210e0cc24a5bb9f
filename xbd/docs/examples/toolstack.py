"""A toolstack of its own: make a domain, halve it, wait until it is there, and destroy it.

Run it so: `xbd up configs/small.toml & python toolstack.py batch 256`.
"""

import sys
from collections.abc import Sequence

from click import echo

from xbd.client import BlockingClient, XbdError, connect

MIB_PAGES = 256


def wait_until_settled(client: BlockingClient, uuid: str) -> None:
    """Follow the host's events, old ones first, to the one that says that the domain holds its target."""
    for event in client.events():
        if event["event"] == "settled" and event["uuid"] == uuid:
            return


def main(name: str, memory_mib: int) -> None:
    """Make a domain of so much memory, halve it, and say what that took."""
    with connect() as client:
        domid = client.create(name, max_pages=memory_mib * MIB_PAGES, target_pages=memory_mib * MIB_PAGES)
        try:
            client.set_target(domid, memory_mib * MIB_PAGES // 2)
            wait_until_settled(client, client.info(domid).uuid)
            domain = client.info(domid)
            calls: Sequence[str] = [f"{count} {call}" for call, count in domain.hypercalls.items()]
            echo(f"{name} holds {domain.tot_pages // MIB_PAGES} MiB, {domain.superpage_coverage:.0%} in superpages")
            echo(f"that took {', '.join(calls)}")
        finally:
            client.destroy(domid)


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except XbdError as error:
        sys.exit(str(error))
