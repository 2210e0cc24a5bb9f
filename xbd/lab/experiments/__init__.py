"""Experiments: the same hosts and guests under every strategy, measured and compared.

Read `grid` first: what a cell is; it holds everything that its outcome depends on. `plan` reads a grid file into cells,
`cell` runs one (with `churn` and `meter`), with the same outcome in any process. `results` holds the outcomes; `tables`,
`gains`, `claims`, `report`, `plots` and `page` present them. `shell/` runs many cells: `runner` with a pool of `local`
processes or of a `cluster`, and a `store` of finished cells. `command` is `xbd experiment`.
"""
