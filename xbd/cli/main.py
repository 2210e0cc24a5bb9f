"""The `xbd` command: its subcommands, each imported only when it is asked for."""

from typing import Final

import click

import xbd
from xbd.cli.common import LazyGroup, socket_option

# name: (where it is, what it does)
COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "create": ("xbd.cli.commands.domains:create_command", "Create a domain."),
    "destroy": ("xbd.cli.commands.life:destroy_command", "End domains at once."),
    "shutdown": ("xbd.cli.commands.life:shutdown_command", "Ask the guests of domains to stop."),
    "reboot": ("xbd.cli.commands.life:reboot_command", "Ask the guests of domains to stop, and boot others."),
    "start": ("xbd.cli.commands.life:start_command", "Boot domains whose guests have stopped."),
    "pause": ("xbd.cli.commands.life:pause_command", "Let the guests of domains do nothing for a while."),
    "unpause": ("xbd.cli.commands.life:unpause_command", "Let the guests of paused domains go on."),
    "rename": ("xbd.cli.commands.life:rename_command", "Call a guest otherwise."),
    "list": ("xbd.cli.commands.listings:list_command", "List the domains."),
    "info": ("xbd.cli.commands.inspect:info_command", "Tell all about the host or some domains."),
    "explain": (
        "xbd.cli.commands.inspect:explain_command",
        "Say why a domain holds what it holds, and not its target.",
    ),
    "domid": ("xbd.cli.commands.listings:domid_command", "Tell a domain's number."),
    "domname": ("xbd.cli.commands.listings:domname_command", "Tell a domain's name."),
    "uptime": ("xbd.cli.commands.listings:uptime_command", "Tell for how long guests have been running."),
    "vcpu-list": ("xbd.cli.commands.listings:vcpu_list_command", "List the virtual processors of domains."),
    "claims": ("xbd.cli.commands.listings:claims_command", "List what is outstanding of claims."),
    "sharing": ("xbd.cli.commands.listings:sharing_command", "List the pages of domains that others map."),
    "dmesg": ("xbd.cli.commands.listings:dmesg_command", "Print the last lines of the hypervisor's log."),
    "mem-set": ("xbd.cli.commands.memory:mem_set_command", "Set how much memory domains should hold."),
    "mem-max": ("xbd.cli.commands.memory:mem_max_command", "Set the limit of domains: what they may hold now."),
    "claim": ("xbd.cli.commands.memory:claim_command", "Promise a domain memory that it does not hold yet."),
    "offline": ("xbd.cli.commands.memory:offline_command", "Take memory of a node out of use."),
    "online": ("xbd.cli.commands.memory:online_command", "Take memory of a node into use again."),
    "guest-mode": ("xbd.cli.commands.life:guest_mode_command", "Change how guests behave, for tests."),
    "wait": ("xbd.cli.commands.domains:wait_command", "Wait until domains are at their targets, running or gone."),
    "top": ("xbd.cli.commands.top:top_command", "Watch the domains live."),
    "watch": ("xbd.cli.commands.watch:watch_command", "Write the host over time as CSV."),
    "map": ("xbd.cli.commands.frame_map:map_command", "Draw the host's frames: whose, whole, shattered or free."),
    "events": ("xbd.cli.commands.inspect:events_command", "Follow what happens on the host."),
    "audit": ("xbd.cli.commands.inspect:audit_command", "Recompute everything; exit 1 if anything does not hold."),
    "check": ("xbd.cli.commands.check:check_command", "Say what is wrong with host, autoballoon and experiment files."),
    "docs": ("xbd.cli.commands.docs:docs_command", "Show the documents: all pages, or one."),
    "protocol": ("xbd.cli.commands.protocol:protocol_command", "Print the protocol of the sockets, for programs too."),
    "up": ("xbd.cli.commands.daemons:up_command", "Run a whole host from one file, in the foreground."),
    "hypervisor": ("xbd.cli.commands.daemons:hypervisor_command", "Run the hypervisor daemon."),
    "guests": ("xbd.cli.commands.daemons:guests_command", "Run the agents of all domains that want one."),
    "guest": ("xbd.cli.commands.daemons:guest_command", "Run the agent of one domain."),
    "dump": ("xbd.cli.commands.state:dump_command", "Put a stopped host's state into one file."),
    "restore": ("xbd.cli.commands.state:restore_command", "Make a state directory of a dump."),
    "metrics": ("xbd.cli.commands.metrics:metrics_command", "Serve the host's figures for Prometheus."),
    "web": ("xbd.cli.commands.web:web_command", "Serve a page that shows the host while it works."),
    "autoballoon": ("xbd.cli.commands.autoballoon:autoballoon_command", "Run the policy that moves memory by itself."),
    "xenstored": (
        "xbd.cli.commands.xenstored:xenstored_command",
        "Run a XenStore that shows the host, for Xen's tools.",
    ),
    "xen": ("xbd.cli.commands.xen:xen_command", "Run Xen's own tools (xl, xentop) on this host."),
    "reserve": (
        "xbd.cli.commands.autoballoon:reserve_command",
        "Free memory and hold it, for a command or until Ctrl-C.",
    ),
    "replay": ("xbd.lab.replay.command:command", "Replay real guests' memory traces on an emulated host."),
    "trace": ("xbd.lab.trace.command:command", "Record, import, check, plot, cut and multiply memory traces."),
    "calibrate": ("xbd.lab.costs.command:command", "Measure this machine's memory, and write a file of prices."),
    "fidelity": ("xbd.lab.fidelity.command:command", "Measure the guest model against real guests' memory traces."),
    "rerun": ("xbd.lab.rerun.command:command", "Do again what a hypervisor recorded, and compare."),
    "demo": ("xbd.lab.demo.command:command", "Show the whole story in under a minute."),
    "bench": ("xbd.lab.bench.command:command", "Measure, always as a ratio in one run."),
    "simulate": ("xbd.lab.simulation.command:command", "Run everything through every fault, from one seed."),
    "experiment": (
        "xbd.lab.experiments.command:command",
        "Compare strategies over a grid of workloads, hosts and seeds.",
    ),
    "arena": ("xbd.lab.arena.command:command", "Let policies compete for the memory of the same hosts."),
    "soak": ("xbd.lab.soak.command:command", "Run a host of real processes through load and faults for a while."),
}


