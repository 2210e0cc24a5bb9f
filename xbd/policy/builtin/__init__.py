"""The policies that come with xbd, each an entry point of the group `xbd.policies`, as a stranger's would be.

What a module takes from another project is that project's numbers and rules, written down as facts; none of its code is
here. What the originals do beside that (talk to guests, set limits, leave out who does not move) the safety layer does.
"""
