"""Merge every YAML file of this folder with mergekit and keep the tensors: see ../../README.md.

Runs in an environment with mergekit, which must not be evomerge's own. Nothing of mergekit's code is kept.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from mergekit.scripts import multimerge
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
CONFIG = LlamaConfig(
    vocab_size=48,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=4,
    num_attention_heads=2,
    num_key_value_heads=1,
    tie_word_embeddings=False,
    dtype="float32",
)
STEPS = {"a": 0.02, "b": 0.05, "c": 0.01}
"""Expert → standard deviation of its task vector; the base's weights have 0.02."""


def make_models(root: Path) -> dict[str, dict[str, Tensor]]:
    """A base and three experts in float32 (in bfloat16 many entries have one magnitude, and which of them a threshold
    keeps is chance), norms among what differs."""
    torch.manual_seed(20260614)
    base = LlamaForCausalLM(CONFIG)
    models = {"base": base}
    for name, step in STEPS.items():
        models[name] = LlamaForCausalLM(CONFIG)
        for parameter, start in zip(models[name].parameters(), base.parameters(), strict=True):
            parameter.data = start.data.float() + step * torch.randn_like(start, dtype=torch.float32)
    for name, model in models.items():
        model.save_pretrained(root / name)
    return {name: load_file(root / name / "model.safetensors") for name in models}


def merged(file: Path, out: Path) -> dict[str, Tensor]:
    """What mergekit makes of a file; the working directory holds the models."""
    if file.stem == "multi":
        arguments = [
            str(file),
            "--out-path",
            str(out),
            "--intermediate-dir",
            f"{out}-parts",
            "--no-write-model-card",
            "--no-copy-tokenizer",
        ]
        multimerge.main(arguments, standalone_mode=False)
    else:
        config = MergeConfiguration.model_validate(yaml.safe_load(file.read_text()))
        run_merge(config, str(out), MergeOptions(random_seed=1, copy_tokenizer=False, write_model_card=False))
    return load_file(out / "model.safetensors")


def main() -> None:
    """Write models and results beside this file."""
    with tempfile.TemporaryDirectory() as root:
        os.chdir(root)
        models = make_models(Path(root))
        tensors = {f"{name}/{at}": tensor for name, found in models.items() for at, tensor in found.items()}
        save_file(tensors, HERE / "models.safetensors")
        results = {}
        for file in sorted(HERE.glob("*.yaml")):
            found = merged(file, Path(root) / f"out-{file.stem}")
            results |= {f"{file.stem}/{at}": tensor for at, tensor in found.items()}
            print(file.stem, len(found), next(iter(found.values())).dtype, file=sys.stderr)
        save_file(results, HERE / "results.safetensors", {"mergekit": version("mergekit"), "torch": torch.__version__})


if __name__ == "__main__":
    main()