# What its help ends with, by command.
EXAMPLES: Final[dict[str, tuple[str, ...]]] = {
    "create": ("xbd create web1 --target 512m --maximum 2g --workload steady",),
    "destroy": ("xbd destroy 'web*'",),
    "shutdown": ("xbd shutdown web1 && xbd wait web1 --for shutdown",),
    "reboot": ("xbd reboot web1",),
    "start": ("xbd start web1",),
    "pause": ("xbd pause web1", "xbd pause 'web*'"),
    "unpause": ("xbd unpause web1",),
    "rename": ("xbd rename web1 web9",),
    "list": ("xbd list", "xbd list 'web*' --json"),
    "info": ("xbd info", "xbd info dom0", "xbd info --numa"),
    "explain": ("xbd explain web1", "xbd explain 'web*' --json"),
    "domid": ("xbd domid web1",),
    "domname": ("xbd domname 7",),
    "uptime": ("xbd uptime", "xbd uptime 'web*'"),
    "vcpu-list": ("xbd vcpu-list web1",),
    "claims": ("xbd claims",),
    "sharing": ("xbd sharing",),
    "dmesg": ("xbd dmesg",),
    "mem-set": ("xbd mem-set 'web*' db1 50% --wait", "xbd mem-set dom0 1g"),
    "mem-max": ("xbd mem-max web1 1g",),
    "claim": ("xbd claim big 32g", "xbd claim web1 4g@0 4g@1 2g", "xbd claim big none"),
    "offline": ("xbd offline 64m --node 1",),
    "online": ("xbd online 64m --node 1",),
    "guest-mode": ("xbd guest-mode web1 stuck", "xbd guest-mode 'web*' slow 10MiB/s"),
    "wait": ("xbd wait web1 web2", "xbd wait 'web*' --for gone --timeout 30"),
    "top": ("xbd top --sort calls", "xbd top 'web*' --once"),
    "watch": ("xbd watch --series host.csv", "xbd watch --moments 1"),
    "map": ("xbd map --by state", "xbd map --watch", "xbd map --png host.png"),
    "events": ("xbd events", "xbd events --no-follow --json"),
    "audit": ("xbd audit",),
    "check": ("xbd check /etc/xbd/host.toml && systemctl reload xbd-hypervisor",),
    "docs": ("xbd docs", "xbd docs protocol", "xbd docs contributing/testing"),
    "protocol": ("xbd protocol", "xbd protocol --json"),
    "up": ("xbd up configs/small.toml",),
    "hypervisor": ("xbd hypervisor --memory 16g", "xbd hypervisor --config /etc/xbd/host.toml"),
    "guests": ("xbd guests",),
    "guest": ("xbd guest web1",),
    "dump": ("xbd dump /var/lib/xbd host.dump",),
    "restore": ("xbd restore host.dump state && xbd hypervisor --memory 16g --state-dir state",),
    "metrics": ("xbd metrics --listen 127.0.0.1:9110",),
    "web": ("xbd web", "xbd web --open host.csv", "xbd web --listen unix:/run/xbd/web.sock --group xbd"),
    "autoballoon": (
        "xbd autoballoon --config configs/autoballoon.toml",
        "xbd autoballoon --config configs/autoballoon.toml --dry-run",
        "xbd autoballoon exclude web1",
    ),
    "xenstored": (
        "xbd xenstored --state-dir /var/lib/xbd-xenstored",
        "xbd xenstored --xenstore-socket /run/xenstored/socket",
    ),
    "xen": ("xbd xen xl list", "xbd xen --fail max_mem=ENOMEM:3 xl mem-set web1 512m", "xbd xen"),
    "reserve": ("xbd reserve 4g", "xbd reserve 4g xbd create big --target 4g"),
    "replay": (
        "xbd replay clang-vm0.csv clang-vm1.csv --verify",
        "xbd replay clang-vm0.csv --variant exchange --variant virtio",
        "xbd replay clang-vm0.csv --strategy linux-virtio --prices kvm-xeon6252",
        "xbd replay clang-vm0.csv --series vm0-series.csv --animate vm0.gif",
    ),
    "calibrate": ("xbd calibrate here.toml && xbd replay clang-vm0.csv --prices here.toml",),
    "fidelity": (
        "xbd fidelity clang-vm0.csv clang-vm1.csv",
        "xbd fidelity clang-vm0.csv --curve vm0.csv",
        "xbd fidelity --balloon",
    ),
    "trace": ("xbd trace record web.csv --every 1s --duration 1h", "xbd trace check web.csv"),
    "rerun": ("xbd rerun host.record", "xbd rerun host.record --set home_fill=never"),
    "demo": ("xbd demo", "xbd demo --page demo.html"),
    "bench": ("xbd bench --json",),
    "simulate": ("xbd simulate --seeds 200", "xbd simulate --seed 7 --switch-off answer-window --trace run.txt"),
    "experiment": (
        "xbd experiment configs/experiments/debate.toml",
        "xbd experiment configs/experiments/debate.toml --only stock --only full --trace clang-vm0.csv",
    ),
    "arena": (
        "xbd arena configs/experiments/arena.toml --out arena",
        "xbd arena configs/experiments/arena.toml --policy mom --overcommit 2",
    ),
    "soak": ("xbd soak --guests 100 --duration 10m", "xbd soak --seed 7 --without full-disk --json report.json"),
}


