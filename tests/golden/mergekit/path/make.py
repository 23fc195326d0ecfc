"""mergekit 0.1.5 on the configurations beside this file, which evomerge has written of recipes with a path.

The models are those of `../yaml`, the configurations those that
`tests/evomerge/merge/flow/test_flow_mergekit.py` expects. Run in mergekit's environment; see ../../README.md.
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
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

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
    architectures=["LlamaForCausalLM"],
)
TOKENS = torch.tensor([[5, 17, 40, 3, 44, 9, 21, 22]])


def main() -> None:
    """Write tensors and logits beside this file."""
    results = {}
    with tempfile.TemporaryDirectory() as root:
        os.chdir(root)
        models: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in load_file(HERE.parent / "yaml" / "models.safetensors").items():
            model, name = key.split("/", 1)
            models.setdefault(model, {})[name] = tensor
        for model, tensors in models.items():
            CONFIG.save_pretrained(model)
            save_file(tensors, Path(model) / "model.safetensors", {"format": "pt"})
        for file in sorted(HERE.glob("*.yaml")):
            config = MergeConfiguration.model_validate(yaml.safe_load(file.read_text()))
            run_merge(config, file.stem, MergeOptions(copy_tokenizer=False, write_model_card=False))
            found = load_file(Path(file.stem) / "model.safetensors")
            results |= {f"{file.stem}/{name}": tensor for name, tensor in found.items()}
            made = AutoModelForCausalLM.from_pretrained(file.stem, dtype=torch.float32)
            with torch.no_grad():
                results[f"{file.stem}/logits"] = made(TOKENS, use_cache=False).logits.contiguous()
            print(file.stem, len(found), made.config.num_hidden_layers, file=sys.stderr)
    save_file(results, HERE / "results.safetensors", {"mergekit": version("mergekit"), "torch": torch.__version__})


if __name__ == "__main__":
    main()
