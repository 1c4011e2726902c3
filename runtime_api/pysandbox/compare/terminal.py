"""The document for a person at a terminal: rich's tables, and its progress bar while it is being made."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pysandbox.compare import audits, comparison
from pysandbox.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

TITLES = {
    "life": "Life of a container",
    "throughput": "Throughput",
    "memory": "Memory outside the workload",
    "growth": "Cost as sandboxes grow",
    "inside": "Inside the sandbox, by its own clock",
    "containerd": "Through containerd's API",
}
#: What the figures of a table are; settings of the document stand in braces.
CAPTIONS = {
    "life": "one command of a container's life at a time; less is better",
    "throughput": "containers that were run to their end, by so many workers at once; more is better",
    "memory": "what runs beside the workload: each process's memory, shared pages divided (PSS); less is better",
    "growth": (
        "of each sandbox while so many are there; less is better. A contender gets at most {growth_seconds:.0f} s and "
        "{growth_memory_share:.0%} of the machine's memory. Available memory: what the machine has less of it; "
        "none is told where it has more, by other programs"
    ),
    "inside": "the same program on the host and in each sandbox; less is better where a row does not say so",
    "containerd": "calls of containerd's Tasks service, and memory of a shim with all that it started; less is better",
}
#: Where the output is no terminal: nothing is cut, and nothing wrapped before this.
WIDTH = 160
#: From which share of time taken by the hypervisor on the figures are in doubt.
STOLEN = 0.02
#: So many weak findings of a contender are named: `audit` and the page have them all.
NAMED = 8


def require() -> None:
    """Raise Unavailable, with the remedy, where rich is not installed."""
    try:
        import rich  # noqa: F401
    except ImportError:
        raise Unavailable("rich is not installed: pip install 'pysandbox[compare]'") from None


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that is told what is being done, how much of it is done, and of how much."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<42}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
    )
    # No thread of rich's that draws ten times a second while something is measured: drawn where there is news.
    bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True, auto_refresh=False)
    if not console.is_terminal:
        yield lambda _what, _done, _total: None
        return
    with bar:
        task = bar.add_task("", total=1)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=max(total, 1), refresh=True
        )


def show(document: Mapping[str, Any]) -> None:
    """Print all of it."""
    console = _console()
    for line in head(document):
        console.print(line, markup=False, soft_wrap=True)
    for group, title in TITLES.items():
        figures = [each for each in document["figures"] if each["group"] == group]
        if figures:
            console.print(f"\n{title}", style="bold")
            console.print(CAPTIONS[group].format(**document["settings"]), markup=False, soft_wrap=True)
            console.print(_table(figures, document))
    for line in doubts(document):
        console.print(line, markup=False, soft_wrap=True)


def head(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield who took part, on what machine, and who did not."""
    machine, settings = document["machine"], document["settings"]
    yield f"{document['bundle']}, {settings['rounds']} rounds in random order, {document['seconds']:.0f} s"
    yield (
        f"{machine['processor'] or machine['architecture']}, {machine['processors']} processors, kernel "
        f"{machine['kernel']}, cgroup {machine['cgroup']}, files on {machine['file_system']}, load "
        f"{machine['load'][0]:.2f} before and {machine['load_after'][0]:.2f} after"
    )
    for each in document["contenders"]:
        notes = "; ".join(text for text in (each["version"], each.get("accelerator", ""), each["note"]) if text)
        yield f"  {each['name']}: {notes or 'no sandbox: what everything else is above'}"
    for name, reason in document["missing"].items():
        yield f"  left out {name}: {reason}"
    yield "Each: median (quartiles); below it how many times that of " + (
        f"{document['baseline']} it is (95 % interval)" if document["baseline"] else "nobody: no baseline"
    )


