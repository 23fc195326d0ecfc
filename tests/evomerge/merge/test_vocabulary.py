"""Rows of embeddings matched by token."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from evomerge.errors import InvalidInputError
from evomerge.merge.union_tokenizer import write_union
from evomerge.merge.vocabulary import (
    Table,
    Vocabulary,
    check_same,
    differing,
    merged_tables,
    merged_vocabulary,
    same_files,
    vocabulary_of,
)
from evomerge.recipe.tokens import TokenRule

TEXT = ["the cat sat on the mat", "eighteen and twenty-four is forty-two", "the dog ate the cake"] * 3


def vocabulary(*tokens: str) -> Vocabulary:
    return Vocabulary({token: row for row, token in enumerate(tokens)}, frozenset())


def save_tokenizer(path: Path, text: list[str], *, added: tuple[str, ...] = (), size: int = 60) -> Path:
    """A byte-pair tokenizer trained on the spot, in the files that models come with."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=["<s>"], show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in added])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>").save_pretrained(path)
    return path


def test_vocabularies_are_read_with_their_added_tokens(tmp_path: Path) -> None:
    found = vocabulary_of(save_tokenizer(tmp_path, TEXT, added=("<|user|>",)))

    assert found is not None
    assert found.ids["<|user|>"] == len(found.ids) - 1
    assert found.added == {"<s>", "<|user|>"}
    assert vocabulary_of(tmp_path / "nothing") is None


def test_equal_files_are_seen_without_reading_them(tmp_path: Path) -> None:
    a, b = save_tokenizer(tmp_path / "a", TEXT), save_tokenizer(tmp_path / "b", TEXT)
    c = save_tokenizer(tmp_path / "c", TEXT, added=("<x>",))

    assert same_files(a, b)
    assert not same_files(a, c)
    assert not same_files(tmp_path, tmp_path)


def test_a_difference_is_an_error_that_shows_the_tokens() -> None:
    with pytest.raises(InvalidInputError) as error:
        check_same("ja", vocabulary("a", "b", "c"), vocabulary("a", "c", "b", "d"))

    assert "'b': row 1 in the base, row 2 in the source" in str(error.value)
    assert "'d': missing in the base, row 3 in the source" in str(error.value)
    assert "`tokenizer`" in str(error.value)
    check_same("ja", vocabulary("a"), None)


@pytest.mark.parametrize(
    ("wanted", "pad", "ids", "rows"),
    [
        ("base", None, {"a": 0, "b": 1}, 4),
        ("union", None, {"a": 0, "b": 1, "x": 2, "y": 3}, 4),
        ("union", 8, {"a": 0, "b": 1, "x": 2, "y": 3}, 8),
        ("ja", None, {"b": 0, "x": 1, "a": 2, "y": 3}, 4),
    ],
)
def test_the_merged_vocabulary(wanted: str, pad: int | None, ids: dict[str, int], rows: int) -> None:
    """The base has two rows without a token: new tokens take these first."""
    known = {"base": vocabulary("a", "b"), "ja": vocabulary("b", "x", "a", "y")}

    merged = merged_vocabulary(wanted, known, {"base": 4, "ja": 4}, {}, pad)

    assert (dict(merged.ids), merged.num_rows) == (ids, rows)


def test_what_is_added_and_what_is_lost_is_said() -> None:
    known = {"base": vocabulary("a", "b"), "ja": vocabulary("b", "x")}
    rows = {"base": 2, "ja": 2}

    assert merged_vocabulary("union", known, rows, {}, None).added == ["x"]
    assert merged_vocabulary("base", known, rows, {}, None).lost == {"ja": ["x"]}
    assert merged_vocabulary("ja", known, rows, {}, None).lost == {"base": ["a"]}


