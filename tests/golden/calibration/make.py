"""Run public code for merges that read statistics on random tensors and keep the numbers: see ../README.md.

    python make.py DATALESS_MODEL_MERGING MATS OTA_MERGE LED_MERGING RCP_MERGING OSRM

The arguments are checkouts of the repositories. Needs torch, scipy, tqdm, safetensors. Their functions are taken out of
their files where they lie and run; nothing of their code is kept.
"""

from __future__ import annotations

import ast
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from scipy.sparse.linalg import LinearOperator, cg

HERE = Path(__file__).parent
SOURCES, OUT, INTO, ITEMS = ("a", "b", "c"), 12, 9, 3
SHARES = [0.5, 0.3, 0.2]
Tensors = dict[str, torch.Tensor]


def functions(path: Path, names: dict[str, Any], *wanted: str) -> dict[str, Any]:
    """Functions of a file, or of a class in it, made in a namespace of ours."""
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef) and n.name in wanted]
    for node in nodes:
        node.decorator_list, node.returns = [], None
        for argument in (*node.args.args, *node.args.kwonlyargs):
            argument.annotation = None
    module = ast.fix_missing_locations(ast.Module(body=list(nodes), type_ignores=[]))
    exec(compile(module, "theirs", "exec"), names)
    return names


def inputs() -> Tensors:
    generator = torch.Generator().manual_seed(20)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    found = {"base/matrix": normal(OUT, INTO), "base/norm": normal(INTO)}
    for s in SOURCES:
        for name in ("matrix", "norm"):
            shape = found[f"base/{name}"].shape
            found[f"{s}/{name}"] = found[f"base/{name}"] + 0.1 * normal(*shape)
            found[f"{s}/{name}/fisher"] = (1e-3 * normal(*shape)).square()
            found[f"{s}/{name}/second_moment"] = (1e-4 * normal(*shape)).square()
            found[f"{s}/{name}/saliency"] = normal(*shape).abs()
            found[f"{s}/{name}/base_saliency"] = normal(*shape).abs()
        x, g = normal(40, INTO) @ normal(INTO, INTO), normal(40, OUT) @ normal(OUT, OUT)
        found[f"{s}/matrix/gram"] = x.T @ x / 40
        found[f"{s}/matrix/output_gram"] = g.T @ g / 40
        found[f"{s}/matrix/base_features"] = normal(ITEMS, INTO)
    return found


def of(found: Tensors, name: str) -> list[torch.Tensor]:
    return [found[f"{s}/{name}"] for s in SOURCES]


def dataless(repo: Path, found: Tensors, out: Tensors) -> None:
    names = {"torch": torch, "re": __import__("re"), "logging": __import__("logging")}
    wanted = ("fisher_weighted_average", "get_fisher_norm_coeff", "regmean_mean_params", "reduce_non_diag")
    names = functions(repo / "src/model_merge/avg_merger.py", names, *wanted)
    for normalize in (None, "param", "model"):
        config = SimpleNamespace(fisher_smooth=1e-6, fisher_normalize=normalize)
        own = SimpleNamespace(merger_config=config)
        own.get_fisher_norm_coeff = partial(names["get_fisher_norm_coeff"], own)
        models = {name: of(found, name) for name in ("matrix", "norm")}
        fishers = [{name: found[f"{s}/{name}/fisher"] for name in models} for s in SOURCES]
        merged = names["fisher_weighted_average"](own, models, torch.tensor(SHARES), fishers)
        out |= {f"fisher_{normalize}/{name}": tensor for name, tensor in merged.items()}
    for factor in (0.1, 0.9, 1.0):
        config = SimpleNamespace(regmean_exclude_param_regex=[], regmean_diag=False, regmean_reduce_nondiag=factor)
        own = SimpleNamespace(merger_config=config)
        own.reduce_non_diag = partial(names["reduce_non_diag"], own)
        models = {"m.weight": of(found, "matrix"), "norm.weight": of(found, "norm")}
        grams = [{"m": found[f"{s}/matrix/gram"]} for s in SOURCES]
        merged = names["regmean_mean_params"](own, models, grams, model_coeffs=SHARES)
        out |= {
            f"regmean_{factor}/matrix": merged["m.weight"].contiguous(),
            f"regmean_{factor}/norm": merged["norm.weight"],
        }


