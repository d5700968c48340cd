#!/usr/bin/python3
"""Draws the panels of contrib/grafana/coracle.json as an SVG picture, with the values of a real Prometheus. Called by
terminal.sh.

  dashboard.py openmetrics                     from scrapes to the format that `promtool tsdb create-blocks-from` reads
  dashboard.py draw DASHBOARD URL BEGIN END    the picture; BEGIN and END are seconds since the epoch

A scrape is a line `@SECONDS` and the output of `coracle stats --metrics=prometheus`. Only the kinds of panels, units and
options of that dashboard are known. Standard library only.
"""

import json
import re
import sys
import urllib.parse
import urllib.request
from html import escape

WIDTH, CELL, GAP, TITLE_HEIGHT = 1200, 30, 8, 24
BACKGROUND, PANEL, FOREGROUND, FAINT, GRID = "#111217", "#181b1f", "#ccccdc", "#8e8e9a", "#2a2d33"
COLOURS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#8ab8ff"]
NAMED = {"green": "#3f8f3f", "orange": "#c4722a", "red": "#b83a3a", "blue": "#3a6bb8", "text": "#3a3d44"}
BYTES = ["B", "KiB", "MiB", "GiB", "TiB"]
SAMPLE = re.compile(r"([a-z_]+)(\{.*\})? (\S+)$")


def openmetrics(lines):
    """Groups the samples of all scrapes by metric, each with its time."""
    families, types, time = {}, {}, None
    for line in lines:
        line = line.rstrip("\n")
        if line.startswith("@"):
            time = int(line[1:])
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            types[name] = kind
        elif (found := SAMPLE.match(line)) and not line.startswith("#"):
            name, labels, value = found.groups()
            labels = (labels or "{}")[1:-1] + ',instance="host",job="node"'
            families.setdefault(name, []).append(f"{name}{{{labels.lstrip(',')}}} {value} {time}")
    for name, samples in families.items():
        kind = types.get(name, "unknown")
        yield f"# TYPE {name.removesuffix('_total') if kind == 'counter' else name} {kind}"
        yield from samples
    yield "# EOF"


class Prometheus:
    """Answers of the server, from BEGIN to END."""

    def __init__(self, url, begin, end):
        self.url, self.begin, self.end = url, begin, end

    def range(self, target):
        """Returns the series of a target: its label and its points."""
        expression = target["expr"].replace("$__rate_interval", "15s")
        expression = expression.replace("$instance", ".*").replace("$machine", ".*")
        query = {"query": expression, "start": self.begin, "end": self.end, "step": 1}
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{urllib.parse.urlencode(query)}") as answer:
            result = json.load(answer)["data"]["result"]
        legend = target.get("legendFormat", "")
        for series in result:
            label = re.sub(r"\{\{(\w+)\}\}", lambda word: series["metric"].get(word[1], ""), legend)
            yield label, series["metric"], [(float(at), float(value)) for at, value in series["values"]]


def number(value, unit):
    if unit == "percentunit":
        return f"{value * 100:.3g}%"
    if unit in ("bytes", "Bps"):
        power = 0
        while value >= 1024 and power + 1 < len(BYTES):
            value, power = value / 1024, power + 1
        return f"{value:.3g} {BYTES[power]}{'/s' if unit == 'Bps' else ''}"
    return f"{value:.3g}"


def text(x, y, what, size=12, colour=FOREGROUND, anchor="start", weight="normal"):
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{escape(what)}</text>'
    )


def unit_of(panel):
    return panel["fieldConfig"]["defaults"].get("unit", "none")


def stat(panel, prometheus, width, height):
    """The last value on the colour of its threshold."""
    series = [points for target in panel["targets"] for _, _, points in prometheus.range(target)]
    value = series[0][-1][1] if series else 0.0
    colour = PANEL
    for step in panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", []):
        if step["value"] is None or value >= step["value"]:
            colour = NAMED.get(step["color"], PANEL)
    yield f'<rect x="1" y="{TITLE_HEIGHT}" width="{width - 2}" height="{height - TITLE_HEIGHT - 1}" rx="2" fill="{colour}"/>'
    yield text(width / 2, height / 2 + 24, number(value, unit_of(panel)), 32, "#ffffff", "middle", "bold")