def tables_for(wanted: str, rules: dict[str, TokenRule]) -> tuple[dict[str, int], dict[str, torch.Tensor]]:
    """The base has a b, `ja` b x, `es` x a."""
    known = {"base": vocabulary("a", "b"), "es": vocabulary("x", "a"), "ja": vocabulary("b", "x")}
    values = {
        "base": torch.tensor([[1.0, 1.0], [2.0, 2.0]]),
        "es": torch.tensor([[10.0, 10.0], [11.0, 11.0]]),
        "ja": torch.tensor([[20.0, 20.0], [22.0, 22.0]]),
    }
    merged = merged_vocabulary(wanted, known, dict.fromkeys(known, 2), rules, None)
    tables = {name: Table(table, merged.rows_of(name, 2)) for name, table in values.items()}
    return dict(merged.ids), {n: t[:, 0] for n, t in merged_tables(merged, tables).items()}


def test_rows_are_matched_by_token_and_what_is_missing_changes_nothing() -> None:
    ids, tables = tables_for("union", {})

    assert ids == {"a": 0, "b": 1, "x": 2}
    assert tables["es"].tolist() == [11.0, 2.0, 10.0]  # b: the base's row
    assert tables["ja"].tolist() == [1.0, 20.0, 22.0]  # a: the base's row
    assert tables["base"].tolist() == [1.0, 2.0, 16.0]  # x: the mean of the two that have it


def test_a_row_is_pursued_from_one_models_space_into_anothers() -> None:
    """The source's rows are the base's after a rotation; so is the row that it lacks."""
    torch.manual_seed(0)
    rows, rotation = torch.randn(13, 4), torch.linalg.qr(torch.randn(4, 4)).Q
    words = [f"w{n}" for n in range(12)]
    known = {"base": vocabulary(*words, "new"), "turned": vocabulary(*words)}
    rules = {"new": TokenRule(fill="omp")}
    merged = merged_vocabulary("base", known, {"base": 13, "turned": 12}, rules, None)
    tables = {
        "base": Table(rows, merged.rows_of("base", 13)),
        "turned": Table(rows[:12] @ rotation, merged.rows_of("turned", 12)),
    }
    found, plain = merged_tables(merged, tables), merged_tables(replace(merged, rules={}), tables)

    torch.testing.assert_close(found["turned"], rows @ rotation, rtol=1e-4, atol=1e-5)
    assert found["base"].equal(rows)
    assert plain["turned"][12].equal(rows[12])


def test_only_tokens_that_a_model_has_are_pursued_and_only_where_they_lack() -> None:
    known = {"base": vocabulary("a"), "other": vocabulary("a")}
    with pytest.raises(InvalidInputError, match="fill: zero"):
        merged_vocabulary("base", known, {"base": 1, "other": 1}, {"new": TokenRule(fill="omp")}, None)
    with pytest.raises(ValueError, match="without `force`"):
        TokenRule(fill="omp", force=True)


@pytest.mark.parametrize(
    ("rule", "base", "es", "ja"),
    [
        (TokenRule(fill="zero"), 0, 10, 22),
        (TokenRule(fill="mean"), 16, 10, 22),
        (TokenRule(model="ja"), 22, 10, 22),
        (TokenRule(model="ja", force=True), 22, 22, 22),
        (TokenRule(model="base", token="a"), 1, 10, 22),
        (TokenRule(model="es", token_id=1, force=True), 11, 11, 11),
    ],
)
def test_rules_say_where_a_tokens_rows_come_from(rule: TokenRule, base: float, es: float, ja: float) -> None:
    ids, tables = tables_for("union", {"x": rule})

    assert [tables[name][ids["x"]].item() for name in ("base", "es", "ja")] == [base, es, ja]