def doubts(document: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a reader of the tables must know about them."""
    for each in document["failures"]:
        yield f"FAILED {each['contender']}, {each['scenario']}: {each['text']}"
    for note in document["notes"]:
        yield f"NOTE {note}"
    stolen = document["machine"]["stolen"]
    if stolen > STOLEN:
        yield f"NOTE the hypervisor took {stolen:.0%} of the time: repeat this on a quieter machine"
    if document["interrupted"]:
        yield "INTERRUPTED: this is what was measured until then"


def number(value: float) -> str:
    """Return a value with two or three digits that count, one where it is next to nothing."""
    if value >= 1000:
        return f"{value:,.0f}"
    if 0 < value < 0.1:
        return f"{value:.1g}" if value < 0.001 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def times(ratio: Mapping[str, Any] | None) -> str:
    """Return a ratio with its interval."""
    if ratio is None:
        return ""
    text = f"{number(ratio['value'])}x"
    return text if ratio["low"] is None else f"{text} ({number(ratio['low'])}…{number(ratio['high'])})"


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDTH)


def _table(figures: Sequence[Mapping[str, Any]], document: Mapping[str, Any]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table()  # of plain text: a contender's name may be a path, and look like rich's markup
    table.add_column("")
    labels = [each["name"] for each in document["contenders"]]
    labels = [label for label in labels if any(each["contender"] == label for each in figures)]
    for label in labels:
        table.add_column(Text(label), justify="right", overflow="fold")
    found = {(each["scenario"], each["contender"]): each for each in figures}
    for scenario in dict.fromkeys(each["scenario"] for each in figures):
        cells = ["\n".join(cell(found[scenario, label])) if (scenario, label) in found else "-" for label in labels]
        table.add_row(row_name(next(each for each in figures if each["scenario"] == scenario)), *cells)
    return table


def row_name(figure: Mapping[str, Any]) -> str:
    """Return what stands before a row: what is measured, its unit, and which way is better where a table has both."""
    more = ", more is better" if (figure["group"], figure["better"]) == ("inside", "higher") else ""
    return f"{figure['scenario'].removeprefix('inside: ')}, {figure['unit']}{more}"


def cell(figure: Mapping[str, Any]) -> list[str]:
    """Return the lines of one cell: the median with its quartiles, and its ratio to the baseline."""
    median = number(figure["median"])
    if figure["count"] > 1:
        median += f" ({number(figure['lower'])}…{number(figure['upper'])})"
    return [text for text in (median, times(figure["ratio"])) if text]


def summary(document: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Yield, for each contender of a comparison: name, start to exit, memory while `run` waits, verdicts."""
    figures = {(each["scenario"], each["contender"]): each for each in document["bench"]["figures"]}
    found = {each["contender"]: each["findings"] for each in document["audits"]}
    for each in document["bench"]["contenders"]:
        name = each["name"]
        start, memory = (figures.get((scenario, name)) for scenario in ("start to exit", "memory, run waits"))
        if each["kind"] != "host":
            counts = audits.counts(found.get(name, ()))
            verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items()) if found.get(name) else "-"
            times_ = f"{number(start['median'])} ms  {times(start['ratio'])}".strip() if start else "-"
            yield name, times_, f"{number(memory['median'])} MiB" if memory else "-", verdicts


def show_summary(document: Mapping[str, Any]) -> None:
    """Print what a comparison comes to: one line for each contender."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    table = Table()
    for name in ("", "start to exit", "memory outside", "probes"):
        table.add_column(name)
    for row in summary(document):
        table.add_row(*map(Text, row))
    console.print("\nIn short", style="bold")
    console.print(table)
    if names := comparison.emulated(document["bench"]):
        console.print(f"{', '.join(names)}: under emulation: no isolation is claimed", markup=False, soft_wrap=True)


def show_audits(found: Sequence[Mapping[str, Any]]) -> None:
    """Print how many probes found what they should, and those that did not in words."""
    from rich.table import Table
    from rich.text import Text

    console = _console()
    audited = [each for each in found if each["findings"]]
    if audited:
        console.print("\nWhat was observed of the protection", style="bold")
        table = Table()
        for name in ("", *(each["contender"] for each in audited)):
            table.add_column(Text(name), justify="right" if name else "left", overflow="fold")
        for verdict in audits.VERDICTS:
            table.add_row(verdict, *(str(audits.counts(each["findings"])[verdict]) for each in audited))
        console.print(table)
    for each in audited:
        weak = [finding["probe"] for finding in each["findings"] if finding["verdict"] == "weak"]
        if weak:
            more = f" and {len(weak) - NAMED} more" if len(weak) > NAMED else ""
            text = f"{each['contender']}, weak: {', '.join(weak[:NAMED])}{more}"
            console.print(text, markup=False, soft_wrap=True)
    for each in found:
        if not each["findings"]:
            console.print(f"NOT AUDITED {each['contender']}: {each['failure']}", markup=False, soft_wrap=True)
