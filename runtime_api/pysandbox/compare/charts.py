"""The page's charts: plotly's figures, made from a bench's document."""

from __future__ import annotations

import html
import math
from typing import TYPE_CHECKING, Any

from pysandbox.compare.terminal import number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Okabe and Ito's colours, which everybody can tell apart.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8a8a8a")
HOST_COLOUR = "#8a8a8a"
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "star", "hexagon", "cross")
ROW = 44


def colours(bench: Mapping[str, Any]) -> dict[str, str]:
    """Return a colour for each contender; the host is grey."""
    names = [each["name"] for each in bench["contenders"] if each["kind"] != "host"]
    found = {name: COLOURS[number % (len(COLOURS) - 1)] for number, name in enumerate(names)}
    return found | {each["name"]: HOST_COLOUR for each in bench["contenders"] if each["kind"] == "host"}


def charts(bench: Mapping[str, Any]) -> dict[str, str]:
    """Return name → figure as plotly's JSON, in which no letter can end a script element."""
    figures = {
        "life": _dots(bench, "life", "milliseconds, logarithmic"),
        "throughput": _lines(bench, "throughput", "throughput", "containers per second", "at once"),
        "memory": _bars(bench),
        "growth": _lines(bench, "growth", "create and start", "milliseconds", "sandboxes there"),
        "density": _lines(bench, "growth", "memory of each", "MiB each", "sandboxes there"),
        "inside": _slowdown(bench),
    }
    return {name: str(figure.to_json()) for name, figure in figures.items() if figure is not None}


def _of(bench: Mapping[str, Any], group: str) -> list[Mapping[str, Any]]:
    return [each for each in bench["figures"] if each["group"] == group]


def _names(bench: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> list[str]:
    present = {each["contender"] for each in figures}
    return [each["name"] for each in bench["contenders"] if each["name"] in present]


def _text(figure: Mapping[str, Any]) -> str:
    text = f"{figure['contender']}, {figure['scenario']}: {number(figure['median'])} {figure['unit']}"
    text += f" ({number(figure['lower'])}…{number(figure['upper'])})" if figure["count"] > 1 else ""
    return html.escape(f"{text}, n = {figure['count']}")


def _spread(figures: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return plotly's error bars: the interval of the median, where there are enough values for one."""
    ends = [each["interval"] or (each["median"], each["median"]) for each in figures]
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - each["median"] for each, (_, high) in zip(figures, ends, strict=True)],
        "arrayminus": [each["median"] - low for each, (low, _) in zip(figures, ends, strict=True)],
        "thickness": 1.5,
        "width": 3,
    }


def _layout(**more: Any) -> dict[str, Any]:
    return {
        "template": "plotly_white",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#222"},
        "margin": {"l": 10, "r": 20, "t": 40, "b": 45},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
    } | more


def _dots(bench: Mapping[str, Any], group: str, title: str) -> Any:
    """One row for each scenario, one dot for each contender, with the interval of its median."""
    from plotly import graph_objects

    figures = _of(bench, group)
    if not figures:
        return None
    chart = graph_objects.Figure()
    for place, name in enumerate(_names(bench, figures)):
        own = [each for each in figures if each["contender"] == name]
        chart.add_scatter(
            x=[each["median"] for each in own],
            y=[each["scenario"] for each in own],
            error_x=_spread(own),
            mode="markers",
            name=html.escape(name),
            marker={"color": colours(bench)[name], "size": 10, "symbol": SYMBOLS[place % len(SYMBOLS)]},
            hovertext=[_text(each) for each in own],
            hoverinfo="text",
        )
    rows = list(dict.fromkeys(each["scenario"] for each in figures))
    axis = {"type": "log", "title": title, "dtick": 1, "minor": {"ticks": "outside", "dtick": "D1"}}
    chart.update_layout(_layout(height=120 + ROW * len(rows), xaxis=axis))
    chart.update_yaxes(automargin=True, categoryorder="array", categoryarray=rows[::-1])
    return chart


