"""Run mergekit on small random checkpoints and keep the numbers: see ../README.md.

Needs an environment with mergekit, which must not be evomerge's own. Nothing of mergekit's code is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
CONFIG = LlamaConfig(
    vocab_size=16,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    dtype="float32",
)
EXPERTS = ("a", "b", "c")
BASE = "base_model: {base}\n"

MERGES = {
    "linear": "merge_method: linear\nparameters: {{normalize: true}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5}}}}\n- {{model: {b}, parameters: {{weight: 1.5}}}}\n"
    "- {{model: {c}, parameters: {{weight: -0.25}}}}\n",
    "linear_sum": "merge_method: linear\nparameters: {{normalize: false}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5}}}}\n- {{model: {b}, parameters: {{weight: 0.75}}}}\n",
    "task_arithmetic": "merge_method: task_arithmetic\n" + BASE + "parameters: {{lambda: 0.7}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5}}}}\n- {{model: {b}, parameters: {{weight: 1.25}}}}\n"
    "- {{model: {c}, parameters: {{weight: -0.4}}}}\n",
    "task_arithmetic_normalized": "merge_method: task_arithmetic\n"
    + BASE
    + "parameters: {{normalize: true}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5}}}}\n- {{model: {b}, parameters: {{weight: 1.25}}}}\n",
    "slerp": "merge_method: slerp\nbase_model: {a}\nparameters: {{t: 0.3}}\nmodels:\n"
    "- {{model: {a}}}\n- {{model: {b}}}\n",
    "slerp_near": "merge_method: slerp\n" + BASE + "parameters: {{t: 0.7}}\nmodels:\n"
    "- {{model: {base}}}\n- {{model: {c}}}\n",
    "ties": "merge_method: ties\n" + BASE + "parameters: {{normalize: true, lambda: 1.2}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5, density: 0.5}}}}\n"
    "- {{model: {b}, parameters: {{weight: 1.25, density: 0.25}}}}\n"
    "- {{model: {c}, parameters: {{weight: 0.8, density: 0.75}}}}\n",
    "ties_sum": "merge_method: ties\n" + BASE + "parameters: {{normalize: false}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5, density: 0.5}}}}\n"
    "- {{model: {b}, parameters: {{weight: -0.6, density: 0.5}}}}\n"
    "- {{model: {c}, parameters: {{weight: 1.0, density: 1.0}}}}\n",
}
"""Name of the result → mergekit's configuration, without its dtype."""

DARE = (
    "merge_method: dare_linear\n" + BASE + "parameters: {{rescale: true, normalize: false}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 1.0, density: 0.3}}}}\n"
)


def models(root: Path) -> dict[str, Path]:
    """A base and three experts; `a` and `b` go far (slerp's arc), `c` stays near (slerp's chord)."""
    torch.manual_seed(20260101)
    base = LlamaForCausalLM(CONFIG)
    paths = {"base": root / "base"}
    base.save_pretrained(paths["base"])
    for name, step in zip(EXPERTS, (0.05, 0.05, 0.0002), strict=True):
        expert = LlamaForCausalLM(CONFIG)
        for parameter, start in zip(expert.parameters(), base.parameters(), strict=True):
            parameter.data = start.data + step * torch.randn_like(start)
        paths[name] = root / name
        expert.save_pretrained(paths[name])
    return paths


def merged(config: str, paths: dict[str, Path], root: Path) -> dict[str, Tensor]:
    """What `mergekit-yaml` makes of a configuration."""
    file, out = root / "config.yaml", root / "out"
    file.write_text(config.format(**paths) + "dtype: float32\n")
    program = Path(sys.executable).with_name("mergekit-yaml")
    subprocess.run([program, file, out, "--copy-tokenizer", "--random-seed", "1"], check=True, capture_output=True)
    return load_file(out / "model.safetensors")


def dare_properties(paths: dict[str, Path], root: Path) -> dict[str, dict[str, float]]:
    """Per tensor of a DARE merge of one expert: share of entries that moved, and L1 norm against the full delta's."""
    base, expert = (load_file(paths[name] / "model.safetensors") for name in ("base", "a"))
    found = {}
    for name, tensor in merged(DARE, paths, root).items():
        moved, full = tensor - base[name], expert[name] - base[name]
        found[name] = {"kept": (moved != 0).float().mean().item(), "l1": (moved.abs().sum() / full.abs().sum()).item()}
    return found


def main() -> None:
    """Write inputs, results and properties beside this file."""
    with tempfile.TemporaryDirectory() as root:
        paths = models(Path(root))
        kept = {f"{name}/{at}": t for name, p in paths.items() for at, t in load_file(p / "model.safetensors").items()}
        for name, config in MERGES.items():
            kept |= {f"{name}/{at}": tensor for at, tensor in merged(config, paths, Path(root)).items()}
        save_file(kept, HERE / "merges.safetensors", {"mergekit": version("mergekit"), "torch": torch.__version__})
        text = json.dumps(
            {"mergekit": version("mergekit"), "dare_linear": dare_properties(paths, Path(root))}, indent=1
        )
        (HERE / "dare.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
