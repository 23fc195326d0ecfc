"""An item report as plain text, for a terminal or a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fitness.irt.calibration import ItemReport, MethodReport
from fitness.irt.curves import Reliability

SHOWN_IDS = 8


def render(report: ItemReport) -> str:
    """Some sixty lines of at most 110 columns; scores in points, per cent of the metric's unit."""
    named = f" of {report.eval_set}" if report.eval_set else ""
    parts = [
        f"Item bank{named}: {report.subjects} subjects, {report.items} items, "
        f"mean {_points(report.mean)}, standard deviation {_points(report.spread)} points",
        _defects("all subjects answer alike", report.constant),
        _defects("better subjects answer worse (wrong labels?)", report.negative),
        "",
        "Held out of the bank, fold by fold:",
        _table(report.methods),
    ]
    if report.top_quartile:
        parts += ["", "The best quarter, predicted from the others:", _table(report.top_quartile)]
    if report.reliability is not None:
        parts += ["", _reliability(report.reliability)]
    parts += ["", *_drift(report), *_gates(report), _advice(report)]
    return "\n".join(parts) + "\n"


def _points(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"


def _share(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _defects(what: str, ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:SHOWN_IDS]) + (", …" if len(ids) > SHOWN_IDS else "")
    return f"{len(ids):5d} items that {what}" + (f": {shown}" if ids else "")


def _table(methods: Iterable[MethodReport]) -> str:
    head = ("estimator", "items", "n", "MAE", "bias", "RMSE", "tau", "regret", "inflation", "90 % covers")
    rows = [
        (
            one.estimator, one.policy, str(one.n), _points(one.accuracy.mae), _points(one.accuracy.bias),
            _points(one.accuracy.rmse), _share(one.accuracy.tau), _points(one.accuracy.regret),
            _points(one.accuracy.inflation), _share(one.accuracy.coverage),
        )
        for one in methods
    ]  # fmt: skip
    widths = [max(len(row[k]) for row in (head, *rows)) for k in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) if k < 2 else cell.rjust(width) for k, (cell, width) in enumerate(pairs)).rstrip()
        for pairs in (list(zip(row, widths, strict=True)) for row in (head, *rows))
    )


def _reliability(found: Reliability) -> str:
    lines = [f"Item curves: expected calibration error {_points(found.error)} points (predicted → right, answers)"]
    for one in found.bins:
        bar = "#" * round(30 * one.observed) if one.count else ""
        lines.append(f"  {_share(one.predicted):>4} → {_share(one.observed):>4}  {one.count:8d}  {bar}".rstrip())
    return "\n".join(lines)


def _drift(report: ItemReport) -> list[str]:
    lines = [
        f"Generation {one.generation}: answers {100 * one.residual:+.1f} points from the curves, z = {one.z:+.1f}"
        + ("  STALE" if one.stale else "")
        for one in report.drift
    ]
    if report.stale:
        lines.append("The bank no longer describes the candidates: score some of them on everything, or drop it.")
    return [*lines, ""] if lines else []


def _gates(report: ItemReport) -> list[str]:
    return [
        f"Gate at n = {one.n}: {'open' if one.open else 'closed'} ({'; '.join(one.reasons)})" for one in report.gates
    ]


def _advice(report: ItemReport) -> str:
    best = report.recommended
    if best is None:
        return "Recommended: nothing; the subjects do not differ."
    return (
        f"Recommended: {best.method} with n = {best.n} (reliability {best.reliability:.2f}, "
        f"the best of 16 gains {_points(best.gain)} points over a random one)"
    )
