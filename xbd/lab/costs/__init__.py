"""What runs would cost on real machines: counts of primitives, prices from files, and the one applied to the other.

Read `counts` first (what a run counts), then `prices` (a price file) and `bill` (processor seconds from both). `published`
runs what was measured elsewhere, and compares. `presets/` are the price files that come with xbd; `shell/` reads them.
"""
