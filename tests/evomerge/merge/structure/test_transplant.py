"""Another tokenizer for a model: against mergekit's tokensurgeon, and what has to hold whatever the method."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from typer.testing import CliRunner

from api.cli import app
from evomerge.errors import InvalidInputError
from evomerge.merge.structure.approximate import WEIGHTINGS, interpolation, matching_pursuit
from evomerge.merge.structure.token_keys import tokens_of
from evomerge.merge.structure.transplant import Settings, transplant

GOLDEN = Path(__file__).parents[3] / "golden" / "mergekit" / "tokens"
MODEL, DONOR = GOLDEN / "model", GOLDEN / "donor"
NAMES = {"embedding": "model.embed_tokens.weight", "head": "lm_head.weight"}
RUNS: dict[str, dict[str, Any]] = {
    "omp": {"k": 5},
    **{
        f"{theirs}_{metric}": {"method": "interpolation", "k": 4, "weights": ours, "cosine": metric == "cosine"}
        for theirs, ours in (
            ("distance_proportional", "distance"),
            ("barycentric", "barycentric"),
            ("least_squares", "least_squares"),
        )
        for metric in ("euclidean", "cosine")
    },
    "subword_mean": {"method": "subword"},
    "subword_sum": {"method": "subword", "subword": "sum"},
    "subword_first_last": {"method": "subword", "subword": "ends"},
    "mean": {"method": "mean"},
    "zero": {"method": "zero"},
    "prefix": {"method": "zero", "prefix": "both"},
    "scaled": {"k": 5, "scale": 0.5},
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "tables.safetensors")


@pytest.mark.parametrize("run", RUNS)
def test_tables_are_mergekits(run: str, golden: dict[str, Tensor], tmp_path: Path) -> None:
    """But for a token beyond the donor's table (transformers adds one to Qwen2's), which mergekit leaves out."""
    out = transplant(MODEL, DONOR, tmp_path / "out", Settings(**RUNS[run]))
    found = load_file(out / "model.safetensors")

    for role, name in NAMES.items():
        torch.testing.assert_close(found[name][:48], golden[f"{run}/{role}"][:48], rtol=2e-4, atol=2e-5)


def test_the_result_is_the_model_with_the_donors_tokenizer(tmp_path: Path) -> None:
    out = transplant(MODEL, DONOR, tmp_path / "out", Settings(k=5))
    before, after = load_file(MODEL / "model.safetensors"), load_file(out / "model.safetensors")
    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    theirs = AutoTokenizer.from_pretrained(DONOR)
    asked = tokenizer("the table", return_tensors="pt")
    said = json.loads((out / "structure.json").read_text())

    assert theirs("the table had eaten")["input_ids"] == tokenizer("the table had eaten")["input_ids"]
    assert loaded.config.vocab_size == len(after[NAMES["embedding"]]) == len(theirs)
    assert torch.isfinite(loaded(**asked).logits).all()
    assert all(after[name].equal(tensor) for name, tensor in before.items() if name not in NAMES.values())
    assert said["settings"]["method"] == "omp"
    assert said["tables"][NAMES["head"]]["made"] == said["tables"][NAMES["embedding"]]["made"] > 5
    assert 0 < said["tables"][NAMES["head"]]["relative_error_in_donor"] < 1


def test_what_both_know_keeps_its_row_and_a_donor_with_the_same_tokens_changes_nothing(tmp_path: Path) -> None:
    ours, theirs = tokens_of(MODEL), tokens_of(DONOR)
    table = load_file(MODEL / "model.safetensors")[NAMES["embedding"]]
    found = load_file(transplant(MODEL, DONOR, tmp_path / "a", Settings(k=5)) / "model.safetensors")[NAMES["embedding"]]
    same = load_file(transplant(MODEL, MODEL, tmp_path / "b", Settings(k=5)) / "model.safetensors")[NAMES["embedding"]]
    common = [(row, theirs.ids[t]) for t in theirs.ids if (row := ours.rows.get(theirs.keys[t])) is not None]

    assert len(common) > 20
    assert all(found[their].equal(table[our]) for our, their in common)
    assert same.equal(table)


@pytest.mark.parametrize("method", ["omp", "least_squares"])
def test_a_row_that_is_a_combination_of_common_rows_is_found_whole(method: str) -> None:
    """Where the donor is a rotation of the model, so are the rows that are made."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(40, 24, generator=generator)
    turn = torch.linalg.qr(torch.randn(24, 24, generator=generator)).Q
    chosen = torch.tensor([[3, 7, 30], [0, 1, 2]])
    targets = common[chosen].sum(dim=1)
    if method == "omp":
        found = matching_pursuit(targets, common, 3)
        assert found.rows.sort(dim=1).values.tolist() == chosen.sort(dim=1).values.tolist()
    else:
        found = interpolation(targets, common, 24, weights="least_squares", cosine=False)

    torch.testing.assert_close(found.of(common), targets, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.of(common @ turn), targets @ turn, rtol=1e-4, atol=1e-4)


