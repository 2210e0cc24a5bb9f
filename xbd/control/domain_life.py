"""How a toolstack has guests boot, pause and stop, and what their agents say to it."""

from typing import Final

from xbd.abi import REBOOT
from xbd.control.domain_record import DomainRecord
from xbd.control.host_state import HostState
from xbd.domain import CRASHED, DOM0, MAX_PAUSES, SHUTDOWN
from xbd.errors import BadArgument, HypercallError, NotPermitted

# For so long a guest that reboots shows as stopped: toolstacks look at a domain when they hear that something has happened.
REBOOT_AFTER_S: Final = 1.0


class DomainLife(HostState):
    """The part of a host that boots guests, pauses, stops and renames them; called in steps."""

    def _not_dom0(self, domid: int | str, ended: str) -> DomainRecord:
        record = self.record(self.machine.find(domid))
        if record.domid == DOM0:
            raise NotPermitted(
                f"d{DOM0} is the control domain and cannot be {ended}", "a guest; end the host with its daemon"
            )
        return record

    def _shutdown(self, domid: int | str, reason: str) -> dict[str, object]:
        record = self._not_dom0(domid, "shut down")
        if record.state in (SHUTDOWN, CRASHED) and reason == REBOOT:
            raise BadArgument(f"d{record.domid} has stopped already", "a guest that runs; `xbd start` boots this one")
        record.shutdown_asked = True
        if not record.stopped:
            record.shutdown_reason = reason
        record.save()
        if record.agent:
            record.notify("shutdown")
        else:
            self.stopped(record)
        return {}

    def _rename(self, domid: int | str, name: str) -> dict[str, object]:
        record = self.record(self.machine.find(domid))
        if record.domid == DOM0:
            raise NotPermitted(f"d{DOM0} is the control domain and keeps its name", "a guest")
        if name != record.name:
            self.machine.rename(record.domid, name)
            before, record.name = record.name, name
            self._event("renamed", record, before=before)
        return {}

    def _start(self, domid: int | str) -> dict[str, object]:
        record = self.record(self.machine.find(domid))
        if record.agent and not record.stopped:
            raise BadArgument(f"d{record.domid} runs", "a domain whose guest has stopped, or has no agent")
        record.autostart = True
        self._boot_again(record)
        return {}

    def _boot_again(self, record: DomainRecord) -> None:
        """Let an agent boot the guest anew; its last one has gone, whatever it said."""
        record.left = True
        record.begin_again()
        record.save()
        self._event("started", record)

    def _reboot(self, now: float) -> list[float]:
        """Boot the guests again that have stopped for that, some time after; returns when to call this again."""
        due = []
        for record in self._records.values():
            if not record.is_rebooting:
                record.reboot_due_s = None
                continue
            if record.reboot_due_s is None:
                record.reboot_due_s = now + REBOOT_AFTER_S
            if now < record.reboot_due_s:
                due.append(record.reboot_due_s)
            else:
                self._boot_again(record)
        return due

    def _pause(self, domid: int | str) -> dict[str, object]:
        record = self._not_dom0(domid, "paused")
        if record.pauses == MAX_PAUSES:
            raise HypercallError(
                f"d{record.domid} was paused {MAX_PAUSES} times", "to unpause it first", errno="EOVERFLOW"
            )
        return self._set_pauses(record, record.pauses + 1)

    def _unpause(self, domid: int | str) -> dict[str, object]:
        record = self.record(self.machine.find(domid))
        if not record.is_paused:
            raise BadArgument(f"d{record.domid} is not paused", "a domain that `xbd pause` has paused")
        return self._set_pauses(record, record.pauses - 1)

    def _set_pauses(self, record: DomainRecord, pauses: int) -> dict[str, object]:
        is_news = record.is_paused != (pauses > 0)
        record.pauses = pauses
        record.save()
        if is_news:
            # It said nothing while it was paused, or little.
            record.heard_at_s = self.now_s()
            record.notify("paused", paused=record.is_paused)
            self._event("paused" if record.is_paused else "unpaused", record)
        return {"pauses": pauses}

    def stopped(self, record: DomainRecord) -> None:
        """Note that a guest has stopped, as it was asked."""
        if record.shutdown_asked and not record.stopped:
            record.stopped = True
            record.save()
            self._event("shutdown", record, reason=record.shutdown_reason)

    def leaving(self, record: DomainRecord) -> None:
        """Note that an agent stops although its guest has not crashed: another agent may boot it."""
        record.left = True
        record.save()
