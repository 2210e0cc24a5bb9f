"""Limits, types of domains, and why operations stop: for everybody, also who asks for nothing and handles no arrays."""

from enum import StrEnum

# One hypercall of Linux's driver carries one page of frame numbers: 512 extents.
BATCH_EXTENTS = 512
# A turn is what one domain may do before the others get theirs: one batch of 4 KiB extents.
TURN_EXTENTS = 512
# What an order-9 extent that is not one leaf costs of a turn: 512 frames by batch, about 10 us.
TURN_COST_SHATTERED = 32
# Superpages that the single pages of a turn break, or put together again: each takes some 15 us the first time.
TURN_LEAVES = 32
# So much of a turn, in extents, one of them counts.
TURN_COST_LEAF = TURN_EXTENTS // TURN_LEAVES
# A caller may name more than a turn does (it is told BUDGET and goes on); 64 Ki bases are 512 KiB on the wire.
MAX_EXTENTS = 65_536
# load and store are memory accesses: as many words as one message holds gfns.
MAX_WORDS = 65_536
# Keeps a batch on the wire while another runs and a third waits; more only adds memory per guest.
MAX_IN_FLIGHT = 8
# What a multicall may carry: as many operations as one domain may have under way.
MULTICALL_CALLS = MAX_IN_FLIGHT
# What its operations name in one turn, all together: two batches, so that one way out and one back are a message.
MULTICALL_EXTENTS = 2 * TURN_EXTENTS
# Once they have broken or mended more superpages than half of a turn does, the next one waits for another turn.
MULTICALL_LEAVES = TURN_LEAVES // 2
# Xen's default: 64 frames of grant table, 512 entries of version 1 in each.
MAX_GRANTS = 32_768
# Xen's default: 1024 frames of maptrack, 256 entries in each; what one domain maps of others.
MAX_MAPPINGS = 262_144
# What Linux's virtio_balloon puts on its inflate or deflate queue at a time (VIRTIO_BALLOON_ARRAY_PFNS_MAX).
LIST_EXTENTS = 256
# A message is a ring's request: a few words and up to 32 grant references; one batch of references at most.
MAX_MESSAGE_WORDS = 512
# Room for 1,024 senders that have used up their share; untouched, it costs nothing.
INBOX_WORDS = 1 << 20
# What of it one sender may fill: some 30 requests of 32 pages, as many as a ring of Xen's block device has.
SENDER_WORDS = 1024
# Xen has 32,752 domids; so many sockets fit a process's descriptors (65,536) twice over.
MAX_DOMAINS = 32_752
# xl takes what XenStore takes; a line of `xbd list` is what counts here.
MAX_NAME_CHARS = 64
# What becomes of a guest whose agent dies: another boots it; its domain is destroyed; it stays to be looked at (xl.cfg, on_crash).
ON_CRASH = ("restart", "destroy", "preserve")
# As many processors as a translated guest of Xen can have.
MAX_VCPUS = 128
# Why a guest stops, in Xen's words; one that reboots is booted again.
POWEROFF, REBOOT = SHUTDOWN_REASONS = ("poweroff", "reboot")
# 16 GiB guests are 4 Mi gfns; 2 TiB is what a 32-bit count of 4 KiB pages in a zone can hold with room.
MAX_DOMAIN_PAGES = 1 << 29

# Four sockets, each split in two; as many as a domain's saved claims have room for.
MAX_NODES = 8


class Stop(StrEnum):
    """Why an operation stopped before its last extent."""

    BUDGET = "BUDGET"
    E2BIG = "E2BIG"
    ENOMEM = "ENOMEM"
    EEXIST = "EEXIST"
    ENOENT = "ENOENT"
    EBUSY = "EBUSY"
    EFAULT = "EFAULT"
    EACCES = "EACCES"
    ENOSPC = "ENOSPC"
    EBADF = "EBADF"
    EAGAIN = "EAGAIN"


class DomainType(StrEnum):
    """How a domain talks to its hypervisor: Xen's hypercalls (translated or not), or a virtio balloon."""

    PV = "pv"
    PVH = "pvh"
    VIRTIO = "virtio"