def mats(repo: Path, found: Tensors, out: Tensors) -> None:
    torch.Tensor.cuda = lambda self: self  # type: ignore[method-assign,assignment]  # their loop wants a GPU
    names = {
        "torch": torch, "np": np, "cg": cg, "LinearOperator": LinearOperator, "tqdm": list,
        "from_numpy": torch.from_numpy,
    }  # fmt: skip
    names = functions(repo / "src/merging/conjugateGradient_fisherMerging.py", names, "cg_forwardBackward")
    grams, outs = of(found, "matrix/gram"), of(found, "matrix/output_gram")
    pull = sum(g @ m.T @ h for g, m, h in zip(grams, of(found, "matrix"), outs, strict=True))
    start = found["base/matrix"] + 0.3 * sum(m - found["base/matrix"] for m in of(found, "matrix"))
    for steps in (1, 3, 6):
        merged, _ = names["cg_forwardBackward"](
            [{"m.weight": g} for g in grams], [{"m.weight": h} for h in outs], {"m.weight": pull},
            {"m.weight": start.T}, steps, ["m"],
        )  # fmt: skip
        out[f"mats_{steps}/matrix"] = merged["m.weight"].float().contiguous()


def ota(repo: Path, found: Tensors, out: Tensors) -> None:
    import logging

    path = repo / "mergekit/merge_methods/ota.py"
    names: dict[str, Any] = {"torch": torch, "np": np, "logger": logging.getLogger()}
    wanted = (
        "_approximate_spectral_norm", "rms_to_rms_operator_norm", "l1_to_rms_operator_norm", "_calculate_hybrid_norm",
        "_apply_preconditioner_mask", "_transform_and_scale_preconditioner", "_normalize_preconditioner",
        "_calculate_single_weight_tensor", "_compute_weighting_tensors", "_perform_weighted_merge",
    )  # fmt: skip
    names = functions(path, names, *wanted)
    methods = {name: names[name] for name in wanted if name.startswith("_") and name not in wanted[:4]}
    task = type("Task", (), methods)
    runs: dict[str, dict[str, Any]] = {
        "ota": {}, "ota_global": {"normalise_mode": "global"},
        "ffg": {"density": 0.4}, "ffg_rescale": {"density": 0.4, "rescale": True},
        "ffg_linear": {"density": 0.4, "rescale": True, "masked_task_vector_merge_method": "linear"},
        "ffg_ties": {"density": 0.4, "rescale": True, "masked_task_vector_merge_method": "ties"},
    }  # fmt: skip
    for run, options in runs.items():
        density = options.pop("density", None)
        for name in ("matrix", "norm"):
            own = task()
            defaults = {
                "weight_info": SimpleNamespace(name=name), "epsilon": 1e-12, "normalise_mode": "none",
                "precond_power": 0.5, "precond_threshold": None, "base_model_ref": "base", "fallback_to_base": True,
                "rescale": False, "approximate_norm": False, "rescale_relative_threshold": 1e-6, "ties_density": None,
                "masked_task_vector_merge_method": "precond", "_is_thresholding_active": density is not None,
            }  # fmt: skip
            for field, value in {**defaults, **options}.items():
                setattr(own, field, value)
            base, moments = found[f"base/{name}"], dict(zip(SOURCES, of(found, f"{name}/second_moment"), strict=True))
            own.tensor_parameters = {s: {} for s in SOURCES}
            if density is not None:
                for s in SOURCES:
                    score = (moments[s] * (found[f"{s}/{name}"] - base).square()).flatten().sort(descending=True).values
                    own.tensor_parameters[s]["precond_threshold"] = float(score[int(density * len(score)) - 1])
            own._get_and_load_preconditioner = lambda model, tensor, device, moments=moments: moments[model]
            stacked = torch.stack(of(found, name))
            masses, masks = own._compute_weighting_tensors(list(SOURCES), stacked, base)
            out[f"{run}/{name}"] = own._perform_weighted_merge(stacked, masses, masks, list(SOURCES), base)


def led(repo: Path, found: Tensors, out: Tensors) -> None:
    path = repo / "model_merging_methods/mask_weights_utils.py"
    score = functions(path, {"torch": torch}, "mask_input_with_two_score")["mask_input_with_two_score"]
    densities = dict(zip(SOURCES, (0.5, 0.4, 0.6), strict=True))
    for pattern in ("11", "x1", "01"):
        for name in ("matrix", "norm"):
            base = found[f"base/{name}"]
            located = {
                s: score(torch.ones_like(base), densities[s], found[f"{s}/{name}/base_saliency"],
                         found[f"{s}/{name}/saliency"], score_pattern=pattern)
                for s in SOURCES
            }  # fmt: skip
            merged = base.clone()
            for s in SOURCES:
                others = torch.stack([located[o] for o in SOURCES if o != s]).any(0).int()
                merged += 0.9 * score(
                    found[f"{s}/{name}"] - base, densities[s], found[f"{s}/{name}/base_saliency"],
                    found[f"{s}/{name}/saliency"], score_pattern=pattern, util_mask=others,
                )  # fmt: skip
            out[f"led_{pattern}/{name}"] = merged


