"""Run the authors' code of spectral merge methods on small random matrices and keep the numbers: see ../README.md.

    python tests/golden/spectral/make.py PEERS

PEERS holds checkouts of the repositories named in ../README.md, a directory each. Nothing of their code is kept: their
functions are taken out of their files by name, because the modules import much that is not needed here.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import textwrap
from copy import deepcopy
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent
SHAPES = {"tall": (24, 17), "wide": (12, 20), "norm": (20,)}
SOURCES = ("a", "b", "c")


def inputs() -> dict[str, dict[str, Tensor]]:
    """Task vectors with a falling spectrum and something in common."""
    generator = torch.Generator().manual_seed(20)
    found: dict[str, dict[str, Tensor]] = {source: {} for source in SOURCES}
    for name, shape in SHAPES.items():
        common = torch.randn(shape, generator=generator)
        for source in SOURCES:
            own = common * 0.5 + torch.randn(shape, generator=generator)
            if len(shape) == 2:
                own = own * torch.logspace(0, -1, shape[1])
            found[source][name] = 0.01 * own
    return found


def load(path: Path) -> ModuleType:
    """A file of theirs as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def take(path: Path, *names: str) -> dict[str, Any]:
    """Functions of theirs, wherever in the file they are defined."""
    text = path.read_text()
    space: dict[str, Any] = {"torch": torch, "Tensor": Tensor, "deepcopy": deepcopy, "tqdm": lambda x, **_: x}
    space |= {"Tuple": tuple, "List": list, "nn": nn}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and node.name in names and node.name not in space:
            source = ast.get_source_segment(text, node)
            assert source is not None
            exec(textwrap.dedent(" " * node.col_offset + source), space)
    return space


