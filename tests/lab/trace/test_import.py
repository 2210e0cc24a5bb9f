"""Taking over what others recorded: real files of sysstat and Prometheus, generated ones, and what is refused."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from xbd.cli.main import main
from xbd.errors import BadArgument, TraceError
from xbd.guest.workload import parse_trace
from xbd.lab.trace.columns import COUNTERS, NUMBERS, REQUIRED
from xbd.lab.trace.findings import findings
from xbd.lab.trace.mapping import Clock, import_csv, parse_mapping
from xbd.lab.trace.prometheus import import_prometheus
from xbd.lab.trace.sadf import import_sadf
from xbd.lab.trace.samples import Sample, make_trace
from xbd.lab.trace.table import parse_table

MADE_BY_TOOLS = Path(__file__).with_name("made_by_tools")
MAP = ["t_s=time", "total_pages=total*MiB", "free_pages=free*kB", "page_cache_pages=cached*%"]


def run(*arguments: str) -> Result:
    """Run the command."""
    return CliRunner().invoke(main, ["trace", "import", *arguments])


@pytest.mark.parametrize(
    ("kind", "file", "lacking"),
    [
        ("sadf", "sadf.json", "swapped_pages, psi_some_us, psi_full_us"),
        ("prometheus", "node_exporter.json", "swapped_pages"),
    ],
)
def test_real_files_of_real_tools_are_taken_over(kind: str, file: str, lacking: str, tmp_path: Path) -> None:
    """What sysstat 12.6.1, and Prometheus 2.42 with node_exporter 1.5, said of one machine: all is plausible, and what was not asked of them is told."""
    out = tmp_path / "out.csv"
    result = run(kind, str(MADE_BY_TOOLS / file), str(out))
    assert result.exit_code == 0
    assert result.stderr.startswith(f"{MADE_BY_TOOLS / file}: it does not say {lacking}, which are left out: ")
    assert result.stderr.count("\n") == 1
    table = parse_table(out.read_text(), "out.csv")
    assert findings(table) == []
    assert parse_trace(out.read_text(), "out.csv").samples == len(table.cells) > 5
    assert {*table.header} >= {*REQUIRED, "available_pages", "anon_pages", "slab_pages", "faults", "utc"}


def test_a_directory_of_answers_is_one_trace(tmp_path: Path) -> None:
    """One file for each metric, as a script asks for them, is as one of all; a directory without any is refused."""
    answer = json.loads((MADE_BY_TOOLS / "node_exporter.json").read_text())
    for number, series in enumerate(answer["data"]["result"]):
        one = {"status": "success", "data": {"resultType": "matrix", "result": [series]}}
        (tmp_path / f"{number}.json").write_text(json.dumps(one))
    for source, out in ((tmp_path, "a.csv"), (MADE_BY_TOOLS / "node_exporter.json", "b.csv")):
        assert run("prometheus", str(source), str(tmp_path / out)).exit_code == 0
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()
    (tmp_path / "empty").mkdir()
    assert "has no *.json in it" in run("prometheus", str(tmp_path / "empty"), str(tmp_path / "c.csv")).stderr


def test_two_tools_say_the_same_of_one_machine() -> None:
    """At the moments that both tell, to a hundredth of its memory."""
    by_utc: list[dict[str, Any]] = []
    for imported in (
        import_sadf((MADE_BY_TOOLS / "sadf.json").read_text(), "sadf"),
        import_prometheus({"p": (MADE_BY_TOOLS / "node_exporter.json").read_text()}, "p"),
    ):
        table = parse_table(imported.text, "t.csv")
        trace = parse_trace(imported.text, "t.csv")
        by_utc.append({row[-1]: int(anon) for row, anon in zip(table.cells, trace.anon_pages, strict=True)})
    both = by_utc[0].keys() & by_utc[1].keys()
    assert len(both) > 5
    assert all(abs(by_utc[0][utc] - by_utc[1][utc]) < 61_709 for utc in both)


_AMOUNTS = ("MemTotal", "MemFree", "Cached", "SwapTotal", "SwapFree")
numbers = st.fixed_dictionaries({
    "time": st.integers(1, 100), "free": st.integers(0, 4000), "cached": st.integers(1000, 6000), "faults": st.integers(0, 99),
})  # fmt: skip


@given(st.lists(numbers, min_size=1, max_size=10))
def test_generated_answers_of_prometheus_come_back(samples: list[dict[str, int]]) -> None:
    """Every number of every moment, in pages, and counters that fall are told."""
    now = 1_790_000_000
    values: dict[str, list[object]] = {name: [] for name in (*_AMOUNTS, "fault", "psi")}
    told: list[tuple[int, ...]] = []
    pressures: list[int] = []
    for sample in samples:
        now += sample["time"]
        swap = (("SwapTotal", 5000), ("SwapFree", sample["free"]))
        for name, number in (("MemTotal", 10_000), ("MemFree", sample["free"]), ("Cached", sample["cached"]), *swap):
            values[name].append([now, f"{number * 4096:e}"])
        values["fault"].append([now, str(sample["faults"])])
        values["psi"].append([now, f"{now / 1e3:.6f}"])
        pressures.append(now * 1000)
        told.append((sample["free"], sample["cached"], sample["faults"]))
    metrics = {f"node_memory_{name}_bytes": values[name] for name in _AMOUNTS}
    metrics["node_vmstat_pgfault"] = values["fault"]
    for kind in ("waiting", "stalled"):
        metrics[f"node_pressure_memory_{kind}_seconds_total"] = values["psi"]
    series = [{"metric": {"__name__": name, "instance": "a"}, "values": found} for name, found in metrics.items()]
    answer = {"status": "success", "data": {"resultType": "matrix", "result": series}}
    imported = import_prometheus({"a.json": json.dumps(answer)}, "a.json")
    table = parse_table(imported.text, "t.csv")
    assert (
        list(zip(*(table.numbers[name].tolist() for name in ("free_pages", "page_cache_pages", "faults")), strict=True))
        == told
    )
    assert table.numbers["swapped_pages"].tolist() == [5000 - free for free, _, _ in told]
    assert table.numbers["psi_some_us"].tolist() == pressures
    falls = sum(later[2] < before[2] for before, later in pairwise(told))
    assert len(imported.remarks) == falls


@given(st.lists(numbers, min_size=1, max_size=10), st.booleans())
def test_generated_output_of_sadf_comes_back(samples: list[dict[str, int]], old: bool) -> None:  # noqa: FBT001 - drawn
    """By newer and older versions' reckoning of used memory; rates become counts."""
    total, statistics = 40_000, []
    for second, sample in enumerate(samples):
        free, cached = sample["free"] * 4, sample["cached"] * 4
        used = total - free - (0 if old else cached)
        memory = {
            "memfree": free,
            "memused": used,
            "memused-percent": round(100 * used / total, 2),
            "buffers": 0,
            "cached": cached,
            "slab": 0,
            "swpused": 4 * second,
        }
        psi = {"psi-mem": {"some_avg": 2.5, "full_avg": 0.0}}
        stamp = {"date": "2026-11-28", "time": f"12:00:{second:02}", "utc": 1, "interval": 1}
        statistics.append(
            {"timestamp": stamp, "memory": memory, "psi": psi, "paging": {"fault": sample["faults"], "majflt": 0.0}}
        )
    imported = import_sadf(json.dumps({"sysstat": {"hosts": [{"statistics": statistics}]}}), "a.json")
    table = parse_table(imported.text, "t.csv")
    assert table.numbers["total_pages"].tolist() == [10_000] * len(samples)
    assert table.numbers["free_pages"].tolist() == [sample["free"] for sample in samples]
    assert table.numbers["faults"].tolist()[-1] == sum(sample["faults"] for sample in samples)
    assert table.numbers["swapped_pages"].tolist() == [*range(len(samples))]
    assert table.numbers["psi_some_us"].tolist() == [25_000 * (at + 1) for at in range(len(samples))]
    assert imported.remarks == ()


