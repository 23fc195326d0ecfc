"""What methods declare to hold beside their inputs, against what the process then takes from the system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evomerge.merge.methods import METHODS
from evomerge.merge.workspace import Extent, tensors

WHOLE = sorted(name for name, method in METHODS.items() if method.grain == "tensor")
MEASURED = """
import ctypes, json, sys
from collections.abc import Iterator
from dataclasses import replace
import torch
from evomerge.merge.calibration.kinds import ALL, COLUMNS, GATES, MASK
from evomerge.merge.method import Block
from evomerge.merge.methods import METHODS
from evomerge.merge.workspace import Extent
from evomerge.models.factors import Factors

libc = ctypes.CDLL(None)
libc.mallopt(-3, 1 << 16)  # what is freed goes back at once: the peak is what is held at a time
libc.mallopt(-1, 1 << 16)
torch.set_num_threads(1)


def status(what):
    for line in open("/proc/self/status"):
        if line.startswith(what):
            return int(line.split()[1]) * 1024


def statistics(requires, shape, sources, generator, role):
    if role == "embedding":
        requires = requires - {"gram", "merged_gram", "output_gram", "base_features"}
    out, into = shape
    features = torch.randn(2 * into, into, generator=generator)
    answers = torch.randn(2 * out, out, generator=generator)
    known = {
        "gram": lambda: features.t() @ features, "merged_gram": lambda: features.t() @ features,
        "output_gram": lambda: answers.t() @ answers, "second_moment": lambda: torch.rand(shape, generator=generator),
        "base_features": lambda: features[:8].clone(), "hidden": lambda: torch.randn(20, 64, generator=generator),
        COLUMNS: lambda: torch.rand(into, generator=generator), GATES: lambda: torch.rand(into, generator=generator),
        MASK: lambda: torch.tensor(0.3),
    }
    found = {source: {kind: known[kind]() for kind in requires} for source in sources}
    if MASK in requires:
        found[ALL] = {MASK: torch.rand(shape, generator=generator)}
    return found


def rank_of(method, shape, number, low_rank):
    # adapters that together span all of a matrix, or next to nothing of it
    return min(shape) // number if method.factored and not low_rank else 8


def block_of(method, shape, number, role, low_rank, settings):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(shape, generator=generator)
    names = [f"s{i}" for i in range(number)]
    deltas, factors = {}, {}
    for name in names:
        rank = rank_of(method, shape, number, low_rank)
        A, B = torch.randn(rank, shape[1], generator=generator), torch.randn(shape[0], rank, generator=generator)
        if method.factored:
            factors[name], deltas[name] = Factors(A, B), None
        elif low_rank:
            deltas[name] = (B @ A).mul_(0.1).add_(torch.randn(shape, generator=generator), alpha=1e-6)
        else:
            deltas[name] = torch.randn(shape, generator=generator).mul_(0.1)
    shared = {p.name: p.default for p in method.parameters if not p.per_source} | settings
    own = {p.name: p.default for p in method.parameters if p.per_source}
    models = {}
    if method.domain == "weights":
        models, deltas = {name: delta.add_(base) for name, delta in deltas.items()}, {}
    return Block(
        "t", base, shared, dict.fromkeys(names, own), deltas, models, shape=shape, role=role, layer=0, num_layers=2,
        factors=factors, statistics=statistics(method.requires, shape, names, generator, role),
    )


def measured_of(method, block):
    if method.measure is None or method.measures(block.shared) == "nothing":
        return block
    return replace(block, measured=method.measure(lambda: [block]))


def merged(method, shape, number, role, low_rank, settings):
    with torch.no_grad():
        if name not in loaded:  # code that is loaded now, and what libraries keep from the first call on
            method.merge(measured_of(method, block_of(method, (256, 256), number, role, low_rank, settings)))
            loaded.add(name)
        block = measured_of(method, block_of(method, shape, number, role, low_rank, settings))
        libc.malloc_trim(0)
        open("/proc/self/clear_refs", "w").write("5")  # forgets the highest so far
        before = status("VmRSS")
        method.merge(block)
        return status("VmHWM") - before