def test_more_rows_come_closer_and_never_worse_than_the_best_one() -> None:
    generator = torch.Generator().manual_seed(1)
    common, targets = torch.randn(30, 16, generator=generator), torch.randn(5, 16, generator=generator)
    errors = [(matching_pursuit(targets, common, k).of(common) - targets).norm(dim=1) for k in range(1, 17)]

    assert all((later <= earlier + 1e-4).all() for earlier, later in pairwise(errors))
    torch.testing.assert_close(errors[-1], torch.zeros(5), rtol=0, atol=1e-2)


@pytest.mark.parametrize("weights", sorted(WEIGHTINGS))
def test_a_row_among_the_common_ones_is_itself(weights: str) -> None:
    common = torch.randn(20, 16, generator=torch.Generator().manual_seed(2))
    found = interpolation(common[4:6], common, 3, weights=weights, cosine=False).of(common)

    torch.testing.assert_close(found, common[4:6], rtol=1e-3, atol=1e-3)


def test_normal_rows_have_the_tables_mean_and_covariance(tmp_path: Path) -> None:
    from evomerge.merge.structure.transplant import _drawn

    generator = torch.Generator().manual_seed(3)
    table = 2 + torch.randn(50, 6, generator=generator) @ torch.randn(6, 6, generator=generator)
    draws = _drawn(table, 20_000, 0, "t")

    torch.testing.assert_close(draws.mean(dim=0), table.mean(dim=0), rtol=0.05, atol=0.1)
    torch.testing.assert_close(draws.T.cov(), table.T.cov(correction=0), rtol=0.1, atol=0.3)


def spelled(path: Path, words: list[str]) -> Path:
    """A SentencePiece-like vocabulary."""
    inner = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], byte_fallback=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="[CLS]", eos_token=words[1])
    tokenizer.save_pretrained(path)
    shutil.copy(MODEL / "config.json", path / "config.json")
    return path


def test_vocabularies_of_other_spellings_meet_in_bytes(tmp_path: Path) -> None:
    donor = spelled(tmp_path / "donor", ["[CLS]", "[SEP]", "▁the", "t", "<0x63>", "▁zebra", "é"])
    ours, theirs = tokens_of(MODEL), tokens_of(donor)
    out = transplant(MODEL, donor, tmp_path / "out", Settings(method="zero"))
    found = load_file(out / "model.safetensors")[NAMES["embedding"]]
    table = load_file(MODEL / "model.safetensors")[NAMES["embedding"]]

    assert found[theirs.ids["▁the"]].equal(table[ours.ids["Ġthe"]])
    assert found[theirs.ids["<0x63>"]].equal(table[ours.ids["c"]])
    assert found[theirs.ids["[CLS]"]].equal(table[ours.ids["<s>"]])
    assert found[theirs.ids["[SEP]"]].equal(table[ours.ids["</s>"]])
    assert not found[theirs.ids["▁zebra"]].any()
    assert theirs.keys["é"] == "é".encode()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"method": "magic"}, "method"),
        ({"k": 0}, "k"),
        ({"weights": "even"}, "weights"),
        ({"subword": "median"}, "subword"),
        ({"prefix": "yes"}, "prefix"),
        ({"scale": float("nan")}, "scale"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        Settings(**settings)


def test_too_few_common_tokens_are_an_error_that_says_how_many_there_are(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"k: got 64; expected at most 12: \d+ tokens are common"):
        transplant(MODEL, DONOR, tmp_path / "out", Settings())
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_taken_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InvalidInputError, match="out: "):
        transplant(Path("/nonexistent"), DONOR, tmp_path, Settings(k=5))


def test_a_donor_without_tokenizer_is_refused(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(DONOR, bare)
    for path in bare.glob("tokenizer*"):
        path.unlink()

    with pytest.raises(InvalidInputError, match="a directory with a tokenizer"):
        transplant(MODEL, bare, tmp_path / "a", Settings(k=5))


def test_tokens_beyond_the_donors_table_are_named_and_get_zeros(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = transplant(MODEL, DONOR, tmp_path / "out", Settings(k=5))
    found = load_file(out / "model.safetensors")[NAMES["head"]]

    assert "no rows for '<|endoftext|>'" in caplog.text
    assert not found[48].any()
    assert found[47].any()


def test_the_command_says_what_it_did(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["transplant", str(MODEL), str(DONOR), str(tmp_path / "out"), "--k", "5"])

    assert result.exit_code == 0, result.output
    assert "rows kept" in result.output
    assert "off in the donor" in result.output
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_the_bytes_do_not_depend_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.merge.structure.transplant.BATCH", 4)
    found = [
        load_file(transplant(MODEL, DONOR, tmp_path / str(n), Settings(k=5), threads=n) / "model.safetensors")
        for n in (1, 3)
    ]

    assert all(tensor.equal(found[1][name]) for name, tensor in found[0].items())


def test_noise_is_drawn_by_the_seed(tmp_path: Path) -> None:
    made = [
        load_file(
            transplant(MODEL, DONOR, tmp_path / str(n), Settings("mean", noise=0.1, seed=seed)) / "model.safetensors"
        )
        for n, seed in enumerate((1, 1, 2))
    ]

    assert made[0][NAMES["head"]].equal(made[1][NAMES["head"]])
    assert not made[0][NAMES["head"]].equal(made[2][NAMES["head"]])