def _lines(bench: Mapping[str, Any], group: str, prefix: str, title: str, below: str) -> Any:
    """One line for each contender, over the levels."""
    from plotly import graph_objects

    figures = [each for each in _of(bench, group) if each["scenario"].startswith(prefix)]
    if not figures:
        return None
    chart = graph_objects.Figure()
    for place, name in enumerate(_names(bench, figures)):
        own = sorted((each for each in figures if each["contender"] == name), key=lambda each: int(each["level"]))
        chart.add_scatter(
            x=[each["level"] for each in own],
            y=[each["median"] for each in own],
            error_y=_spread(own),
            mode="lines+markers",
            name=html.escape(name),
            line={"color": colours(bench)[name], "width": 2},
            marker={"size": 9, "symbol": SYMBOLS[place % len(SYMBOLS)]},
            hovertext=[_text(each) for each in own],
            hoverinfo="text",
        )
    levels = sorted({each["level"] for each in figures})
    axis = {"title": below, "tickvals": levels, "ticktext": [str(level) for level in levels], "type": "log"}
    chart.update_layout(_layout(height=360, xaxis=axis, yaxis={"title": title, "rangemode": "tozero"}))
    chart.update_yaxes(automargin=True)
    return chart


def _bars(bench: Mapping[str, Any]) -> Any:
    """One group of bars for each kind of memory."""
    from plotly import graph_objects

    figures = _of(bench, "memory")
    if not figures:
        return None
    chart = graph_objects.Figure()
    for name in _names(bench, figures):
        own = [each for each in figures if each["contender"] == name]
        chart.add_bar(
            x=[each["scenario"].removeprefix("memory, ") for each in own],
            y=[each["median"] for each in own],
            name=html.escape(name),
            marker={"color": colours(bench)[name]},
            text=[number(each["median"]) for each in own],
            textposition="outside",
            cliponaxis=False,
            hovertext=[_text(each) for each in own],
            hoverinfo="text",
        )
    chart.update_layout(_layout(height=360, barmode="group", yaxis={"title": "MiB"}))
    return chart


def _slowdown(bench: Mapping[str, Any]) -> Any:
    """How many times more everything costs inside than on the host itself: more is worse, whatever the unit."""
    from plotly import graph_objects

    figures = _of(bench, "inside")
    reference = {each["scenario"]: each for each in figures if each["contender"] == "host"}
    figures = [each for each in figures if each["contender"] != "host" and each["scenario"] in reference]
    if not figures:
        return None
    chart = graph_objects.Figure()
    for place, name in enumerate(_names(bench, figures)):
        own = [each for each in figures if each["contender"] == name]
        costs = [cost(each, reference[each["scenario"]]) for each in own]
        chart.add_scatter(
            x=costs,
            y=[each["scenario"].removeprefix("inside: ") for each in own],
            error_x=_cost_spread(own, reference, costs),
            mode="markers",
            name=html.escape(name),
            marker={"color": colours(bench)[name], "size": 10, "symbol": SYMBOLS[place % len(SYMBOLS)]},
            hovertext=[
                f"{_text(each)}: {number(times)} times the host's" for each, times in zip(own, costs, strict=True)
            ],
            hoverinfo="text",
        )
    rows = list(dict.fromkeys(each["scenario"].removeprefix("inside: ") for each in figures))
    axis = {"type": "log", "title": "times what it costs on the host, logarithmic", "range": _range(chart)}
    chart.update_layout(_layout(height=120 + 30 * len(rows), xaxis=axis))
    chart.add_vline(x=1, line={"color": HOST_COLOUR, "width": 1, "dash": "dot"})
    chart.update_yaxes(automargin=True, categoryorder="array", categoryarray=rows[::-1])
    return chart


def _cost_spread(
    own: Sequence[Mapping[str, Any]], reference: Mapping[str, Mapping[str, Any]], costs: Sequence[float]
) -> dict[str, Any]:
    """Return plotly's error bars: what the quartiles cost, against the host's median."""
    ends = []
    for each in own:
        of = reference[each["scenario"]]
        ends.append(sorted(cost({**each, "median": each[name]}, of) for name in ("lower", "upper")))
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - middle for middle, (_, high) in zip(costs, ends, strict=True)],
        "arrayminus": [middle - low for middle, (low, _) in zip(costs, ends, strict=True)],
        "thickness": 1.5,
        "width": 3,
    }


def _range(chart: Any) -> list[float]:
    """Return the ends of a logarithmic axis: from half to twice at least, so that noise does not look like much."""
    ends = [
        (middle - below, middle + above)
        for series in chart.data
        for middle, below, above in zip(series.x, series.error_x.arrayminus, series.error_x.array, strict=True)
    ]
    low, high = min(low for low, _ in ends), max(high for _, high in ends)
    return [math.log10(min(0.5, low * 0.8)), math.log10(max(2.0, high * 1.25))]


def cost(figure: Mapping[str, Any], reference: Mapping[str, Any]) -> float:
    """Return how many times more something costs than for the reference."""
    if figure["better"] == "higher":
        figure, reference = reference, figure
    return float(figure["median"] / reference["median"])