def test_counts_of_sadf_are_of_the_time_that_passed() -> None:
    """Samples 1.25 s apart, told as of one second each, lose nothing; what lies before a long gap is not made up."""
    memory = {"memfree": 400, "memused": 100, "memused-percent": 20, "buffers": 0, "cached": 500, "slab": 0}
    at = (0, 1, 2, 3, 5, 6, 7, 8, 10, 40)
    stamps = [{"date": "2026-11-28", "time": f"12:00:{second:02}", "utc": 1, "interval": 1} for second in at]
    told = [{"timestamp": stamp, "memory": memory, "paging": {"fault": 100.0}} for stamp in stamps]
    imported = import_sadf(json.dumps({"sysstat": {"hosts": [{"statistics": told}]}}), "a.json")
    counts = parse_table(imported.text, "t.csv").numbers["faults"].tolist()
    assert (counts[0], counts[8], counts[9]) == (100, 1100, 1200)


def csv_of(*rows: str) -> str:
    """Make a CSV of the columns that MAP maps."""
    return "".join(f"{row}\n" for row in ("time,total,free,cached", *rows))


def test_a_table_is_taken_over_by_a_mapping(tmp_path: Path) -> None:
    """Units, per cent of all memory, and dates with zones, of both sides of a change of clocks."""
    source, out = tmp_path / "a.csv", tmp_path / "b.csv"
    source.write_text(csv_of("2026-10-25 02:30:00+02:00,400,102400,25", "2026-10-25T02:00:00+01:00,400,204800,25"))
    result = run("csv", str(source), str(out), *(word for one in MAP for word in ("--column", one)))
    assert result.exit_code == 0, result.output
    assert out.read_text().splitlines() == [
        "t_s,total_pages,free_pages,page_cache_pages,utc",
        "0.0,102400,25600,25600,2026-10-25T00:30:00.000Z",
        "1800.0,102400,51200,25600,2026-10-25T01:00:00.000Z",
    ]


