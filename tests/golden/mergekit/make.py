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
SPARSE = ("d", "e", "f")
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
    "ties_rescaled": "merge_method: ties\n" + BASE + "parameters: {{normalize: true, rescale: true}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5, density: 0.3}}}}\n"
    "- {{model: {b}, parameters: {{weight: 1.25, density: 0.55}}}}\n",
    "ties_signed": "merge_method: ties\n" + BASE + "parameters: {{normalize: true}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5, density: 0.5}}}}\n"
    "- {{model: {b}, parameters: {{weight: -0.7, density: 0.5}}}}\n"
    "- {{model: {d}, parameters: {{weight: 1.0, density: 1.0}}}}\n",
    "breadcrumbs": "merge_method: breadcrumbs\n" + BASE + "parameters: {{lambda: 0.8}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5, density: 0.61, gamma: 0.1}}}}\n"
    "- {{model: {b}, parameters: {{weight: 1.25, density: 0.37, gamma: 0.03}}}}\n"
    "- {{model: {c}, parameters: {{weight: 1.0, density: 0.95, gamma: 0.2}}}}\n",
    "breadcrumbs_rescaled": "merge_method: breadcrumbs\n"
    + BASE
    + "parameters: {{normalize: true, rescale: true}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5, density: 0.6, gamma: 0.0}}}}\n"
    "- {{model: {b}, parameters: {{weight: 1.25, density: 1.0, gamma: 0.3}}}}\n",
    "breadcrumbs_ties": "merge_method: breadcrumbs_ties\n" + BASE + "parameters: {{normalize: true}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5, density: 0.61, gamma: 0.1}}}}\n"
    "- {{model: {b}, parameters: {{weight: 1.25, density: 0.37, gamma: 0.03}}}}\n"
    "- {{model: {d}, parameters: {{weight: 0.7, density: 0.95, gamma: 0.01}}}}\n",
    "sce": "merge_method: sce\n" + BASE + "parameters: {{select_topk: 0.3}}\nmodels:\n"
    "- {{model: {a}}}\n- {{model: {b}}}\n- {{model: {d}}}\n",
    "sce_all": "merge_method: sce\n" + BASE + "models:\n- {{model: {a}}}\n- {{model: {c}}}\n",
    "sce_near": "merge_method: sce\n" + BASE + "parameters: {{select_topk: 0.5}}\nmodels:\n"
    "- {{model: {base}}}\n- {{model: {c}}}\n- {{model: {f}}}\n",
    "model_stock": "merge_method: model_stock\n" + BASE + "models:\n"
    "- {{model: {a}}}\n- {{model: {b}}}\n- {{model: {e}}}\n",
    "model_stock_filters": "merge_method: model_stock\n" + BASE + "parameters: {{filter_wise: true}}\nmodels:\n"
    "- {{model: {a}}}\n- {{model: {d}}}\n- {{model: {e}}}\n",
    "karcher": "merge_method: karcher\nmodels:\n- {{model: {a}}}\n- {{model: {b}}}\n- {{model: {d}}}\n",
    "karcher_short": "merge_method: karcher\nparameters: {{max_iter: 1, tol: 0.001}}\nmodels:\n"
    "- {{model: {a}}}\n- {{model: {b}}}\n- {{model: {e}}}\n",
    "multislerp": "merge_method: multislerp\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5}}}}\n- {{model: {b}, parameters: {{weight: 1.25}}}}\n"
    "- {{model: {d}, parameters: {{weight: 0.8}}}}\n",
    "multislerp_base": "merge_method: multislerp\n" + BASE + "parameters: {{normalize_weights: false}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5}}}}\n- {{model: {b}, parameters: {{weight: 1.25}}}}\n"
    "- {{model: {d}, parameters: {{weight: -0.3}}}}\n",
    "nuslerp": "merge_method: nuslerp\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5}}}}\n- {{model: {b}, parameters: {{weight: 1.25}}}}\n",
    "nuslerp_near": "merge_method: nuslerp\nmodels:\n"
    "- {{model: {base}, parameters: {{weight: 0.5}}}}\n- {{model: {c}, parameters: {{weight: 1.25}}}}\n",
    "nuslerp_base": "merge_method: nuslerp\n" + BASE + "models:\n"
    "- {{model: {a}, parameters: {{weight: 0.5}}}}\n- {{model: {b}, parameters: {{weight: 1.25}}}}\n",
    "nuslerp_last": "merge_method: nuslerp\nparameters: {{nuslerp_flatten: false}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5}}}}\n- {{model: {b}, parameters: {{weight: 1.25}}}}\n",
    "nuslerp_first": "merge_method: nuslerp\n"
    + BASE
    + "parameters: {{nuslerp_flatten: false, nuslerp_row_wise: true}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 0.5}}}}\n- {{model: {b}, parameters: {{weight: 1.25}}}}\n",
    "nearswap": "merge_method: nearswap\n" + BASE + "parameters: {{t: 0.02}}\nmodels:\n"
    "- {{model: {base}}}\n- {{model: {a}}}\n",
    "arcee_fusion": "merge_method: arcee_fusion\n" + BASE + "models:\n- {{model: {base}}}\n- {{model: {a}}}\n",
    "ram": "merge_method: ram\n" + BASE + "parameters: {{epsilon: 0.01}}\nmodels:\n"
    "- {{model: {d}}}\n- {{model: {e}}}\n- {{model: {f}}}\n",
    "ram_default": "merge_method: ram\n" + BASE + "models:\n- {{model: {d}}}\n- {{model: {e}}}\n- {{model: {c}}}\n",
    "ramplus_tl": "merge_method: ramplus_tl\n"
    + BASE
    + "models:\n- {{model: {d}}}\n- {{model: {e}}}\n- {{model: {f}}}\n",
    "ramplus_tl_strong": "merge_method: ramplus_tl\n"
    + BASE
    + "parameters: {{epsilon: 0.001, r: 0.3, alpha: 0.9}}\nmodels:\n- {{model: {a}}}\n- {{model: {d}}}\n",
    "passthrough": "merge_method: passthrough\nmodels:\n- {{model: {a}, parameters: {{scale: 0.5}}}}\n",
}
"""Name of the result → mergekit's configuration, without its dtype."""