def table(panel, prometheus, width, height):
    """The machines with the values of all targets."""
    rows = {}
    for place, target in enumerate(panel["targets"]):
        for _, metric, points in prometheus.range(target):
            if points[-1][0] >= prometheus.end - 2:
                row = rows.setdefault(metric["machine"], ["", ""])
                row[place] = metric.get("state", "") if place == 0 else f"{points[-1][1]:.0f} s"
    for place, head in enumerate(["Machine", "State", "Age"]):
        yield text(12 + place * width / 3, TITLE_HEIGHT + 18, head, 12, "#6e9fff")
    for line, (machine, values) in enumerate(sorted(rows.items())):
        for place, value in enumerate([machine, *values]):
            yield text(12 + place * width / 3, TITLE_HEIGHT + 42 + line * 22, value)


def timeseries(panel, prometheus, width, height):
    """Lines over the time, with a grid of four and a legend."""
    series = [one for target in panel["targets"] for one in prometheus.range(target)]
    series = [(label, points) for label, _, points in series if points]
    left, top, right, bottom = 70, TITLE_HEIGHT + 8, width - 12, height - 44
    most = max((value for _, points in series for _, value in points), default=0) or 1
    span = prometheus.end - prometheus.begin
    for step in range(5):
        y = bottom - (bottom - top) * step / 4
        yield f'<path d="M{left} {y:.1f}H{right}" stroke="{GRID}"/>'
        yield text(left - 8, y + 4, number(most * step / 4, unit_of(panel)), 11, FAINT, "end")
    for place in range(4):
        anchor = "end" if place == 3 else "middle"
        yield text(left + (right - left) * place / 3, bottom + 16, f"{span * place / 3:.0f} s", 11, FAINT, anchor)
    at = left
    for place, (label, points) in enumerate(series):
        colour = COLOURS[place % len(COLOURS)]
        line = " ".join(
            f"{left + (x - prometheus.begin) / span * (right - left):.1f},{bottom - y / most * (bottom - top):.1f}"
            for x, y in points
        )
        yield f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
        after = at + 30 + 6.2 * len(label)
        if after <= width:
            yield f'<path d="M{at:.0f} {height - 12}h12" stroke="{colour}" stroke-width="3"/>'
            yield text(at + 16, height - 8, label, 11)
        at = after


KINDS = {"stat": stat, "table": table, "timeseries": timeseries}


def draw(path, url, begin, end):
    with open(path, encoding="utf-8") as file:
        dashboard = json.load(file)
    prometheus = Prometheus(url, int(begin), int(end))
    column = WIDTH / 24
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    height = rows * CELL + GAP
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="Inter, Helvetica, Arial, sans-serif">'
    yield f'<rect width="{WIDTH}" height="{height}" fill="{BACKGROUND}"/>'
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        x, y = place["x"] * column + GAP / 2, place["y"] * CELL + GAP / 2
        width, tall = place["w"] * column - GAP, place["h"] * CELL - GAP
        yield f'<g transform="translate({x:.1f} {y:.1f})">'
        yield f'<rect width="{width:.1f}" height="{tall}" rx="2" fill="{PANEL}" stroke="{GRID}"/>'
        yield from KINDS[panel["type"]](panel, prometheus, width, tall)
        yield text(8, 17, panel["title"], 13, FOREGROUND, "start", "bold")
        yield "</g>"
    yield "</svg>"


def main():
    if sys.argv[1] == "openmetrics":
        lines = openmetrics(sys.stdin)
    else:
        lines = draw(*sys.argv[2:])
    for line in lines:
        print(line)


main()
