"""Tiny real models, and what becomes of them when something goes wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from tests.workers.tiny_run import make_registry

JSONL = {
    "items": '{"text": "two and two"}\n',
    "empty": "",
    "broken": '{"text": "a"}\n{oops\n',
    "lists": "[1]\n",
    "fieldless": '{"foo": 1}\n',
    "numbers": '{"text": 5}\n',
    "labelless": '{"context": "a", "choices": ["b"], "label": 7}\n',
    "held": '{"text": "two and two", "split": "holdout"}\n',
}


def make_broken(folder: Path) -> Path:
    """Models, adapters and files of items in a folder, named after what is wrong with them."""
    make_registry(folder)
    for name in ("configless", "misconfigured", "truncated", "weightless", "quantised", "infinite", "tokenless"):
        shutil.copytree(folder / "math", folder / name)
    (folder / "configless" / "config.json").unlink()
    (folder / "misconfigured" / "config.json").write_text("{")
    weights = folder / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    (folder / "weightless" / "model.safetensors").unlink()
    config = json.loads((folder / "quantised" / "config.json").read_text())
    (folder / "quantised" / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    tensors = load_file(folder / "infinite" / "model.safetensors")
    tensors["model.norm.weight"][0] = float("inf")
    save_file(tensors, folder / "infinite" / "model.safetensors", metadata={"format": "pt"})
    for file in (folder / "tokenless").glob("tokenizer*"):
        file.unlink()
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 258}
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(folder / "gpt2")
    for name, rows in (("lora", 32), ("stranger", 48)):
        _adapter(folder / name, rows)
    (folder / "empty").mkdir()
    (folder / "text.txt").write_text("hello")
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, text in JSONL.items():
        (folder / f"{name}.jsonl").write_text(text)
    return folder


def _adapter(path: Path, rows: int) -> None:
    path.mkdir()
    stem = "base_model.model.model.layers.0.self_attn.q_proj"
    save_file(
        {f"{stem}.lora_A.weight": torch.ones(2, rows), f"{stem}.lora_B.weight": torch.ones(rows, 2)},
        path / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
    (path / "adapter_config.json").write_text(json.dumps(config))