@pytest.mark.parametrize(
    ("token", "rule", "says"),
    [
        ("new", TokenRule(), "fill: zero"),
        ("new", TokenRule(fill="mean"), "fill: zero"),
        ("x", TokenRule(model="base"), "a token that 'base' has"),
        ("x", TokenRule(model="ja", token_id=9), "a row of 'ja', below 2"),
    ],
)
def test_rules_that_name_what_is_not_there_are_refused(token: str, rule: TokenRule, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        tables_for("union", {token: rule})


@given(st.permutations(range(6)), st.integers(2, 6))
def test_a_reordered_vocabulary_gives_the_same_table(order: list[int], shared: int) -> None:
    tokens = [f"t{i}" for i in range(6)]
    table = torch.arange(12.0).view(6, 2)
    known = {"base": vocabulary(*tokens), "a": vocabulary(*(tokens[i] for i in order[:shared]))}
    merged = merged_vocabulary("base", known, {"base": 6, "a": shared}, {}, None)
    own = table[torch.tensor(order[:shared])]

    found = merged_tables(merged, {"base": Table(table, merged.rows_of("base", 6)),
                                   "a": Table(own, merged.rows_of("a", shared))})  # fmt: skip

    assert torch.equal(found["a"], table)
    assert torch.equal(found["base"], table)


def test_the_unions_tokenizer_knows_all_tokens_at_their_rows(tmp_path: Path) -> None:
    base = save_tokenizer(tmp_path / "base", TEXT, added=("<|end|>",))
    source = save_tokenizer(tmp_path / "ja", TEXT, added=("<|user|>", "<|end|>", "<|tool|>"))
    known = {"base": vocabulary_of(base), "ja": vocabulary_of(source)}
    rows = {name: len(v.ids) for name, v in known.items() if v is not None}
    merged = merged_vocabulary("union", {n: v for n, v in known.items() if v}, rows, {}, None)
    out = tmp_path / "out"
    out.mkdir()

    write_union(merged, {"base": base, "ja": source}, out)

    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.get_vocab() == merged.ids
    encoded = tokenizer("<|user|>the cat<|end|>", add_special_tokens=False)["input_ids"]
    assert encoded[0] == merged.ids["<|user|>"]
    assert encoded[-1] == merged.ids["<|end|>"]
    assert tokenizer.decode(encoded, skip_special_tokens=True).replace(" ", "") == "thecat"


def test_pieces_of_another_vocabulary_bring_their_merges(tmp_path: Path) -> None:
    base = save_tokenizer(tmp_path / "base", TEXT, size=30)
    source = save_tokenizer(tmp_path / "es", TEXT, size=60)
    known = {"base": vocabulary_of(base), "es": vocabulary_of(source)}
    rows = {name: len(v.ids) for name, v in known.items() if v is not None}
    merged = merged_vocabulary("union", {n: v for n, v in known.items() if v}, rows, {}, None)
    out = tmp_path / "out"
    out.mkdir()

    write_union(merged, {"base": base, "es": source}, out)

    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.get_vocab() == merged.ids
    assert len(merged.added) > 10
    pieces = tokenizer.tokenize("the cat sat on the mat")
    assert pieces == AutoTokenizer.from_pretrained(source).tokenize("the cat sat on the mat")


def test_a_union_with_pieces_of_a_unigram_model_is_refused(tmp_path: Path) -> None:
    base = save_tokenizer(tmp_path / "base", TEXT, size=30)
    other = save_tokenizer(tmp_path / "uni", TEXT, size=80)
    data = json.loads((base / "tokenizer.json").read_text())
    pieces = [[piece, -float(row)] for piece, row in sorted(data["model"]["vocab"].items(), key=lambda i: i[1])]
    data["model"] = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
    (base / "tokenizer.json").write_text(json.dumps(data))
    known = {"base": vocabulary_of(base), "uni": vocabulary_of(other)}
    merged = merged_vocabulary("union", {n: v for n, v in known.items() if v}, {"base": 60, "uni": 80}, {}, None)
    out = tmp_path / "out"
    out.mkdir()

    with pytest.raises(InvalidInputError, match="Unigram"):
        write_union(merged, {"base": base, "uni": other}, out)


def test_disagreements_are_listed_in_the_order_of_the_bases_rows() -> None:
    assert [line.split(":")[0] for line in differing(vocabulary("c", "b"), vocabulary("b", "c", "a"))] == [
        "'c'", "'b'", "'a'",
    ]  # fmt: skip
