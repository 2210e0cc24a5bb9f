"""The arena: policies compete for the memory of hosts that are the same but for the policy.

Read `guests` first (what guests want, second by second), then `cell` (one run), `scenarios` (the known failures of
policies), `plan` (the file) and `page` (what comes out). It runs on the machinery of `xbd.lab.experiments`.
"""
