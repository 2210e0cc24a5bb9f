"""The error of the guest model against real guests' traces.

`curve` runs the model on a trace's demand and compares its free superframes with the trace's; `split` says where it is
wrong, `ablation` what each mechanism is worth; `command` is `xbd fidelity`. `shell.measure` makes a trace of the machine
at hand.
"""
