"""The hypervisor daemon: one machine behind Unix sockets.

Everything is decided by `Controller` and the endpoints; this module binds sockets, admits peers, and ends
in order: stop accepting, let peers finish what they have sent, audit, leave. `hypervisor.sock` is
the toolstack's, `domains/<domid>.sock` each domain's, made and removed with it. A service manager may
pass the toolstack's socket (`xbd.daemons.runtime.activation`); that one stays when the daemon goes.
"""

import os
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import trio

from xbd.client.runtime_dir import check_socket_path, hypervisor_socket
from xbd.control.controller import Controller
from xbd.daemons.domain_sockets import PASSED_SOCKET_S_GROUP, HostSockets, check_descriptors
from xbd.daemons.host_file import HostFile
from xbd.daemons.recorder import RecordedMachine
from xbd.daemons.runtime import log_sink, sockets
from xbd.daemons.runtime.activation import take_passed_socket
from xbd.daemons.runtime.check_in import SOON_S, CheckIn
from xbd.daemons.runtime.disk_gate import DiskGate
from xbd.daemons.runtime.nurseries import plain_errors
from xbd.daemons.runtime.outside import calls
from xbd.daemons.runtime.peers import Alarm
from xbd.daemons.runtime.service import Service, run_service
from xbd.daemons.runtime.state_dir import StateDir
from xbd.errors import ConfigError, DamagedState, HypercallError, OutOfResources
from xbd.machine import Machine
from xbd.replaceable import replaceable
from xbd.units import counted, format_pages

_log = structlog.get_logger(__name__)

# Peers that read have their answers long before; one that does not is not waited for.
SHUTDOWN_GRACE_S: Final = 2.0
# When agents are watched again, if there was nothing left to watch with.
AGAIN_S: Final = 1.0


async def serve(
    machine: Machine,
    runtime_dir: Path,
    *,
    name: str = "host",
    group: str | None = None,
    dom0: Mapping[str, object] | None = None,
    domains: Sequence[Mapping[str, object]] = (),
    stop: trio.Event | None = None,
    passed: socket.socket | None = None,
    service: Service | None = None,
    state: StateDir | None = None,
    task_status: trio.TaskStatus[Controller] = trio.TASK_STATUS_IGNORED,
) -> list[str]:
    """Serve *machine* until *stop* is set (or for ever); `started` hands out its `Controller`.

    A machine that was recovered brings its domains; then neither *dom0* nor *domains* are created.

    Args:
        machine: owned by the daemon from here on.
        runtime_dir: made when missing; its lock keeps a second daemon out.
        name: the host's name, as `hello` and `host` tell it.
        group: who else than this user and root may use the toolstack's socket.
        dom0: parameters of the `create` that makes the control domain; None: a host without one.
        domains: parameters of `create` calls to be carried out, after that, before anybody is let in.
        stop: set by who wants it to end.
        passed: the toolstack's socket, if somebody else has bound it, and keeps it.
        service: told how things stand.
        state: where the machine's state is saved; it is closed in the end.
        task_status: trio's.

    Returns:
        What a last audit found; empty when all is well.

    Raises:
        ConfigError: another daemon runs there, a socket cannot be bound, or others could replace it.
        HypercallError: one of the domains cannot be created.
    """
    check_descriptors(machine, len(domains) + (dom0 is not None), saved=state is not None)
    check_socket_path(hypervisor_socket(runtime_dir))
    if passed is not None and group is not None:
        raise ConfigError(hypervisor_socket(runtime_dir), "group", PASSED_SOCKET_S_GROUP)
    lock = sockets.lock_runtime_dir(runtime_dir, group)
    stop = trio.Event() if stop is None else stop
    service = service or Service()
    host_sockets = HostSockets(runtime_dir, state)
    try:
        host = host_sockets.host = _make_host(machine, name, host_sockets, state)
        host.why_guests_wait = host_sockets.why_guests_wait
        sockets.remove_leftovers(runtime_dir / "domains")
        with plain_errors():
            async with host_sockets.turns.served(), trio.open_nursery() as nursery:
                host_sockets.nursery = nursery
                _people(host, dom0, domains, state)
                if state is not None:
                    with refused_if_unusable(state):
                        state.begin()
                        add_what_is_new(host, state)
                host_sockets.open_toolstack(group, passed)
                _log.info(
                    "hypervisor_ready",
                    socket=str(hypervisor_socket(runtime_dir)),
                    domains=len(machine.living_domains()),
                )
                await _until(stop, host, service, host_sockets.disk_gate, task_status)
                service.manager.stopping("letting peers finish, then a last audit")
                host_sockets.finish()
                nursery.cancel_scope.deadline = trio.current_time() + SHUTDOWN_GRACE_S
    except BaseException:
        # Nothing that was saved has changed, unless the host was ready.
        if state is not None:
            state.close(in_order=False)
        raise
    finally:
        host_sockets.close_all()
        lock.release()
    violations = _last_audit(host)
    if isinstance(machine, RecordedMachine):
        machine.end_recording()
    if state is not None:
        state.close(in_order=not violations)
    _log.info("hypervisor_stopped", violations=violations)
    return violations


@replaceable
@contextmanager
def refused_if_unusable(state: StateDir | None) -> Iterator[None]:
    """Turn what is wrong with a saved state into what a daemon says when it cannot start. Raises ConfigError."""
    where = "the saved state" if state is None else state.path
    try:
        yield
    except DamagedState as error:
        raise ConfigError(where, "", f"the saved host cannot be used: {error}") from error
    except HypercallError as error:
        raise ConfigError(where, "", f"the saved host cannot be taken up: {error}") from error
    except OSError as error:
        raise ConfigError(where, "", f"cannot hold the host: {error.strerror}") from error


