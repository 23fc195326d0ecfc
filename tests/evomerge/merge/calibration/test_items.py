"""Items: what is read of a file, drawn, cut and scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.errors import InvalidInputError
from evomerge.merge.calibration.gradients import Labels
from evomerge.merge.calibration.items import Sample, Text, digest, draw, encode, read_texts
from evomerge.merge.calibration.kinds import KINDS
from evomerge.merge.methods import METHODS


class Letters:
    """A tokenizer with a token a letter and one for `ab`, which may join a context's end to an answer."""

    def __call__(self, text: str) -> dict[str, Any]:
        return {"input_ids": [ord(letter) for letter in text.replace("ab", "\x01")]}


def written(path: Path, *items: Any) -> Path:
    path.write_text("\n".join(item if isinstance(item, str) else json.dumps(item) for item in items))
    return path


def test_items_of_every_form_are_read_and_holdout_items_are_not(tmp_path: Path) -> None:
    path = written(
        tmp_path / "items.jsonl",
        {"text": "t"},
        "",
        {"context": "c", "answer": " a"},
        {"id": "1", "context": "c", "choices": [" x", " y"], "label": 1, "split": "search"},
        {"context": "c", "references": [" r", " s"]},
        {"text": "secret", "split": "holdout"},
    )

    assert read_texts(path) == [Text("", "t"), Text("c", " a"), Text("c", " y"), Text("c", " r")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "one JSON object"),
        ("[]", "a JSON object"),
        ({"text": 3}, "non-empty strings"),
        ({"text": ""}, "non-empty strings"),
        ({"context": 1, "answer": "a"}, "non-empty strings"),
        ({"context": "c"}, "`text`, or `context`"),
        ({"context": "c", "choices": ["x"], "label": 1}, "`text`, or `context`"),
        ({"context": "c", "choices": ["x", "y"], "label": True}, "`text`, or `context`"),
    ],
)
def test_a_line_that_is_no_item_is_named(tmp_path: Path, line: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says) as caught:
        read_texts(written(tmp_path / "items.jsonl", {"text": "t"}, line))
    assert caught.value.field.endswith("items.jsonl:2")


def test_a_file_without_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="at least one item"):
        read_texts(written(tmp_path / "items.jsonl", {"text": "t", "split": "holdout"}))
    with pytest.raises(InvalidInputError, match="readable JSONL"):
        read_texts(tmp_path / "nowhere.jsonl")


def test_the_draw_depends_on_the_seed_and_keeps_the_order() -> None:
    texts = [Text("", str(i)) for i in range(50)]
    chosen = draw(texts, 10, seed=1)

    assert len(chosen) == 10
    assert chosen == sorted(chosen, key=texts.index)
    assert chosen == draw(texts, 10, seed=1) != draw(texts, 10, seed=2)
    assert draw(texts, 99, seed=1) == texts
    assert set(draw(texts, 5, seed=1)) < set(chosen)  # more items do not replace those of before


def test_only_the_continuation_counts() -> None:
    samples = encode(Letters(), [Text("xyz", "uv"), Text("", "xyz")], 99, "here")

    assert [sample.first for sample in samples] == [3, 1]
    assert samples[0].ids == tuple(map(ord, "xyzuv"))


def test_a_token_that_joins_context_and_answer_counts_as_answer() -> None:
    (sample,) = encode(Letters(), [Text("xa", "bc")], 99, "here")

    assert sample.ids == (ord("x"), 1, ord("c"))
    assert sample.first == 1


def test_what_is_too_long_loses_its_context_first() -> None:
    long = [Text("", "abcdef"), Text("uvwxyz", "12"), Text("u", "12345678")]
    text, context, answer = encode(Letters(), long, 4, "here")

    assert text == Sample((1, *map(ord, "cde")), 1)
    assert context == Sample(tuple(map(ord, "yz12")), 2)
    assert answer == Sample(tuple(map(ord, "u123")), 1)


def test_items_of_one_token_are_left_out() -> None:
    assert len(encode(Letters(), [Text("", "x"), Text("", "xy")], 9, "here")) == 1
    with pytest.raises(InvalidInputError, match="two or more tokens"):
        encode(Letters(), [Text("", "x")], 9, "here")


def test_the_digest_sees_tokens_and_where_answers_begin() -> None:
    found = {
        digest([Sample((1, 2, 3), 1)]),
        digest([Sample((1, 2, 3), 2)]),
        digest([Sample((1, 2), 1), Sample((3,), 1)]),
    }

    assert len(found) == 3


def test_sampled_labels_follow_the_models_distribution() -> None:
    logits = torch.log(torch.tensor([0.1, 0.6, 0.3])).expand(4000, 3)
    sample = Sample(tuple([0] * 4001), 1)
    drawn = Labels(sampled=True, seed=3).of(0, sample, logits)

    shares = torch.bincount(drawn, minlength=3) / 4000
    torch.testing.assert_close(shares, torch.tensor([0.1, 0.6, 0.3]), rtol=0, atol=0.03)
    assert not torch.equal(drawn, Labels(sampled=True, seed=3).of(1, sample, logits))  # another item


def test_the_page_names_every_kind_and_every_method_that_reads_one() -> None:
    page = (Path(__file__).parents[4] / "docs" / "calibration.md").read_text()

    assert [kind for kind in KINDS if f"`{kind}`" not in page] == []
    ours = [name for name, method in METHODS.items() if method.requires & set(KINDS)]
    assert [name for name in ours if f"| `{name}`" not in page and f", `{name}`" not in page] == []
