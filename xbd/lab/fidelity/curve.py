"""The error of the guest model: free superframes under the demand of a real guest.

A trace has a real guest's demand, and how many whole free superframes its kernel had. The model gets the demand alone,
on a host with memory for all of it, so that no ballooning interferes; its free superframes are compared with the
trace's sample by sample. The error is also given as a ratio to that of the best constant, the median of the trace's
column, as a baseline.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import numpy as np

from xbd.abi import Frames
from xbd.errors import BadArgument, TraceError
from xbd.guest import Demand, GuestSettings
from xbd.guest.workload import Driven, Trace
from xbd.replaceable import replaceable
from xbd.testing.virtual_host import VirtualHost
from xbd.units import SUPER_PAGES, round_down


@dataclass(frozen=True, slots=True)
class Fidelity:
    """The distance of a curve from a trace's, in superframes; means are over the samples.

    *error*: mean absolute error, *error_share* the same as a share of all the guest's superframes; *constant_error*:
    that of the best constant, *constant*; *ratio*: error over constant_error, None where the constant is never wrong.
    *bias*: mean error with its sign, above 0 where the model has more whole superframes than the kernel had. *worst*:
    the largest error, with its sign, at *worst_at_s*.
    """

    trace: str
    samples: int
    superframes: int
    error: float
    error_share: float
    constant: float
    constant_error: float
    ratio: float | None
    bias: float
    worst: int
    worst_at_s: float

    def as_map(self) -> dict[str, object]:
        """Return it as a map for JSON."""
        return asdict(self)


@replaceable
def guest_of(trace: Trace) -> GuestSettings:
    """Make the settings of the guest that is to be like the trace's."""
    return GuestSettings(wear=trace.wear)


def model_curve(trace: Trace, seed: int) -> Frames:
    """Run the model on a trace's demand; returns its whole free superframes, (samples,) int64. Raises as `model_free`."""
    return whole(model_free(trace, seed))


def whole(free: Frames) -> Frames:
    """Count the whole free superframes of what `model_free` returns."""
    return free[:, -1] // SUPER_PAGES


def model_free(trace: Trace, seed: int, watch: Callable[[float], None] | None = None) -> Frames:
    """Run the model on a trace's demand; returns its free pages by the order of their piece, (samples, 10) int64.

    The last column are the pages in whole blocks. *watch* is called with the trace time after each sample. Raises
    TraceError for a guest that cannot exist.
    """
    blocks = -(-trace.total_pages // SUPER_PAGES)
    if trace.total_pages < SUPER_PAGES:
        raise TraceError(f"{trace.name}: total_pages is {trace.total_pages}, a guest has at least {SUPER_PAGES}")
    host = VirtualHost(blocks, seed=seed)
    domid = host.create(
        trace.name,
        max_pages=blocks * SUPER_PAGES,
        # Sizes are whole superframes; the few pages of a last, partial block stay ballooned.
        target_pages=round_down(trace.total_pages),
        gfn_count=trace.total_pages,
        settings=guest_of(trace),
        workload=Driven(),
    )
    return np.stack(list(_replayed(host, domid, trace, watch)))


def _replayed(host: VirtualHost, domid: int, trace: Trace, watch: Callable[[float], None] | None) -> Iterator[Frames]:
    samples = zip(trace.seconds.tolist(), trace.anon_pages.tolist(), trace.cache_pages.tolist(), strict=True)
    for now, anon_pages, cache_pages in samples:
        host.advance(now)
        host.send(domid, Demand(anon_pages, cache_pages))
        yield host.guest(domid).free_by_order()
        if watch is not None:
            watch(now)


def compare(trace: Trace, curve: Frames) -> Fidelity:
    """Measure how far *curve*, (samples,) int64 superframes, is from the trace's own column."""
    truth = real_curve(trace)
    if curve.size != truth.size:
        raise BadArgument(f"a curve of {curve.size} samples", f"{truth.size}, as {trace.name} has")
    errors = curve - truth
    constant = float(np.median(truth))
    error, constant_error = float(np.abs(errors).mean()), float(np.abs(truth - constant).mean())
    superframes = trace.total_pages // SUPER_PAGES
    worst = int(np.abs(errors).argmax())
    return Fidelity(
        trace=trace.name,
        samples=trace.samples,
        superframes=superframes,
        error=error,
        error_share=error / superframes,
        constant=constant,
        constant_error=constant_error,
        ratio=error / constant_error if constant_error else None,
        bias=float(errors.mean()),
        worst=int(errors[worst]),
        worst_at_s=float(trace.seconds[worst]),
    )


def real_curve(trace: Trace) -> Frames:
    """Return the trace's whole free superframes, (samples,) int64. Raises TraceError: it has no such column."""
    if not trace.free_superframes.size:
        raise TraceError(f"{trace.name}: line 1: the header has no column free_superframes to compare with")
    return trace.free_superframes


def render(found: list[Fidelity]) -> str:
    """Format the errors as a table."""
    lines = [
        f"{'free superframes':16} {'error':>7} {'of all':>7} {'constant':>9} {'ratio':>6} {'bias':>7} {'worst':>7}  at"
    ]
    for one in found:
        ratio = "-" if one.ratio is None else f"{one.ratio:.2f}"
        lines.append(
            f"{one.trace:16} {one.error:7.0f} {one.error_share:7.1%} {one.constant_error:9.0f} {ratio:>6} {one.bias:+7.0f}"
            f" {one.worst:+7}  {one.worst_at_s:.0f} s"
        )
    lines += [
        "",
        "error: mean distance of the model's count from the trace's, in superframes; constant: that of the best constant;",
        "ratio: one over the other; bias: the mean error with its sign (+: the model keeps more whole than the kernel did).",
    ]
    return "\n".join(lines)


def curve_rows(trace: Trace, curve: Frames) -> Iterator[str]:
    """Iterate over both curves as lines of CSV."""
    yield "t_s,trace,model"
    for now, truth, model in zip(trace.seconds.tolist(), real_curve(trace).tolist(), curve.tolist(), strict=True):
        yield f"{now},{truth},{model}"
