"""The balloon driver.

Read `worker` first (how a guest reaches its target), then `balloon` (the pages that it withholds) and `queues` (by size
and purpose). `transfers` sends lists of pages to the host, `backends` makes the commands; `migration` moves ballooned
pages, `foreign` hands out slots for other domains' pages, `exchanger` is a rival design to compare with.
"""