def sens(repo: Path, found: Tensors, out: Tensors) -> None:
    wanted = (
        "calculate_task_specific_scaling_factors", "calculate_cross_task_scaling_factors",
        "calculate_final_scaling_coefficients", "merge_models",
    )  # fmt: skip
    names: dict[str, Any] = {
        "torch": torch,
        "F": torch.nn.functional,
        "OrderedDict": OrderedDict,
        "tqdm": lambda x, **k: x,
    }
    names = functions(repo / "baselines/sensmerge/sens_merging.py", names, *wanted)

    def text(sample: str) -> str:
        return sample

    class Model(torch.nn.Module):
        """Its parameters and their gradients are ours: |θ·g| is the saliency."""

        def __init__(self, source: str) -> None:
            super().__init__()
            self.model = torch.nn.Module()
            self.model.layers = torch.nn.Module()
            for layer, name in (("0", "matrix"), ("1", "norm")):
                part = torch.nn.Module()
                part.weight = torch.nn.Parameter(found[f"{source}/{name}"].clone())
                self.model.layers.add_module(layer, part)
            self.source = source

    def gradients(model: Any, tokenizer: Any, batch: Any, device: Any) -> float:
        for layer, name in (("0", "matrix"), ("1", "norm")):
            part = model.model.layers.get_submodule(layer)
            part.weight.grad = found[f"{model.source}/{name}/saliency"] / part.weight.detach().abs()
        return 0.0

    generator = torch.Generator().manual_seed(3)
    logits = {(m, t): torch.randn(1, 5, 7, generator=generator) for m in SOURCES for t in SOURCES}
    names["calculate_loss_and_gradients"] = gradients
    names["get_logits"] = lambda model, tokenizer, batch, device: logits[model.source, batch[0]]
    models = [Model(s) for s in SOURCES]
    per_task = [names[wanted[0]](m, None, [s], text, "cpu", 1, "") for m, s in zip(models, SOURCES, strict=True)]
    transfer = names[wanted[1]](models, [None] * 3, [[s] for s in SOURCES], [text] * 3, "cpu", 1, "")
    sigma = names[wanted[2]]([alpha for alpha, _ in per_task], transfer, 0.05, "cpu")
    weights = [{k: v.detach() for k, v in m.state_dict().items()} for m in models]
    places = {"model.layers.0.weight": "matrix", "model.layers.1.weight": "norm"}
    base = {key: found[f"base/{name}"] for key, name in places.items()}
    merged = names[wanted[3]](base, weights, sigma, [per_layer for _, per_layer in per_task], 3)
    out |= {f"sens/{name}": merged[key] for key, name in places.items()}
    for m in SOURCES:
        apart = [(logits[m, t] - logits[t, t]).norm(dim=-1).mean() if m != t else torch.tensor(0.0) for t in SOURCES]
        found[f"{m}/logit_distance"] = torch.stack(apart)


def osrm(repo: Path, found: Tensors, out: Tensors) -> None:
    names = functions(repo / "utils.py", {"torch": torch}, "peft_analytical_init")
    torch.Tensor.to = lambda self, *args: self  # type: ignore[method-assign,assignment]  # theirs go to a GPU
    base, merged = found["base/matrix"], found["base/matrix"].clone()
    for s in SOURCES:
        others = {o: {"w": found[f"{o}/matrix/base_features"].mean(0, keepdim=True)} for o in SOURCES if o != s}
        free = names["peft_analytical_init"](INTO - len(others), others)["w"]
        merged += 0.7 * (found[f"{s}/matrix"] - base) @ torch.linalg.pinv(free) @ free
    out["osrm/matrix"] = merged


def main() -> None:
    torch.set_num_threads(1)
    repos = [Path(at) for at in sys.argv[1:]]
    found, out = inputs(), {}
    for run, repo in zip((dataless, mats, ota, led, sens, osrm), repos, strict=True):
        run(repo, found, out)
    save_file(
        {**found, **{f"result/{name}": t.detach().contiguous() for name, t in out.items()}}, HERE / "merges.safetensors"
    )


main()