DARE = (
    "merge_method: dare_linear\n" + BASE + "parameters: {{rescale: true, normalize: false}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 1.0, density: 0.3}}}}\n"
)
DELLA = (
    "merge_method: della_linear\n" + BASE + "parameters: {{rescale: true, normalize: false}}\nmodels:\n"
    "- {{model: {a}, parameters: {{weight: 1.0, density: 0.5, epsilon: 0.4}}}}\n"
)


def models(root: Path) -> dict[str, Path]:
    """A base and six experts; `a` and `b` go far (slerp's arc), `c` stays near (slerp's chord), the others change part
    of the entries."""
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
    for name, share in zip(SPARSE, (0.3, 0.5, 0.1), strict=True):
        expert = LlamaForCausalLM(CONFIG)
        for parameter, start in zip(expert.parameters(), base.parameters(), strict=True):
            parameter.data = start.data + 0.05 * torch.randn_like(start) * (torch.rand_like(start) < share)
        paths[name] = root / name
        expert.save_pretrained(paths[name])
    return paths


def merged(config: str, paths: dict[str, Path], root: Path, seed: int = 1) -> dict[str, Tensor]:
    """What `mergekit-yaml` makes of a configuration."""
    file, out = root / "config.yaml", root / "out"
    file.write_text(config.format(**paths) + "dtype: float32\n")
    program = Path(sys.executable).with_name("mergekit-yaml")
    subprocess.run(
        [program, file, out, "--copy-tokenizer", "--random-seed", str(seed)], check=True, capture_output=True
    )
    return load_file(out / "model.safetensors")


def dare_properties(paths: dict[str, Path], root: Path) -> dict[str, dict[str, float]]:
    """Per tensor of a DARE merge of one expert: share of entries that moved, and L1 norm against the full delta's."""
    base, expert = (load_file(paths[name] / "model.safetensors") for name in ("base", "a"))
    found = {}
    for name, tensor in merged(DARE, paths, root).items():
        moved, full = tensor - base[name], expert[name] - base[name]
        found[name] = {"kept": (moved != 0).float().mean().item(), "l1": (moved.abs().sum() / full.abs().sum()).item()}
    return found


def della_properties(paths: dict[str, Path], root: Path, runs: int = 12) -> dict[str, list[float]]:
    """Per tensor, over several DELLA merges of one expert: share kept of the smaller and of the larger half of every
    row, and mean L1 norm against the full delta's."""
    base, expert = (load_file(paths[name] / "model.safetensors") for name in ("base", "a"))
    found: dict[str, list[float]] = {}
    for seed in range(runs):
        for name, tensor in merged(DELLA, paths, root, seed).items():
            moved, full = tensor - base[name], expert[name] - base[name]
            order = full.abs().argsort(dim=-1)
            kept = (moved != 0).float().gather(-1, order)
            half = kept.shape[-1] // 2
            l1 = moved.abs().sum() / full.abs().sum()
            values = (kept[..., :half].mean().item(), kept[..., half:].mean().item(), l1.item())
            found[name] = [old + new / runs for old, new in zip(found.get(name, [0.0] * 3), values, strict=True)]
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
        text = json.dumps(
            {"mergekit": version("mergekit"), "della_linear": della_properties(paths, Path(root))}, indent=1
        )
        (HERE / "della.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