class Model(nn.Module):
    """Tensors as parameters."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            setattr(self, name, nn.Parameter(tensor.clone()))


def star(peers: Path, deltas: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    one = load(peers / "STAR/merger/STAR.py").star
    return {
        f"star_{eta}/{name}": torch.stack([one(d[name], eta) for d in deltas]).mean(dim=0)
        for eta in (40, 80)
        for name in ("tall", "wide")
    }


def iso(peers: Path, deltas: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    vectors = [SimpleNamespace(vector=d) for d in deltas]
    config = SimpleNamespace(device="cpu", DATASETS=SOURCES, method=SimpleNamespace(common_space_fraction=0.8))
    module = load(peers / "iso-merging/src/utils/iso.py")
    tsv = load(peers / "iso-merging/src/utils/TSVM_utils.py")
    results = {
        "iso_c": module.iso_c(vectors, config),
        "iso_cts": module.iso_cts(vectors, config),
        "tsv_m": tsv.compute_and_sum_svd_mem_reduction(vectors, config),
    }
    return {f"{method}/{name}": tensor for method, found in results.items() for name, tensor in found.items()}


def drm(peers: Path, deltas: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    names = ("resolve_elementwise_sign_conflict", "disjoint_averaging", "zero_out_non_topk", "average")
    space = take(peers / "decom-renorm-merge/drm/_decom_renorm_merge.py", *names, "right_drm", "left_drm")
    space["Union"] = Any
    found = {}
    for name in ("tall", "wide"):
        for way, function in (("horizontal", "right_drm"), ("vertical", "left_drm")):
            stack = torch.stack([d[name] for d in deltas])
            found[f"drm_{way}/{name}"] = space[function](stack, 1.0, torch.zeros(()), basis_dropping_rate=0.8)
    stack = torch.stack([d["norm"] for d in deltas])
    elected = space["resolve_elementwise_sign_conflict"](stack)
    return {**found, "drm_horizontal/norm": space["disjoint_averaging"](elected)}


def opcm(peers: Path, deltas: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    folder = peers / "fusion_bench/fusion_bench/method/opcm"
    space = take(folder / "opcm.py", "merge_linear_weights", "merge_other_parameters")
    space |= {key: value for key, value in take(folder / "utils.py", "_svd", "svd").items() if key not in space}

    def norm(tensors: dict[str, Tensor]) -> float:
        return float(torch.cat([tensor.flatten() for tensor in tensors.values()]).norm())

    zero = {name: torch.zeros_like(tensor) for name, tensor in deltas[0].items()}
    merged, norms, before = dict(deltas[0]), [norm(deltas[0])], 1.0
    for delta in deltas[1:]:
        norms.append(norm(delta))
        state = SimpleNamespace(previous_lambda_t=before, lambda_t=1)
        for name, tensor in merged.items():
            linear = tensor.dim() == 2
            function = space["merge_linear_weights" if linear else "merge_other_parameters"]
            given = {"alpha": 0.5} if linear else {}
            merged[name] = function(state, tensor, zero[name], delta[name], param_name=name, **given)
        before = norm(merged) / (sum(norms) / len(norms))
        merged = {name: tensor / before for name, tensor in merged.items()}
    return {f"opcm/{name}": tensor for name, tensor in merged.items()}


def wudi(peers: Path, deltas: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    module = load(peers / "MLLMerging/LLaMA-Factory/swudi_aswudi.py")
    base = Model({name: torch.zeros_like(tensor) for name, tensor in deltas[0].items()})
    models = [Model(delta) for delta in deltas]
    given: dict[str, Any] = {"merge_device": "cpu", "progress": False}
    results = {
        "wudi": module.swudi_merge(base, models, [], truncate_rank_ratio=None, filter_type="none", **given),
        "iwudi": module.swudi_merge(base, models, [], truncate_rank_ratio=None, exp_time=3.0, **given),
        "swudi": module.swudi_merge(base, models, [], init_mode="mean", **given),
        "aswudi": module.aswudi_merge(base, models, [], **given),
    }
    return {f"{method}/{name}": tensor.detach() for method, found in results.items() for name, tensor in found.items()}


def optmerge(peers: Path, deltas: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """By their own Adam, for so long that it settles: its steps are 1e-5, the task vectors' entries some 1e-2."""
    path = peers / "MLLMerging/InternVL/internvl_chat/model_merging.py"
    text = path.read_text()
    whole = next(n for n in ast.walk(ast.parse(text)) if getattr(n, "name", "") == "wudi_merging2")
    inner = next(n for n in ast.walk(whole) if getattr(n, "name", "") == "get_redundant_task_vector")
    source = ast.get_source_segment(text, inner)
    assert source is not None
    space: dict[str, Any] = {"torch": torch, "tqdm": lambda x, **_: x, "print": lambda *_: None}
    exec(textwrap.dedent(" " * inner.col_offset + source), space)  # type: ignore[attr-defined]
    return {
        f"optmerge/{name}": space["get_redundant_task_vector"](name, torch.stack([d[name] for d in deltas]), 60_000)
        for name in ("tall", "wide")
    }


def knots(peers: Path, deltas: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    masks = load(peers / "KnOTS/masking_ops.py")
    space = take(peers / "KnOTS/task_merger.py", "apply_svd")
    names = ("tall", "wide")
    # the only thing that their method asks of its object
    owner = SimpleNamespace(
        dict_of_concat_matrices=lambda params, **_: {n: torch.cat([p[n] for p in params], dim=1) for n in names}
    )
    basis, _, parts, _ = space["apply_svd"](owner, [{n: d[n] for n in names} for d in deltas])
    vectors = [torch.cat([part[n].reshape(-1) for n in names]) for part in parts]
    kept = torch.vstack(vectors) * masks.ties_masking(vectors, topK=20)
    merged = masks.masked_merge(kept.clone(), "mean", [0.6])
    found, begin = {}, 0
    for name in names:
        size = parts[0][name].numel()
        found[f"knots/{name}"] = basis[name] @ merged[begin : begin + size].view_as(parts[0][name])
        begin += size
    return found


def main() -> None:
    """Write the numbers."""
    torch.set_num_threads(1)
    peers = Path(sys.argv[1])
    given = inputs()
    found = {f"{source}/{name}": tensor for source, tensors in given.items() for name, tensor in tensors.items()}
    for run in (star, iso, drm, opcm, wudi, optmerge, knots):
        found |= run(peers, [{name: t.clone() for name, t in given[source].items()} for source in SOURCES])
    save_file({key: tensor.contiguous() for key, tensor in found.items()}, HERE / "merges.safetensors")


if __name__ == "__main__":
    main()