# xl's commands that ask for what an xbd host has not got, or has for Xen's own tools alone.
_OF_XL: Final = frozenset(
    [
        "block-attach",
        "block-detach",
        "block-list",
        "block-resize",
        "cd-eject",
        "cd-insert",
        "channel-list",
        "config-update",
        "console",
        "cpupool-cpu-add",
        "cpupool-cpu-remove",
        "cpupool-create",
        "cpupool-destroy",
        "cpupool-list",
        "cpupool-migrate",
        "cpupool-numa-split",
        "cpupool-rename",
        "debug-keys",
        "devd",
        "dump-core",
        "loadpolicy",
        "migrate",
        "network-attach",
        "network-detach",
        "network-list",
        "pci-attach",
        "pci-detach",
        "pci-list",
        "psr-cat-show",
        "psr-hwinfo",
        "qemu-monitor-command",
        "remus",
        "save",
        "sched-credit",
        "sched-credit2",
        "sched-null",
        "sched-rtds",
        "set-parameters",
        "shutdown-all",
        "sysrq",
        "tmem-list",
        "trigger",
        "usb-list",
        "usbdev-attach",
        "vcpu-pin",
        "vcpu-set",
        "vm-list",
        "vncviewer",
        "vtpm-list",
    ]
)


def _say_of_xl(name: str) -> str:
    """Say of a command of xl's what can be done instead."""
    return (
        f"; it is one of xl's: `xbd xen xl {name}` asks Xen's own tool, as far as this host has it"
        if name in _OF_XL
        else ""
    )


@click.group(
    "xbd",
    cls=LazyGroup,
    table=COMMANDS,
    examples=EXAMPLES,
    elsewhere=_say_of_xl,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(xbd.__version__, prog_name="xbd")
@socket_option
def main(socket_path: str | None) -> None:
    """A Xen host's memory side in user space: hypervisor, guests, toolstack.

    `xbd demo` shows it all; `xbd up configs/small.toml` starts a host, then `xbd list` in another terminal.
    `xbd docs` lists the documents.

    Sizes: a bare number is MiB; b, k, m, g, t in either case. Exit codes: 0 done, 1 the thing asked for
    failed, 2 wrong usage, 78 wrong configuration, 130 Ctrl-C. Errors are a sentence on stderr; what is
    printed is plain when it is piped, and JSON with --json.

    Completion: eval "$(_XBD_COMPLETE=bash_source xbd)", or zsh_source, or fish_source.
    """
    del socket_path  # the commands that connect look it up
