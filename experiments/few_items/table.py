"""Makes the README's tables, tables.md and the figure from results/*.json: python experiments/few_items/table.py"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NUMBERS = (10, 20, 30, 50, 100)
ROWS = (
    ("random", "mean"), ("stratified", "stratified"), ("random", "greg"), ("random", "shrunk"),
    ("random", "doubly_robust"), ("random", "eap"), ("random", "blup"), ("random", "combined_eap"),
    ("random", "combined_blup"), ("random", "recentred_eap"), ("random", "recentred_blup"), ("stratified", "greg"),
    ("stratified", "eap"), ("stratified", "recentred_eap"), ("greedy", "mean"), ("greedy", "eap"), ("greedy", "blup"),
    ("hybrid", "greg"), ("hybrid", "eap"), ("hybrid", "blup"), ("hybrid", "recentred_eap"),
    ("hybrid", "recentred_blup"), ("hybrid", "combined_eap"), ("hybrid", "combined_blup"), ("adaptive", "eap"),
    ("adaptive", "blup"), ("each", "eap"), ("random", "p_irt"), ("random", "gp_irt"), ("random", "ridge"),
    ("random", "aipw"), ("anchors by correctness", "anchor_correctness"), ("anchors by IRT", "anchor_irt"),
    ("anchors by IRT", "p_irt"), ("anchors by IRT", "gp_irt"), ("disagreement", "ridge"),
)  # fmt: skip
FIGURE = (
    ("random", "mean", "random, mean"), ("random", "greg", "random, GREG"), ("random", "gp_irt", "random, gp-IRT"),
    ("random", "eap", "random, EAP"), ("greedy", "blup", "greedy, BLUP"), ("hybrid", "recentred_eap", "hybrid, EAP"),
    ("each", "eap", "adaptive, EAP"),
)  # fmt: skip
N = 20
NAMED = (("random", "mean", "random, mean"), ("greedy", "blup", "greedy, BLUP"), ("each", "eap", "one by one, EAP"))
PUBLISHED = (
    ("random", "p_irt"), ("random", "gp_irt"), ("random", "ridge"), ("random", "aipw"),
    ("anchors by correctness", "anchor_correctness"), ("anchors by IRT", "anchor_irt"), ("anchors by IRT", "p_irt"),
    ("anchors by IRT", "gp_irt"), ("disagreement", "ridge"),
)  # fmt: skip
MEASURES = {"tau": "τ", "regret": "regret", "mae": "error"}
BAR = (0.87, 0.96)
"""Coverage of a nominal 90 % interval that is good enough."""

MOST = 4
"""Cells outside of it that are named."""

ORDER = ("arc_challenge", "ifeval", "gsm", "mmlu", "med_qa", "commonsense", "math", "musr", "openllm_math")


def results() -> dict[str, dict[str, Any]]:
    """Data set → setting → cells of `run.py`."""
    found: dict[str, dict[str, Any]] = {}
    for path in (HERE / "results").glob("*.json"):
        name, _, setting = path.stem.partition("-")
        found.setdefault(name, {})[setting] = json.loads(path.read_text())["cells"]
    return {name: found[name] for name in ORDER if name in found}


def cells(found: dict[str, Any], setting: str, policy: str, estimator: str, field: str, scale: float) -> str:
    """One field at each n."""
    return " ".join(shown(found, setting, f"{policy} | {estimator} | {n}", field, scale) for n in NUMBERS)


def shown(found: dict[str, Any], setting: str, key: str, field: str, scale: float) -> str:
    value = found.get(setting, {}).get(key, {}).get(field)
    if value is None:
        return "–"
    return f"{scale * value:.1f}" if scale == 100 else f"{value:.2f}".replace("0.", ".", 1)


def table(found: dict[str, dict[str, Any]], setting: str, field: str, scale: float, names: list[str]) -> str:
    """Markdown, a column for each data set."""
    lines = ["| items | estimator | " + " | ".join(names) + " |", "|" + "---|" * (2 + len(names))]
    for policy, estimator in ROWS:
        row = [cells(found[name], setting, policy, estimator, field, scale) for name in names]
        if any(set(cell) - set("– ") for cell in row):
            lines.append(f"| {policy} | {estimator} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def at_twenty(found: dict[str, dict[str, Any]], setting: str, name: str) -> str:
    """Everything about one data set at n = 20."""
    heads = ("mae", "bias", "rmse", "tau", "regret", "inflation", "coverage")
    lines = ["| items | estimator | MAE | bias | RMSE | τ | regret | inflation | 90 % covers |", "|" + "---|" * 9]
    for policy, estimator in ROWS:
        key = f"{policy} | {estimator} | 20"
        row = [shown(found[name], setting, key, head, 1 if head in ("tau", "coverage") else 100) for head in heads]
        lines.append(f"| {policy} | {estimator} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def figure(found: dict[str, dict[str, Any]]) -> None:
    """figure.svg: error and rank correlation by number of items, one column for each of three data sets."""
    names = [name for name in ("arc_challenge", "ifeval", "gsm") if name in found]
    colours = ("#888888", "#b08d57", "#c0504d", "#4f81bd", "#2e8b57", "#8064a2", "#111111")
    width, height, left, top = 250, 170, 50, 40
    parts = []
    for column, name in enumerate(names):
        for line, (field, scale, most) in enumerate((("mae", 100, 12.0), ("tau", 1, 1.0))):
            x0, y0 = left + column * (width + 40), top + line * (height + 50)
            least = 0.0 if field == "mae" else 0.4
            parts += _axes(x0, y0, width, height, name if line == 0 else "", field, least, most)
            for colour, (policy, estimator, _) in zip(colours, FIGURE, strict=True):
                points = []
                for place, n in enumerate(NUMBERS):
                    value = found[name].get("interpolation", {}).get(f"{policy} | {estimator} | {n}", {}).get(field)
                    if value is not None:
                        y = y0 + height * (1 - (min(scale * value, most) - least) / (most - least))
                        points.append(f"{x0 + width * place / 4:.1f},{y:.1f}")
                parts.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="2"/>')
    for place, (colour, (_, _, label)) in enumerate(zip(colours, FIGURE, strict=True)):
        x, y = left + 125 * place, top + 2 * (height + 50) + 12
        parts.append(f'<rect x="{x}" y="{y - 8}" width="14" height="4" fill="{colour}"/>')
        parts.append(f'<text x="{x + 18}" y="{y}">{label}</text>')
    size = (left + len(names) * (width + 40), top + 2 * (height + 50) + 30)
    style = "<style>text{font:11px sans-serif}</style>"
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}">'
    background = '<rect width="100%" height="100%" fill="white"/>'
    (HERE / "figure.svg").write_text("\n".join([svg, style, background, *parts, "</svg>"]) + "\n")


def _axes(x0: int, y0: int, width: int, height: int, title: str, field: str, least: float, most: float) -> list[str]:
    frame = f'<rect x="{x0}" y="{y0}" width="{width}" height="{height}" fill="none" stroke="#bbb"/>'
    parts = [frame, f'<text x="{x0}" y="{y0 - 10}" font-weight="bold">{title}</text>']
    label = "MAE, points" if field == "mae" else "Kendall's tau"
    parts.append(f'<text x="{x0 + 6}" y="{y0 + 14}">{label}</text>')
    for step in range(5):
        value = least + (most - least) * step / 4
        y = y0 + height * (1 - step / 4)
        parts.append(f'<text x="{x0 - 6}" y="{y + 4:.1f}" text-anchor="end">{value:g}</text>')
    for place, n in enumerate(NUMBERS):
        parts.append(f'<text x="{x0 + width * place / 4:.1f}" y="{y0 + height + 16}" text-anchor="middle">{n}</text>')
    return parts


def summary(found: dict[str, dict[str, Any]], setting: str) -> str:
    """Ranking with twenty items by set: two ways of ours that were named in advance, and whichever published one did
    best there."""
    heads = [label for _, _, label in NAMED]
    lines = [
        "| data set | " + " | ".join(heads) + " | best of the published | which |",
        "|" + "---|" * (len(heads) + 3),
    ]
    for name in found:
        cells = found[name].get(setting)
        if cells is None:
            continue
        row = [ranking(cells[f"{policy} | {estimator} | {N}"]) for policy, estimator, _ in NAMED]
        best = max(PUBLISHED, key=lambda one: cells[f"{one[0]} | {one[1]} | {N}"]["tau"])
        own = cells[f"{best[0]} | {best[1]} | {N}"]
        lines.append(f"| {name} | " + " | ".join(row) + f" | {ranking(own)} | {best[1]}, {best[0]} |")
    return "\n".join(lines)


def ranking(cell: dict[str, float]) -> str:
    """Kendall's τ, regret and mean absolute error in points."""
    tau = f"{cell['tau']:.2f}".replace("0.", ".", 1)
    return f"{tau} · {100 * cell['regret']:.1f} · {100 * cell['mae']:.1f}"


