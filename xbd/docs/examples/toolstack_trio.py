"""A toolstack in tasks: move memory from one domain to another while a third task tells what happens.

Run it so: `xbd up configs/small.toml & python toolstack_trio.py web1 web2 64`.
"""

import os
import sys

import trio
from click import echo

from xbd.client import Client, XbdError, find_socket, open_client

MIB_PAGES = 256
WITHIN_S = 60.0


async def move(client: Client, name: str, by_pages: int) -> None:
    """Change a domain's target, its limit first where it grows, and wait until it is there."""
    domain = await client.info(name)
    target_pages = domain.target_pages + by_pages
    if target_pages > domain.max_pages:
        await client.set_max(name, target_pages)
    await client.set_target(name, target_pages)
    with trio.fail_after(WITHIN_S):
        while domain.tot_pages != target_pages:
            await trio.sleep(0.1)
            domain = await client.info(name)


async def tell(client: Client) -> None:
    """Print the events of the host, those that it still keeps first."""
    async for event in client.events():
        echo(f"{event['event']} {event.get('name', '')}")


async def main(giver: str, taker: str, memory_mib: int) -> None:
    """Take memory from one, then give it to the other."""
    async with open_client(find_socket(None, os.environ), resume=True) as client, trio.open_nursery() as nursery:
        nursery.start_soon(tell, client)
        await move(client, giver, -memory_mib * MIB_PAGES)
        await move(client, taker, memory_mib * MIB_PAGES)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    try:
        trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except* XbdError as errors:
        sys.exit("; ".join(map(str, errors.exceptions)))
