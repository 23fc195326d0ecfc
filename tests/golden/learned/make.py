"""Run public code for learned coefficients on random tensors and keep the numbers: see ../README.md.

    python make.py DAM ADAMERGING EXPERT_MERGING FUSION_BENCH ZIPLORA

The arguments are checkouts of the repositories. Needs torch, safetensors. Their functions and classes are taken out of
their files where they lie and run; nothing of their code is kept.
"""

from __future__ import annotations

import ast
import itertools
import math
import sys
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional, Union

import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
Tensors = dict[str, torch.Tensor]


def taken(path: Path, *wanted: str, **names: Any) -> SimpleNamespace:
    """Functions and classes of a file, made in a namespace of ours."""
    found: dict[str, Any] = {
        "torch": torch, "nn": nn, "F": nn.functional, "math": math, "itertools": itertools, "deepcopy": deepcopy,
        "Parameter": nn.Parameter, "Optional": Optional, "Union": Union, "List": list,
        "Optimizer": torch.optim.Optimizer, "log": SimpleNamespace(info=lambda *a: None), **names,
    }  # fmt: skip
    kinds = ast.FunctionDef | ast.ClassDef
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, kinds) and n.name in wanted]
    exec(compile(ast.fix_missing_locations(ast.Module(list[ast.stmt](nodes), [])), "theirs", "exec"), found)
    return SimpleNamespace(**{name: found[name] for name in wanted})


def dam(root: Path, found: Tensors) -> None:
    code = taken(root / "dam/modeling/dam.py", "DAMBaseLayer", "DAMLinearLayer")
    for shape in ("none", "tanh", "sigmoid", "relu"):
        layer = code.DAMLinearLayer(9, 12, num_models=3, non_linearity=shape)
        for i, s in enumerate("abc"):
            layer.weights[i].data = found[f"{s}/matrix"]
            layer.mergers[i].data = found[f"{s}/columns"]
        found[f"dam/{shape}"] = layer.get_dam_weight().detach()
    found["dam/similarity"] = layer.compute_mergers_similarity(0.01).detach()
    found["dam/overlap"] = layer.compute_mergers_overlap(1e-5).detach()
    found["dam/l1_l2"] = layer.compute_mergers_L1_L2_reg(1e-3, 1e-2).detach()
    mofo = taken(root / "dam/optimizer.py", "MoFOAdamW").MoFOAdamW
    p = nn.Parameter(found["a/columns"].clone())
    optimizer = mofo([p], lr=0.1, alpha=0.4)
    for step in range(4):
        p.grad = found[f"gradient/{step}"].clone()
        optimizer.step()
    found["mofo"] = p.detach()
    loss = taken(root / "dam/custom_trainer/dam_trainer.py", "kl_divergence_loss").kl_divergence_loss
    found["dam/kl"] = loss(found["logits/own"][None], found["logits/expert"][None], 7, temperature=2.0)


def adamerging(root: Path, found: Tensors) -> None:
    names = ("ties_merging_split", "topk_values_mask", "resolve_sign", "resolve_zero_signs", "disjoint_merge_split")
    code = taken(root / "src/ties_merging_utils.py", *names)
    flat = torch.stack([(found[f"{s}/matrix"] - found["base/matrix"]).flatten() for s in "abc"])
    split, _ = code.ties_merging_split(flat, reset_thresh=20, merge_func="dis-sum")
    for s, vector in zip("abc", split, strict=True):
        found[f"adamerging/{s}"] = vector.view(12, 9)
    entropy = taken(root / "src/main_layer_wise_adamerging.py", "softmax_entropy").softmax_entropy
    found["entropy"] = entropy(found["logits/own"]).mean(0)


def expert_merging(root: Path, found: Tensors) -> None:
    scale = taken(root / "global_utils/merging_utils.py", "scale_tensor_by_coeffs").scale_tensor_by_coeffs
    c = torch.tensor([0.1, 0.4, 0.2, 0.9, 0.7])
    found["expert_merging/chunks"], found["expert_merging/scaled"] = c, scale(found["a/matrix"], c)
    path = root / "global_utils/expert_merging_base.py"
    code = taken(path, "compute_ce_loss", "compute_regularization_loss", activate_func=torch.sigmoid)
    device = torch.device("cpu")
    z = {"v": found["z"], "w": found["z"][:, :1] * 2}
    student = SimpleNamespace(
        weight_coeffs=z, trainable_params_count=8, weight_coeffs_init_value=torch.tensor([0.1, 0.1])
    )
    self = SimpleNamespace(temperature=1.5, loss_device=device, sparsity_reg_weight=5.0, student_model=student,
                           teacher_models=[0, 0])  # fmt: skip
    found["expert_merging/ce"] = code.compute_ce_loss(self, found["logits/expert"], found["logits/own"])
    found["expert_merging/regularisation"] = code.compute_regularization_loss(self)


def frank_wolfe(root: Path, found: Tensors) -> None:
    code = taken(root / "fusion_bench/method/fw_merging/fw_hard.py", "frank_wolfe_selection")

    def checkpoint(source: str) -> Any:
        state = {"matrix": found[f"{source}/matrix"], "norm": found[f"{source}/columns"]}
        return SimpleNamespace(to=lambda device: SimpleNamespace(state_dict=lambda: state))

    gradients = {"matrix": found["gradient/matrix"], "norm": found["gradient/0"]}
    models = {s: checkpoint(s) for s in "abc"}
    free: dict[str, list[str]] = {"matrix": [], "norm": []}
    _, each, _, _ = code.frank_wolfe_selection(None, gradients, models, free, type="layer")
    _, one, total, _ = code.frank_wolfe_selection(None, gradients, models, [], type="task")
    found["frank_wolfe/choices"] = torch.tensor([ord(each["matrix"]), ord(each["norm"]), ord(one)])
    found["frank_wolfe/total"] = total


def ziplora(root: Path, found: Tensors) -> None:
    layer = taken(root / "ziplora_pytorch/ziplora.py", "ZipLoRALinearLayer").ZipLoRALinearLayer(9, 12)
    for i, s in enumerate("ab", start=1):
        getattr(layer, f"weight_{i}").data = found[f"{s}/matrix"] - found["base/matrix"]
        getattr(layer, f"merger_{i}").data = found[f"{s}/columns"]
    found["ziplora/weight"] = layer.get_ziplora_weight().detach()
    found["ziplora/similarity"] = layer.compute_mergers_similarity().detach()


def inputs() -> Tensors:
    generator = torch.Generator().manual_seed(31)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    found = {"base/matrix": normal(12, 9)}
    for s in "abc":
        found[f"{s}/matrix"] = found["base/matrix"] + 0.1 * normal(12, 9)
        found[f"{s}/columns"] = 0.4 + 0.2 * normal(9)
    found |= {f"gradient/{step}": normal(9) for step in range(4)}
    return found | {
        "gradient/matrix": normal(12, 9), "logits/own": normal(7, 20), "logits/expert": normal(7, 20),
        "z": normal(2, 3),
    }  # fmt: skip


def main() -> None:
    found = inputs()
    parts = (dam, adamerging, expert_merging, frank_wolfe, ziplora)
    for run, root in zip(parts, sys.argv[1:], strict=True):
        run(Path(root), found)
    save_file({name: t.detach().clone().contiguous() for name, t in found.items()}, HERE / "numbers.safetensors")


if __name__ == "__main__":
    main()