def wins(found: dict[str, dict[str, Any]], setting: str) -> str:
    """On how many sets each of ours beats the best published one at each n, by τ, regret and error; the published one
    is the best there by the same measure."""
    heads = " | ".join(f"n = {n}" for n in NUMBERS)
    lines = [f"| items, estimator | by | {heads} |", "|" + "---|" * (2 + len(NUMBERS))]
    names = [name for name in found if setting in found[name]]
    for policy, estimator, label in NAMED:
        for field, sign in (("tau", 1), ("regret", -1), ("mae", -1)):
            row = []
            for n in NUMBERS:
                at = [found[name][setting] for name in names if f"{policy} | {estimator} | {n}" in found[name][setting]]
                own = [worth(cells[f"{policy} | {estimator} | {n}"][field], sign) for cells in at]
                best = [max(worth(cells[f"{p} | {e} | {n}"][field], sign) for p, e in PUBLISHED) for cells in at]
                row.append(f"{sum(o > b for o, b in zip(own, best, strict=True))} of {len(at)}")
            lines.append(f"| {label} | {MEASURES[field]} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def worth(value: float | None, sign: int) -> float:
    """The larger the better; no τ, where everybody answered the items alike, is the worst."""
    return -math.inf if value is None else sign * value


def intervals(found: dict[str, dict[str, Any]], setting: str) -> str:
    """For every row with an error, coverage over all sets and numbers of items, and what lies outside of the bar."""
    low, high = BAR
    lines = [
        "| items | estimator | mean | least | most | outside | where |",
        "|" + "---|" * 7,
    ]
    total = outside = 0
    for policy, estimator in ROWS:
        cells = [
            (found[name][setting][key]["coverage"], name, n)
            for name in found for n in NUMBERS
            if setting in found[name] and (key := f"{policy} | {estimator} | {n}") in found[name][setting]
            and found[name][setting][key]["coverage"] is not None
        ]  # fmt: skip
        if not cells:
            continue
        values = [value for value, _, _ in cells]
        missed = [cell for cell in cells if not low <= round(cell[0], 2) <= high]
        total, outside = total + len(cells), outside + len(missed)
        where = ", ".join(f"{name} {n} ({two(value)})" for value, name, n in missed) if len(missed) <= MOST else "many"
        shown = " | ".join(two(value) for value in (sum(values) / len(values), min(values), max(values)))
        lines.append(f"| {policy} | {estimator} | {shown} | {len(missed)} of {len(cells)} | {where} |")
    return "\n".join([*lines, "", f"Outside of {two(low)} to {two(high)}: {outside} of {total} cells."])


def two(value: float) -> str:
    """.90 or 1.00."""
    return f"{value:.2f}".replace("0.", ".", 1) if value < 0.995 else "1.00"


def costs() -> str:
    """What was run, and the time it took."""
    lines = ["| data set | models × items | setting | splits × draws | draws, published | CPU s |", "|" + "---|" * 6]
    for name in ORDER:
        for setting in ("interpolation", "top_quartile"):
            path = HERE / "results" / f"{name}-{setting}.json"
            if path.exists():
                one = json.loads(path.read_text())
                size, draws = f"{one['models']} × {one['items']}", f"{one['splits']} × {one['draws']}"
                published = one["splits"] * one["published_draws"]
                lines.append(f"| {name} | {size} | {setting} | {draws} | {published} | {one['cpu_s']} |")
    return "\n".join(lines)


def put(text: str, name: str, content: str) -> str:
    """A text whose part between two marks is replaced.

    Raises:
        ValueError: it lacks a mark.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    first = text.index(start) + len(start)
    return text[:first] + content + "\n" + text[text.index(end, first) :]


def main() -> None:
    """The README's tables between their marks, tables.md, and the figure."""
    found = results()
    readme = HERE / "README.md"
    text = readme.read_text()
    text = put(text, "costs", costs())
    for setting in ("interpolation", "top_quartile"):
        text = put(text, f"summary {setting}", summary(found, setting))
        text = put(text, f"wins {setting}", wins(found, setting))
        text = put(text, f"intervals {setting}", intervals(found, setting))
    text = put(text, "arc", at_twenty(found, "interpolation", "arc_challenge"))
    readme.write_text(text)
    parts = [
        "# All tables\n\nMade by table.py; rows and columns as in the [README](README.md); n = 10, 20, 30, 50, 100."
    ]
    for title, setting, field, scale in (
        ("Interpolation: mean absolute error in points", "interpolation", "mae", 100.0),
        ("Interpolation: Kendall's τ", "interpolation", "tau", 1.0),
        ("Interpolation: regret of the pick among 16, in points", "interpolation", "regret", 100.0),
        ("Interpolation: inflation of that pick, in points", "interpolation", "inflation", 100.0),
        ("Interpolation: share covered by the nominal 90 % interval", "interpolation", "coverage", 1.0),
        ("Top quartile: mean absolute error in points", "top_quartile", "mae", 100.0),
        ("Top quartile: bias in points", "top_quartile", "bias", 100.0),
        ("Top quartile: Kendall's τ", "top_quartile", "tau", 1.0),
        ("Top quartile: regret of the pick among 16, in points", "top_quartile", "regret", 100.0),
        ("Top quartile: share covered by the nominal 90 % interval", "top_quartile", "coverage", 1.0),
    ):
        names = [name for name in found if setting in found[name]]
        for part in [names[:3], names[3:6], names[6:]]:
            if part:
                parts.append(f"## {title}: {', '.join(part)}\n\n{table(found, setting, field, scale, part)}")
    (HERE / "tables.md").write_text("\n\n".join(parts) + "\n")
    figure(found)


if __name__ == "__main__":
    main()
