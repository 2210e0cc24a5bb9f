"""The process in which a stranger's policy runs: it is told what it is, then shown snapshots, and answers each.

It is started by `policy_process`, and speaks with it on its standard input and what was its standard output: messages of
MessagePack, each with its length before it. The policy's state stays here. What the policy prints goes nowhere, it gets
no more memory than `MEMORY_BYTES`, and an alarm ends it if a step takes much longer than its parent would wait: so it is
gone even if its parent was killed.
"""

import os
import resource
import signal
import struct
import sys
from typing import Any, BinaryIO, Final

import msgpack  # type: ignore[import-untyped]  # it has no annotations

from xbd.config.policies import make_policy
from xbd.daemons.runtime.outside import calls
from xbd.errors import XbdError
from xbd.policy.model import DomainSnapshot, GuestReport, Snapshot
from xbd.policy.plugin import ask

# A policy looks at some numbers of each domain; libraries reserve a good deal of addresses that they never use.
MEMORY_BYTES: Final = 4 << 30
LENGTH: Final = struct.Struct(">I")
# Ten times what the parent waits for a step, and more than it waits for a start.
ALARM_S: Final = 30


def read_snapshot(raw: dict[str, Any]) -> Snapshot:
    """Read a snapshot that `dataclasses.asdict` has written."""
    domains = tuple(DomainSnapshot(**{**domain, "guest": GuestReport(**domain["guest"])}) for domain in raw["domains"])
    return Snapshot(**{**raw, "domains": domains})


def _receive(stream: BinaryIO) -> Any:  # noqa: ANN401 - whatever the parent says
    """Read a message; None: the parent has gone."""
    head = stream.read(LENGTH.size)
    return msgpack.unpackb(stream.read(LENGTH.unpack(head)[0])) if len(head) == LENGTH.size else None


def _send(stream: BinaryIO, message: dict[str, object]) -> None:
    packed = msgpack.packb(message)
    stream.write(LENGTH.pack(len(packed)) + packed)
    stream.flush()


def main() -> None:
    """Be the process, until the parent has gone."""
    stdin, stdout = sys.stdin.buffer, os.fdopen(calls.duplicate(1), "wb")
    os.dup2(calls.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.alarm(ALARM_S)
    told = _receive(stdin)
    sys.path += [place for place in told["path"] if place not in sys.path]
    try:
        policy = make_policy(told["name"], told["settings"])
    except XbdError as error:
        _send(stdout, {"trouble": str(error)})
        return
    _send(stdout, {"ready": True})
    own: object = None
    while True:
        signal.alarm(0)
        told = _receive(stdin)
        if told is None:
            return
        signal.alarm(ALARM_S)
        answer = ask(policy, None if told["anew"] else own, read_snapshot(told["snapshot"]), told["now"])
        own = answer.own
        targets = [[each.domid, each.pages, each.reason, each.urgent] for each in answer.targets]
        _send(stdout, {"trouble": answer.trouble, "targets": targets})


if __name__ == "__main__":
    main()
