"""Mechanisms of the daemons that can be switched off one by one, to show that the simulation notices their absence."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from xbd.client.lease import why_lost
from xbd.control import step
from xbd.control.agent import Agent
from xbd.control.agent_share import AgentShare
from xbd.control.domain_record import DomainRecord
from xbd.control.rate_limit import TokenBucket
from xbd.daemons import hypervisor
from xbd.daemons.runtime import lock, sockets, state_files, state_lock, state_manifest
from xbd.daemons.runtime.deadlines import Deadlines
from xbd.daemons.runtime.listener import Listener
from xbd.daemons.runtime.log_sink import LogSink
from xbd.daemons.runtime.state_dir import StateDir
from xbd.daemons.xenstore_file import StoreFile
from xbd.domain import DomainInfo
from xbd.errors import DamagedState
from xbd.lab.simulation.switches import NOTHING, SWITCHES, Switch, constant, execute_repeats, instead
from xbd.machine import provision
from xbd.policy.plugin import Answer, ask
from xbd.protocol.backoff import Backoff
from xbd.protocol.session import Session
from xbd.storage.image import Image
from xbd.storage.undo import Rewound
from xbd.xenstore import saved
from xbd.xenstore.bridge import Bridge
from xbd.xenstore.store import Store


@contextmanager
def _unguarded(*args: object) -> Iterator[None]:
    """Guard nothing."""
    del args
    yield


def _write_unguarded(self: LogSink, encoded: bytes) -> int:
    return self.writer(encoded)


def _whose_ever_log(original: Callable[..., Any]) -> Callable[..., Any]:
    return lambda path, told: original(path, replace(told, log_id=0))


def _without_undoing(self: StateDir) -> Rewound:
    self.undo.clear()
    return Rewound(0, [])


def _judge_by_the_first(original: Callable[..., Any]) -> Callable[..., Any]:
    seen: dict[str, DomainInfo] = {}
    return lambda self, now: original(self, seen.setdefault(now.life, now))


def _close_only(self: Listener) -> None:
    self.everything.cancel()
    sockets.close(self.bound)


def _restore_anything(original: Callable[[bytes], Store]) -> Callable[[bytes], Store]:
    def restore(save: bytes) -> Store:
        try:
            return original(save)
        except DamagedState:
            return Store()

    return restore


def _ask_unguarded(original: Callable[..., Answer]) -> Callable[..., Answer]:
    def unguarded(*asked: object) -> Answer:
        answer = original(*asked)
        assert not answer.trouble, answer.trouble
        return answer

    return unguarded


DAEMON_SWITCHES: Final[Mapping[str, Switch]] = {
    "closed-listener": Switch(
        "a task that waits for a socket that was closed ends the daemon", [(sockets.end_waiting, NOTHING)]
    ),
    "log-sink": Switch(
        "a log that cannot be written ends the daemon", [(LogSink.write_now, instead(_write_unguarded))]
    ),
    "state-json": Switch(
        "a host whose state.json is missing is taken for a new one",
        [(state_lock.refuse_strange, NOTHING), (state_manifest.check_marks, NOTHING)],
    ),
    "checksums": Switch("what was changed between two lives is used", [(state_files.read_checksums, NOTHING)]),
    "whose-log": Switch("the log of another host is used", [(state_files.check_log, _whose_ever_log)]),
    "manifest": Switch(
        "a file that is nobody's is in a state directory, and its host is served",
        [(state_manifest.check_marks, NOTHING)],
    ),
    "room-first": Switch("what is read whole has no place on the disk", [(Image.allocate_once, NOTHING)]),
    "lives-in-store": Switch(
        "a store's connection goes on as that of another domain of its number",
        [(Bridge.is_another, constant(answer=False))],
    ),
    "fresh-judgement": Switch(
        "a target in the store is judged by a limit of before", [(Bridge.judge, _judge_by_the_first)]
    ),
    "report-anew": Switch(
        "a hypervisor that has restarted has no report of a guest that is idle", [(Agent.report_anew, NOTHING)]
    ),
    "silent": Switch(
        "a guest whose agent has stopped is shown as running", [(DomainRecord.is_silent, constant(answer=False))]
    ),
    "lease": Switch("who reserves memory does not see that its holder is gone", [(why_lost, constant(""))]),
    "lock": Switch("two daemons share a directory", [(lock.take, NOTHING)]),
    "agent-shares": Switch(
        "each of several agent processes plays every guest", [(AgentShare.holds, constant(answer=True))]
    ),
    "deadlines": Switch(
        "an agent's deadline that was set to an earlier time comes at the later one", [(Deadlines.overtake, NOTHING)]
    ),
    "rations": Switch("a guest's socket is accepted from without end", [(TokenBucket.wait_s, constant(0.0))]),
    "back-off": Switch("who lost the hypervisor tries without a pause", [(Backoff.next_s, constant(0.0))]),
    "policy-guard": Switch("a policy that fails ends autoballoon", [(ask, _ask_unguarded)]),
    "policy-bounds": SWITCHES["policy-bounds"],
    "redemption": SWITCHES["redemption"],
    "answer-window": Switch("a call that is sent again is done again", [(Session.answer_again, execute_repeats)]),
    "refusals": Switch(
        "a create for which something is lacking ends the daemon",
        [(provision.refused, instead(_unguarded)), (step.is_lack, constant(answer=False))],
    ),
    "start-refusals": Switch(
        "a start for which something is lacking ends in a traceback",
        [(hypervisor.refused_if_unusable, instead(_unguarded))],
    ),
    "undo": Switch(
        "half of a step stays when the hypervisor is dropped", [(StateDir.roll_back, instead(_without_undoing))]
    ),
    "patience": Switch("a client that never reads keeps its place", limits={"toolstack_patience_s": math.inf}),
    "places": Switch("more hold a place than there are", limits={"reservers": 10_000}),
    "stale-sockets": Switch(
        "a socket that a daemon left which was killed keeps the next one out", [(sockets.remove_stale, NOTHING)]
    ),
    "socket-files": Switch("a socket's file stays when it is closed", [(Listener.close, instead(_close_only))]),
    "store-damage": Switch("a damaged store is taken for an empty one", [(saved.restore, _restore_anything)]),
    "store-save": Switch("what is written into the store is not saved", [(StoreFile.save, NOTHING)]),
}
