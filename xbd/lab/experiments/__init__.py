"""Experiments: the same hosts and guests under every strategy, measured side by side.

`plan` reads a grid file into cells (`grid`); a cell says all that its outcome depends on, so `cell` runs it anywhere
and gets the same. `local` and `cluster` run many, `store` keeps what is done, `results`, `report`, `claims`, `plots`
and `page` say what came of it. `xbd.lab.experiments.command` is the command around them.
"""