def test_local_times_need_a_zone_in_which_they_are_there_once(tmp_path: Path) -> None:
    """Where clocks are set, an hour is there twice, and one never: refused by the line."""
    source, out = tmp_path / "a.csv", tmp_path / "b.csv"
    columns = [word for one in MAP for word in ("--column", one)]

    def imported(time: str, *zone: str) -> str:
        source.write_text(csv_of("2026-10-24 12:00:00,400,102400,25", f"{time},400,204800,25"))
        result = run("csv", str(source), str(out), *columns, *zone)
        return result.stderr if result.exit_code else out.read_text().splitlines()[2].split(",")[0]

    berlin = ("--zone", "Europe/Berlin")
    assert imported("2026-10-25 12:00:00", *berlin) == "90000.0"
    assert imported("2026-10-25 12:00:00", "--zone", "UTC") == "86400.0"
    assert "line 3: '2026-10-25 02:30:00' is there twice in Europe/Berlin" in imported("2026-10-25 02:30:00", *berlin)
    assert "line 3: '2027-03-28 02:30:00' is there never" in imported("2027-03-28 02:30:00", *berlin)
    assert "line 2: '2026-10-24 12:00:00' tells no zone" in imported("2026-10-25 12:00:00")
    assert "--zone Mars" in imported("2026-10-25 12:00:00", "--zone", "Mars")


def test_samples_without_a_number_are_left_out_and_told() -> None:
    """By their lines; what is no number at all is refused."""
    text = csv_of("0,400,1024,25", "1,400,,25", "2,400,NaN,25", "3,400,2048,25")
    imported = import_csv(text, "a.csv", parse_mapping(MAP))
    assert imported.remarks == ("2 samples without free_pages left out: line 3, line 4",)
    assert parse_trace(imported.text, "t").seconds.tolist() == [0, 3]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            csv_of("0,400,1024 kB,25"),
            "line 2: free_pages is '1024 kB', a number was expected: its unit is said by --column",
        ),
        (csv_of("0,400,1024,25", "1,400,1024"), "line 3: 3 columns, 4 were expected"),
        (csv_of("5,400,1024,25", "4,400,1024,25"), "line 3: time runs backwards, by 1 s"),
        (csv_of("0,400,-4,25"), "line 2: free_pages is -1, which no memory has"),
        (csv_of("noon,400,1024,25"), "line 2: its time is 'noon'"),
        (csv_of("2026-02-31 12:00:00Z,400,1024,25"), "line 2: there is no such time"),
        (csv_of("0,400,,25"), "no sample has all of|it does not say free_pages"),
        ("time,total,free\n", "line 1: the header has no .single. column 'cached'; it has time, total, free"),
        ("", "line 1: the header has no"),
        (csv_of("1e300,400,1024,25"), "line 2: its time, 1e.300, is none"),
    ],
)
def test_what_is_no_table_of_memory_is_refused_by_its_line(text: str, said: str) -> None:
    """Units in cells, torn lines, time that runs backwards, numbers that memory cannot have."""
    with pytest.raises(TraceError, match=f"a.csv: {said}|{said}"):
        import_csv(text, "a.csv", parse_mapping(MAP))


