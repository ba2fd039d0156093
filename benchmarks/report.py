"""What was measured, as a table, as JSON and as a picture."""

from __future__ import annotations

import html
import json
import os
import platform
import statistics
from importlib.metadata import version
from typing import Any

from benchmarks.rows import Bench, Result

WIDTH, LABEL, BAR, GAP = 860, 400, 18, 10


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    return {
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "grpcio": version("grpcio"),
        "lit-storage": version("lit-storage"),
    }


def figure(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def mark(result: Result) -> str:
    return {True: "yes", False: "**no**", None: ""}[result.reached]


def table(results: list[Result]) -> str:
    """Return the results as a table of Markdown; times are medians."""
    lines = [
        "| what | against | ours | theirs | ratio | goal | reached |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in results:
        ours = f"{figure(statistics.median(each.ours))} {each.unit}"
        theirs = f"{figure(statistics.median(each.theirs))} {each.unit}" if each.theirs else ""
        ratio = f"{each.ratio:.2f}" if each.ratio is not None else ""
        goal = "" if each.goal is None else f"{'≤' if each.at_most else '≥'} {each.goal:g}"
        against = each.against or each.note
        lines.append(f"| {each.row} | {against} | {ours} | {theirs} | {ratio} | {goal} | {mark(each)} |")
    return "\n".join(lines)


def as_json(results: list[Result], bench: Bench) -> str:
    """Return everything, each round too."""
    found: dict[str, Any] = {
        "machine": machine(),
        "rounds": bench.rounds,
        "not_installed": list(bench.missing),
        "notes": bench.notes,
        "results": [
            {
                "what": each.row,
                "against": each.against,
                "unit": each.unit,
                "ours": [round(value, 6) for value in each.ours],
                "theirs": [round(value, 6) for value in each.theirs],
                "ratio": None if each.ratio is None else round(each.ratio, 3),
                "goal": each.goal,
                "reached": each.reached,
                "note": each.note,
            }
            for each in results
        ],
    }
    return json.dumps(found, indent=1) + "\n"


def picture(results: list[Result]) -> str:
    """Return an SVG: for each competitor a bar as long as we are faster, and the goal as a line across it."""
    bars = [each for each in results if each.ratio is not None and not each.at_most]
    longest = min(max(max(each.ratio or 0, each.goal or 0) for each in bars), 6.0)
    scale = (WIDTH - LABEL - 70) / longest
    height = 60 + len(bars) * (BAR + GAP) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
        f'viewBox="0 0 {WIDTH} {height}" font-family="system-ui, sans-serif" font-size="12" fill="#222">',
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        '<text x="16" y="24" font-size="15" font-weight="600">'
        "How many times as fast as each competitor</text>",
        '<text x="16" y="42" fill="#666">median of rounds in turn; right of the line at 1 is faster; '
        "a dark tick is the goal</text>",
    ]
    one = LABEL + scale
    top = 56
    for number, each in enumerate(bars):
        y = top + number * (BAR + GAP)
        ratio = each.ratio or 0.0
        length = min(ratio, longest) * scale
        color = "#c2554d" if each.reached is False else "#3b7dd8" if each.goal else "#9bb8dd"
        label = html.escape(f"{each.row} — {each.against}")
        parts.append(f'<text x="{LABEL - 8}" y="{y + 13}" text-anchor="end">{label}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{length:.1f}" height="{BAR}" rx="2" fill="{color}"/>')
        parts.append(f'<text x="{LABEL + length + 6:.1f}" y="{y + 13}">{ratio:.2f}</text>')
        if each.goal is not None:
            x = LABEL + min(each.goal, longest) * scale
            parts.append(f'<rect x="{x - 1:.1f}" y="{y - 2}" width="2.5" height="{BAR + 4}" fill="#111"/>')
    bottom = top + len(bars) * (BAR + GAP)
    parts.append(
        f'<line x1="{one:.1f}" x2="{one:.1f}" y1="{top - 6}" y2="{bottom}" stroke="#999" '
        'stroke-dasharray="3 3"/>'
    )
    facts = ", ".join(f"{key} {value}" for key, value in machine().items())
    parts.append(f'<text x="16" y="{bottom + 18}" fill="#666">{html.escape(facts)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