loaded = set()
torch.linalg.eigh(torch.eye(512, dtype=torch.float64))
for line in sys.stdin:
    name, shape, number, role, low_rank, settings = json.loads(line)
    method, shape = METHODS[name], tuple(shape)
    taken = merged(method, shape, number, role, low_rank, settings)
    shared = {p.name: p.default for p in method.parameters if not p.per_source} | settings
    rank = number * rank_of(method, shape, number, low_rank) if method.factored else 0
    said = method.workspace(Extent(shape, role == "attention.query", number, shared, rank))
    print(json.dumps([taken, said]))
"""


def slack(name: str) -> int:
    """Bytes: blocks of fixed size, Python objects. Products of factors take some MiB at a time."""
    return 4 << 20 if METHODS[name].cost in ("svd", "solve") else 8 << 20


SQUARE, WIDE, TALL = (768, 768), (512, 1536), (1536, 512)


def numbers(name: str) -> list[int]:
    least, most = METHODS[name].num_sources
    return sorted({least, max(least, min(3, most or 3))})


def settings_of(name: str) -> list[dict[str, Any]]:
    """The defaults, and settings that hold more."""
    found: list[dict[str, Any]] = [{}]
    for parameter in METHODS[name].parameters:
        if parameter.name == "norm_scope":
            found = [{"norm_scope": "model"}]
        if parameter.name == "scope" and name.startswith("della"):
            found.append({"scope": "tensor"})
        if parameter.name == "direction":
            found += [{"direction": "horizontal"}, {"direction": "vertical"}]
        if parameter.name == "rank_share":
            found.append({"rank_share": 1.0})
    return found


def run(cases: list[list[Any]]) -> list[tuple[list[Any], int, int]]:
    """Cases with the bytes that merges took, and those that methods declare."""
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    done = subprocess.run([sys.executable, "-c", MEASURED], input=lines, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [(case, *json.loads(line)) for case, line in zip(cases, done.stdout.splitlines(), strict=True)]


def check(found: list[tuple[list[Any], int, int]]) -> None:
    one = {tuple(case[1]): 4 * case[1][0] * case[1][1] for case, _, _ in found}
    for case, taken, said in found:
        unit = one[tuple(case[1])]
        assert taken <= said + slack(case[0]), f"{case}: {taken / unit:.1f} tensors taken, {said / unit:.1f} declared"


def of_proc() -> bool:
    return Path("/proc/self/clear_refs").exists()


linux = pytest.mark.skipif(not of_proc(), reason="reads Linux's accounts")


@linux
def test_a_handful_of_methods_hold_what_they_declare() -> None:
    names = ("della", "star", "tsv_m", "iso_c", "axis", "wudi")
    check(run([[name, (512, 512), 2, "attention.query", False, {}] for name in names]))


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_every_method_holds_what_it_declares(name: str) -> None:
    """No more, whatever the spectrum and the shape; and not less than half of it in the dearest of these cases."""
    cases = [
        [name, shape, number, "attention.query", low_rank, settings]
        for shape in (SQUARE, WIDE, TALL)
        for number in numbers(name)[-1:]
        for low_rank in (
            (False, True) if METHODS[name].cost in ("svd", "solve") or METHODS[name].factored else (False,)
        )
        for settings in settings_of(name)
    ]
    found = run(cases)

    check(found)
    assert any(said <= 2 * (taken + slack(name)) for _, taken, said in found)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WHOLE if not METHODS[name].factored])
def test_a_table_of_tokens_is_held_as_declared(name: str) -> None:
    check(run([[name, (8192, 256), number, "embedding", False, settings_of(name)[0]] for number in numbers(name)]))


@pytest.mark.parametrize("name", WHOLE)
def test_a_larger_tensor_is_not_declared_to_need_less(name: str) -> None:
    method = METHODS[name]
    shared = {p.name: p.default for p in method.parameters if not p.per_source} | settings_of(name)[0]
    for matrix, rank in ((True, 0), (False, 0), (True, 8)):
        sizes = [method.workspace(Extent((n, 2 * n), matrix, 2, shared, rank)) for n in (16, 64, 256)]  # type: ignore[arg-type]

        assert sizes == sorted(sizes)
        assert sizes[0] >= tensors(1)(Extent((16, 32), matrix, 2, {}))