@pytest.mark.parametrize(
    ("mapping", "said"),
    [
        (MAP[:3], "no --column page_cache_pages"),
        ([*MAP, "moods=x"], "no column of a trace 'moods'"),
        ([*MAP, "faults"], "NAME=COLUMN"),
        ([*MAP, "faults=x*much"], "SCALE is a number"),
        ([*MAP, "faults=x*1/0"], "SCALE is a number"),
        ([*MAP, "free_pages=x"], "free_pages once"),
        ([MAP[0], "total_pages=a*%", *MAP[2:]], "total_pages in per cent"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(mapping: list[str], said: str) -> None:
    """Before a source is read."""
    with pytest.raises(BadArgument, match=said):
        parse_mapping(mapping)


XENTOP = "      NAME  STATE   CPU(sec) CPU(%)     MEM(k) MEM(%)  MAXMEM(k) MAXMEM(%)\n  Domain-0 -----r         55   10.0    4194304   50.0   no limit       n/a\n"
RRD = "<xport>\n<meta><legend><entry>AVERAGE:vm:3f9b:memory</entry></legend></meta>\n<data><row><t>1</t><v>4294967296</v></row></data></xport>\n"


@pytest.mark.parametrize("text", [XENTOP, RRD, "time,AVERAGE:vm:3f9b:memory,AVERAGE:vm:3f9b:memory_target\n1,2,3\n"])
def test_what_a_guest_was_given_is_no_demand(text: str) -> None:
    """xentop, RRDs as XML and as CSV: refused in words that say what to record instead."""
    said = r"a: is .* gave each guest.*what a guest was given is not what it needed: record inside"
    with pytest.raises(TraceError, match=said):
        import_csv(text, "a", parse_mapping(MAP))
    with pytest.raises(TraceError, match=said):
        import_sadf(text, "a")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("hello", "a: is no answer of Prometheus"),
        ({"status": "error", "error": "parse error"}, "a: Prometheus refused it: parse error"),
        ({"status": "success", "data": {"resultType": "vector", "result": []}}, "a: is a vector, an answer of one moment"),
        ({"status": "success", "data": {"resultType": "matrix", "result": []}}, "it does not say total_pages"),
        ({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {"__name__": "libvirt_domain_info_memory_usage_bytes"}, "values": []}]}}, "metrics of libvirt: they are what the host gave"),
    ],
)  # fmt: skip
def test_other_answers_of_prometheus_are_refused(answer: Any, said: str) -> None:  # noqa: ANN401 - whatever JSON holds
    """Errors, answers of one moment, and metrics of a host."""
    with pytest.raises(TraceError, match=said):
        import_prometheus({"a": answer if isinstance(answer, str) else json.dumps(answer)}, "a")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["timestamp", "memory", "paging", "memfree", "metric", "values", "__name__"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(JSON)
def test_whatever_is_in_a_file_is_refused_in_words(inside: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Nothing else than a TraceError comes of a file that is not made as expected."""
    for text in (
        json.dumps(inside),
        json.dumps({"sysstat": {"hosts": [{"statistics": inside}]}}),
        json.dumps({"status": "success", "data": {"resultType": "matrix", "result": inside}}),
        json.dumps({"status": "success", "data": {"resultType": "matrix", "result": [{"metric": {"__name__": "node_memory_MemFree_bytes"}, "values": inside}]}}),
    ):  # fmt: skip
        with pytest.raises(TraceError):
            import_sadf(text, "a")
        with pytest.raises(TraceError):
            import_prometheus({"a": text}, "a")
    with pytest.raises(TraceError):
        import_sadf("[" * 100_000, "a")


def test_two_machines_are_no_trace() -> None:
    """They are named, and how to ask for one."""
    series = [
        {"metric": {"__name__": "node_memory_MemFree_bytes", "instance": name}, "values": [[1e9, "1"]]} for name in "ab"
    ]
    with pytest.raises(TraceError, match=r'is of a, b; a trace is of one: ask for it, with instance="..."'):
        import_prometheus(
            {"a": json.dumps({"status": "success", "data": {"resultType": "matrix", "result": series}})}, "a"
        )


def test_local_times_of_sadf_are_refused() -> None:
    """Which of two hours is meant, nobody can tell."""
    text = (MADE_BY_TOOLS / "sadf.json").read_text().replace('"utc": 1', '"utc": 0')
    with pytest.raises(TraceError, match=r"sample 1 .*: its time is local, .* run sadf without -t and -T"):
        import_sadf(text, "a")


def test_a_column_that_few_samples_have_is_left_out_and_told() -> None:
    """And the samples stay; what most have is kept, and the samples without it go."""
    least = dict(zip(REQUIRED, (1000, 100, 100), strict=True))
    samples = [
        Sample(f"line {n}", n, {**least, **({"faults": n} if n else {}), **({"slab_pages": 1} if n == 2 else {})})
        for n in range(9)
    ]
    imported = make_trace(samples, "a")
    assert imported.remarks == (
        "left out, as few samples have it: slab_pages",
        "1 sample without faults left out: line 0",
    )
    assert "slab_pages" not in imported.text
    assert {*COUNTERS} < {*NUMBERS}


def test_a_clock_without_a_zone_takes_seconds_of_any_scale() -> None:
    """Milliseconds since the epoch, too."""
    assert Clock().seconds("1790000000250", 0.001, "line 2") == 1_790_000_000.25