def add_what_is_new(host: Controller, state: StateDir) -> None:
    """Give a host that an earlier version saved what that did not have; for checks there may be no room, which is logged."""
    try:
        # Who could still take up a directory of the format before would write words and no checks.
        if state.has_manifest:
            host.add_checks()
    except OutOfResources as error:
        _log.error("content_words_unchecked", reason=str(error), effect="the next daemon tries again")
    host.give_uuids()


def _make_host(machine: Machine, name: str, host_sockets: HostSockets, state: StateDir | None) -> Controller:
    with refused_if_unusable(state):
        times = {"clock": calls.wall_clock, "monotonic": trio.current_time}
        return Controller(
            machine, **times, name=name, sockets=host_sockets, seed=uuid.uuid4(), console=log_sink.console()
        )


def _last_audit(host: Controller) -> list[str]:
    """Audit a host that ends; that there was no memory for it is found, too."""
    try:
        return host.audit()
    except (OSError, MemoryError) as error:
        return [f"the last audit could not be made: {error or 'no memory is left'}"]


def _people(
    host: Controller, dom0: Mapping[str, object] | None, domains: Sequence[Mapping[str, object]], state: StateDir | None
) -> None:
    """Make a new host's domains, or take up a recovered one's. Raises HypercallError, ConfigError."""
    if host.is_restored:
        with refused_if_unusable(state):
            host.restore()
    else:
        if dom0 is not None:
            with host.step():
                host.create_dom0(dom0)
        for params in domains:
            with host.step():
                host.call("create", params)


async def _until(
    stop: trio.Event,
    host: Controller,
    service: Service,
    disk_gate: DiskGate | None,
    task_status: trio.TaskStatus[Controller],
) -> None:
    """Wait for *stop*; meanwhile the manager is told how things stand, and that they move."""
    with _rung_by(host) as alarm:
        async with service.ready(lambda: describe(host), alarm.wait) as nursery:
            task_status.started(host)
            nursery.start_soon(_watch_agents, host)
            if disk_gate is not None:
                nursery.start_soon(disk_gate.watch)
            await stop.wait()


@contextmanager
def _rung_by(host: Controller) -> Iterator[Alarm]:
    """Have an alarm that rings whenever something has happened on a host."""
    alarm = Alarm()
    host.subscribers.add(alarm.ring)
    try:
        yield alarm
    finally:
        host.subscribers.discard(alarm.ring)


async def _watch_agents(host: Controller) -> None:
    """Let the host look whose agents have died, whenever something has happened or it is time."""
    with _rung_by(host) as alarm, CheckIn("watch the agents").watched() as check_in:
        while True:
            try:
                with host.step():
                    deadline = host.tick(trio.current_time())
            except OutOfResources as error:
                _log.error("agents_not_watched", reason=str(error), again_in_s=AGAIN_S)
                deadline = trio.current_time() + AGAIN_S
            check_in.here()
            # It looks at times where nothing happens, so that one can see that it does.
            latest = trio.current_time() + SOON_S / 2
            with trio.move_on_at(latest if deadline is None else min(deadline, latest)):
                await alarm.wait()


def describe(host: Controller) -> str:
    """Say in a line how a host is."""
    domains, agents = host.population()
    counts = host.machine.statistics()
    free, whole = format_pages(counts.free_frames), format_pages(counts.frames)
    return f"{counted(domains, 'domain')}, {counted(agents, 'agent')} connected; {free} of {whole} free"


async def run(
    machine: Machine,
    runtime_dir: Path,
    *,
    name: str = "host",
    group: str | None = None,
    dom0: Mapping[str, object] | None = None,
    domains: Sequence[Mapping[str, object]] = (),
    host_file: HostFile | None = None,
    state: StateDir | None = None,
    supervised: bool = False,
) -> int:
    """Be the daemon: serve until SIGTERM or SIGINT; returns the exit code (1: the last audit found something).

    A SIGHUP reads *host_file* again. A service manager is told by what its environment variables say.

    Raises:
        ConfigError, HypercallError: it cannot start; see `serve`.
    """
    passed = take_passed_socket(os.environ, os.getpid(), hypervisor_socket(runtime_dir))
    stop = trio.Event()
    serving: Controller | None = None
    is_complete = trio.Event()
    completing = trio.CancelScope()

    async def start(service: Service) -> int:
        nonlocal serving
        violations: list[str] = []

        async def served(task_status: trio.TaskStatus[Controller]) -> None:
            served_by = partial(serve, machine, runtime_dir, name=name, group=group, dom0=dom0, domains=domains)
            violations.extend(
                await served_by(stop=stop, passed=passed, service=service, state=state, task_status=task_status)
            )

        async with trio.open_nursery() as nursery:
            serving = await nursery.start(served)
            with completing:
                if host_file is not None:
                    host_file.begin(serving)
                    if serving.is_restored:
                        await host_file.reload(serving)
            is_complete.set()
        return 1 if violations else 0

    async def reload() -> None:
        await is_complete.wait()
        if host_file is None or serving is None:
            _log.warning("nothing_to_reload", reason="this host was started with --memory, without a host file")
        else:
            await host_file.reload(serving)

    def end(why: str) -> None:
        _log.info("stop_asked", signal=why)
        # No guest of the host file is created any more.
        completing.cancel()
        stop.set()

    return await run_service(start, reload=reload, stop=end, supervised=supervised)
