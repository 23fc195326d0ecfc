"""Run the authors' code for merges of LoRA factors on random factors and keep the numbers: see ../README.md.

    python make.py CORE_SPACE ROBUSTMERGE BLACK_BOX TTMERGE

The arguments are checkouts of their repositories. Needs torch, safetensors, tqdm. Their functions are taken out of
their files where they lie and run; nothing of their code is kept.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
SOURCES, RANK, INTO, OUT = ("a", "b", "c"), 4, 24, 17


def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(path.read_text())))


def run(parts: list[ast.AST], names: dict[str, Any]) -> dict[str, Any]:
    module = ast.Module(body=parts, type_ignores=[])  # type: ignore[arg-type]
    exec(compile(ast.fix_missing_locations(module), "theirs", "exec"), names)
    return names


def functions(path: Path, *wanted: str) -> list[ast.AST]:
    return [node for node in nodes(path) if isinstance(node, ast.FunctionDef) and node.name in wanted]


def core_space(repo: Path, factors: dict[str, torch.Tensor], out: dict[str, torch.Tensor]) -> None:
    names = run(functions(repo / "task_merger.py", "get_core_matrices"), {"torch": torch})
    pairs = [{"w": (factors[f"{s}/A"], factors[f"{s}/B"])} for s in SOURCES]
    holder = type("Holder", (), {"cache": {}})()
    cores, left, right = names["get_core_matrices"](holder, pairs, "w", {})
    out["core/sum"] = left @ torch.stack(cores).sum(0) @ right
    for at, s in enumerate(SOURCES):
        out[f"core/{s}"] = left @ cores[at] @ right
        out[f"core_singular/{s}"] = torch.linalg.svdvals(cores[at])
    names = run(functions(repo / "task_merger.py", "get_tsv_delta_w"), {"torch": torch})
    out["core_tsv"] = left @ names["get_tsv_delta_w"](holder, cores) @ right
    wanted = ("ties_merging", "topk_values_mask", "resolve_sign", "resolve_zero_signs", "disjoint_merge")
    names = run(functions(repo / "merging_functions.py", *wanted), {"torch": torch})
    # Bases are defined up to signs: both are made the same way round first, as the trim and the election see them.
    flip_left = torch.sign(left.gather(0, left.abs().argmax(0, keepdim=True)))
    flip_right = torch.sign(right.gather(1, right.abs().argmax(1, keepdim=True)))
    turned = [flip_left.T * core * flip_right.T for core in cores]
    merged, _, mask = names["ties_merging"]([core.flatten() for core in turned], topK=10)
    out["core_ties"] = (left * flip_left) @ merged.view_as(cores[0]) @ (right * flip_right)
    out["core_ties_kept"] = mask.sum(1)


def robustmerge(repo: Path, factors: dict[str, torch.Tensor], out: dict[str, torch.Tensor]) -> None:
    path = repo / "llava/model/builder.py"
    loop = next(
        node
        for node in nodes(path)
        if isinstance(node, ast.For)
        and isinstance(node.target, ast.Tuple)
        and "concat_model_weights" in ast.dump(node.iter)
    )
    stacked = {f"lora_{f}": torch.stack([factors[f"{s}/{f}"] for s in SOURCES]) for f in "AB"}
    names = {
        "torch": torch, "concat_model_weights": stacked, "merged_model_weights": {}, "mask_ratio": 0.2,
        "att_ratio": 0.2, "fuse_weight": torch.full((len(SOURCES), 1, 1), 2.0),
    }  # fmt: skip
    merged = run([*functions(path, "clamp"), loop], names)["merged_model_weights"]
    out["copa/A"], out["copa/B"] = merged["lora_A"], merged["lora_B"]


def black_box(repo: Path, factors: dict[str, torch.Tensor], out: dict[str, torch.Tensor]) -> None:
    path = repo / "BMM_code/core/merger.py"
    spec = importlib.util.spec_from_file_location("merger", path)
    assert spec is not None
    assert spec.loader is not None
    merger = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(merger)
    with tempfile.TemporaryDirectory() as scratch:
        places = {}
        for s in SOURCES:
            places[s] = Path(scratch) / s / "adapter_model.safetensors"
            places[s].parent.mkdir()
            save_file({f"w.lora_{f}.weight": factors[f"{s}/{f}"] for f in "AB"}, places[s])
        made = merger.materialize_merged_adapter(
            places, [0.5, 1.0, 0.13], [0.7, -0.4, 1.1], Path(scratch) / "out", "base", "preset"
        )
        for f in "AB":
            out[f"black_box/{f}"] = load_file(made)[f"w.lora_{f}.weight"]


def ttmerge(repo: Path) -> dict[str, list[float]]:
    sys.path.insert(0, str(repo / "src/ttmerge"))
    from merging_model import TestTimeMergingModel

    found: dict[str, list[float]] = {}
    for tau, most in ((0.01, 50), (0.2, 50), (0.01, 2)):
        corpus = torch.tensor([[0.97, 0.0], [0.95, 0.0], [0.90, 0.0], [0.6, 0.0]])
        model = TestTimeMergingModel.__new__(TestTimeMergingModel)
        torch.nn.Module.__init__(model)
        model.device, model.beta, model.tau = torch.device("cpu"), 0.2, tau
        model.max_merge_count, model.prefix_length, model.verbose = most, 5, False
        model.encoder_prompt, model.expert_embeddings = None, corpus
        model.tokenizer = type("T", (), {"decode": staticmethod(lambda *a, **k: "")})
        model.encoder = type("E", (), {"encode": staticmethod(lambda *a, **k: torch.tensor([1.0, 0.0]))})
        shares = [0.0] * len(corpus)

        def keep(selected: list[int], weights: list[float], into: list[float] = shares) -> list[str]:
            for at, weight in zip(selected, weights, strict=True):
                into[at] = weight
            return []

        model._efficient_merge_adapters = keep
        model._load_merged_model(torch.zeros(1, 3, dtype=torch.long))
        found[f"tau={tau} most={most}"] = shares
    return found


def main(core: str, robust: str, black: str, tt: str) -> None:
    generator = torch.Generator().manual_seed(20)
    factors = {}
    for s in SOURCES:
        factors[f"{s}/A"] = torch.randn(RANK, INTO, generator=generator)
        factors[f"{s}/B"] = torch.randn(OUT, RANK, generator=generator)
    results: dict[str, torch.Tensor] = {}
    core_space(Path(core), factors, results)
    robustmerge(Path(robust), factors, results)
    black_box(Path(black), factors, results)
    save_file({n: t.contiguous() for n, t in {**factors, **results}.items()}, HERE / "merges.safetensors")
    (HERE / "ttmm.json").write_text(json.dumps(ttmerge(Path(tt)), indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
