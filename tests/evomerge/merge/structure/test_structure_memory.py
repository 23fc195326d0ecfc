"""`evomerge compress --memory`: what it says it needs, against what it then takes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import AutoModelForCausalLM, LlamaConfig, MixtralConfig, PreTrainedTokenizerFast
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
from typer.testing import CliRunner

from evomerge.errors import InvalidInputError
from evomerge.merge.structure.compress import METHODS, Settings, compress

set_verbosity_error()
disable_progress_bar()
SMALL: dict[str, Any] = {
    "vocab_size": 40, "hidden_size": 16, "intermediate_size": 12, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LARGE = {**SMALL, "vocab_size": 4000, "hidden_size": 384, "intermediate_size": 768, "num_attention_heads": 6}
LARGE = {**LARGE, "num_key_value_heads": 2}


def saved(path: Path, sizes: dict[str, Any], *, mixture: bool) -> Path:
    """A random model with a tokenizer of its words."""
    torch.manual_seed(0)
    config = MixtralConfig(**sizes, num_local_experts=8, num_experts_per_tok=2) if mixture else LlamaConfig(**sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(path)
    words = {f"w{i}": i for i in range(sizes["vocab_size"])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0").save_pretrained(path)
    return path


def written(path: Path, words: int) -> Path:
    """Items of so many words each."""
    texts = [" ".join(f"w{1 + (7 * at + number) % 39}" for at in range(words)) for number in range(4)]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def needed(model: Path, out: Path, items: Path, method: str) -> int:
    """What the refusal of one byte names."""
    with pytest.raises(InvalidInputError, match="memory") as refused:
        compress(model, out, items, Settings(method), memory=1)
    found = re.search(r"at least (\d+) bytes", str(refused.value))
    assert found is not None, refused.value
    return int(found[1])


@pytest.mark.parametrize(("method", "mixture"), [("reap", True), ("mka", False)])
def test_a_limit_is_kept_or_refused_by_what_is_needed(method: str, mixture: bool, tmp_path: Path) -> None:
    model = saved(tmp_path / "model", SMALL, mixture=mixture)
    items, out = written(tmp_path / "items.jsonl", 12), tmp_path / "out"
    least = needed(model, out, items, method)

    with pytest.raises(InvalidInputError, match=f"at least {least} bytes"):
        compress(model, out, items, Settings(method), memory=least - 1)
    assert not out.exists()
    assert compress(model, out, items, Settings(method), memory=least) == out
    assert (out / "structure.json").exists()


def test_more_and_longer_items_need_more(tmp_path: Path) -> None:
    model = saved(tmp_path / "model", SMALL, mixture=True)
    short, long = written(tmp_path / "short.jsonl", 12), written(tmp_path / "long.jsonl", 48)

    assert needed(model, tmp_path / "out", short, "reap") < needed(model, tmp_path / "out", long, "reap")


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    from api.cli import app

    model, items = saved(tmp_path / "model", SMALL, mixture=True), written(tmp_path / "items.jsonl", 12)
    asked = ["compress", str(model), str(tmp_path / "out"), "--items", str(items), "--memory", "1KiB"]
    answer = CliRunner().invoke(app, asked)

    assert answer.exit_code != 0
    assert not (tmp_path / "out").exists()
    assert isinstance(answer.exception, InvalidInputError) or "memory" in answer.output


MEASURED = """
import ctypes, sys
from pathlib import Path
from transformers.utils.logging import disable_progress_bar, set_verbosity_error
from evomerge.merge.structure.compress import Settings, compress
set_verbosity_error()
disable_progress_bar()
libc = ctypes.CDLL(None)
libc.mallopt(-3, 1 << 16)  # what is freed goes back at once: the peak is what is held at a time
libc.mallopt(-1, 1 << 16)


def status(what):
    for line in open("/proc/self/status"):
        if line.startswith(what):
            return int(line.split()[1]) * 1024


warm, model, items, out, method = sys.argv[1:]
compress(Path(warm), Path(out + "-warm"), Path(items), Settings(method))  # loads what is loaded late
libc.malloc_trim(0)
open("/proc/self/clear_refs", "w").write("5")  # forgets the highest so far
before = status("VmRSS")
compress(Path(model), Path(out), Path(items), Settings(method))
print(status("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for the highest resident size")
@pytest.mark.parametrize("method", METHODS)
def test_what_is_needed_is_what_is_taken(method: str, tmp_path: Path) -> None:
    """Within a factor of two; pages of the mapped checkpoint, which the system may take back, come on top."""
    mixture = method != "mka"
    model = saved(tmp_path / "model", LARGE, mixture=mixture)
    items = written(tmp_path / "items.jsonl", 200)
    warm = saved(tmp_path / "warm", {**SMALL, "vocab_size": 40}, mixture=mixture)
    asked = [str(warm), str(model), str(items), str(tmp_path / "out"), method]
    found = subprocess.run([sys.executable, "-c", MEASURED, *asked], check=True, capture_output=True, text=True)
    taken, said = int(found.stdout.split()[-1]), needed(model, tmp_path / "other", items, method)
    mapped = (model / "model.safetensors").stat().st_size

    assert taken <= said + mapped + (16 << 20), (taken, said, mapped)
    assert said <= 2 * taken, (taken, said)
