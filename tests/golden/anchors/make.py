"""Run the public code for functional dual anchors on a tiny MLP and keep the numbers: see ../README.md.

    python make.py FDA

The argument is a checkout of the repository. Needs torch, transformers, safetensors. Its functions and classes are
taken out of their files where they lie and run on one layer; nothing of their code is kept.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

HERE = Path(__file__).parent
STEPS, EPOCHS, ANCHORS = 15, 6, 10
CONFIG = LlamaConfig(hidden_size=8, intermediate_size=12, num_attention_heads=2, num_key_value_heads=2)


class Enough(Exception):  # noqa: N818  # no error: one layer is all that is asked for
    pass


def taken(path: Path, *wanted: str, **names: Any) -> SimpleNamespace:
    """Functions and classes of a file, made in a namespace of ours."""
    found: dict[str, Any] = {
        "torch": torch,
        "nn": nn,
        "F": nn.functional,
        "copy": copy,
        "os": os,
        "time": time,
        **names,
    }
    nodes = [n for n in ast.parse(path.read_text()).body if getattr(n, "name", None) in wanted]
    exec(compile(ast.Module(list(nodes), []), "theirs", "exec"), found)
    return SimpleNamespace(**{name: found[name] for name in wanted})


def numpy_with(**replaced: Any) -> SimpleNamespace:
    """NumPy whose files are ours."""
    return SimpleNamespace(**{"load": np.load, "save": np.save, **replaced})


def layers(models: dict[str, LlamaMLP]) -> Any:
    def load(args: Any, part: str, model: str) -> SimpleNamespace:
        if not part.endswith(".0"):
            raise Enough
        return SimpleNamespace(mlp=copy.deepcopy(models[model]))

    return load


def main(root: Path) -> None:
    torch.Tensor.cuda = lambda tensor, *_: tensor  # type: ignore[method-assign,assignment]  # they run on a GPU
    torch.manual_seed(0)
    models = {"base": LlamaMLP(CONFIG)}
    for name in "ab":
        models[name] = copy.deepcopy(models["base"])
        for parameter in models[name].parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
    models["merged"] = copy.deepcopy(models["base"])
    for parameter, *own in zip(*(m.parameters() for m in (models["merged"], models["a"], models["b"])), strict=True):
        parameter.data += 0.5 * sum(o.data - parameter.data for o in own)
    starts = {name: torch.randn(ANCHORS, 8) for name in "ab"}
    args = SimpleNamespace(
        name="weights", scale=0.01, anchor_num=ANCHORS, gen_steps=STEPS, gen_lr=1e-2, opt_steps=STEPS, opt_lr=1e-2,
        save_dual_anchors=True, language_model_name="base", task_model_mapping_dict={"a": "a", "b": "b"}, device="cpu",
        adapt_batch_size=2 * ANCHORS, adapt_epochs=EPOCHS, adapt_lr=1e-2, merged_model_path="merged",
        dataset_names=["a", "b"], dataset_name_combined="a_b",
    )  # fmt: skip
    found = {f"{m}/{n}": p.detach().clone() for m, mlp in models.items() for n, p in mlp.named_parameters()}
    found |= {f"start/{name}": start for name, start in starts.items()}

    anchors: dict[str, torch.Tensor] = {}
    queue = iter("ab")
    theirs = taken(
        root / "NLG/construct_fda.py",
        "train",
        load_part_model=layers(models),
        initialize_X=lambda *_: starts[next(queue)].clone().requires_grad_(),
        gt=None,  # they leave it undefined
        np=numpy_with(save=lambda path, array: anchors.setdefault(Path(path).parts[-3], torch.from_numpy(array))),
    )
    theirs.train.__globals__["os"] = SimpleNamespace(makedirs=lambda *a, **k: None, path=os.path)
    with contextlib.suppress(Enough):
        theirs.train(args)
    found |= {f"anchors/{name}": tensor.clone() for name, tensor in anchors.items()}

    parts = taken(
        root / "NLG/model_merging_methods/distill_merging_utils.py",
        "LabeledMultiDatasetFromDict", "MergedModel_FDAs", "make_functional", "load_weights", "get_attr", "set_attr",
        "del_attr", Dataset=torch.utils.data.Dataset,
    )  # fmt: skip
    kept: list[Any] = []
    torch.save = lambda layer, path: kept.append(layer)
    for match in ("cos", "mse", "l1"):
        args.adapt_loss = match
        theirs = taken(
            root / "NLG/adapt.py",
            "train",
            **vars(parts),
            load_part_model=layers(models),
            load_part_model_for_merged=lambda args, path, part: SimpleNamespace(mlp=copy.deepcopy(models["merged"])),
            np=numpy_with(load=lambda path: anchors[Path(path).parts[-3]].numpy()),
        )
        theirs.train.__globals__["os"] = SimpleNamespace(makedirs=lambda *a, **k: None, path=os.path)
        with contextlib.suppress(Enough):
            theirs.train(args, 0.1, 1, [])
        state = vars(kept[-1].mlp)["_modules"]
        for name, module in state.items():
            if hasattr(module, "weight"):
                found[f"adapted/{match}/{name}.weight"] = module.weight.detach().clone()
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, HERE / "numbers.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
