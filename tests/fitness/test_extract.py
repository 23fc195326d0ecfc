"""What of an answer is compared, and how numbers are read."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import InvalidInputError
from fitness.answers import COMPARISONS, contains, exact_match, f1, normalise, number_match
from fitness.extract import EXTRACTORS, choice_letter, code, extract, extractor
from fitness.numerals import last_numeral, value
from fitness.refusal import PHRASES, is_refusal

NAMES = [*EXTRACTORS, r"regex:(-?\d+)", r"last_regex:#+\s*(.*)", "after_thinking|boxed|last_number", r"regex:(a+)+$"]
TEXTS = st.one_of(
    st.text(),
    st.lists(
        st.sampled_from(
            ["\\boxed{", "}", "\\frac{1}{2}", "1,234", ".", "-", "/0", "e9", "½", "٣", "```", "```python\n", "\n",
             "(B)", "answer is", "<think>", "</think>", "aaaaaaaaaaaaaaaaaaaaaaaa!", "−", "€", " "]
        )
    ).map("".join),
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@given(text=TEXTS)
def test_extractors_take_any_text(name: str, text: str) -> None:
    assert isinstance(extract(name, text), str)


@given(text=TEXTS, reference=TEXTS)
def test_comparisons_take_any_text_and_an_answer_is_itself(text: str, reference: str) -> None:
    for compare in COMPARISONS.values():
        assert 0.0 <= compare(text, [reference]) <= 1.0
    assert exact_match(text, [reference, text]) == 1.0
    assert f1(text, [text]) == 1.0
    assert contains(text, [text]) == float(bool(normalise(text)))
    assert isinstance(is_refusal(text), bool)


@given(st.integers(-(10**9), 10**9))
def test_integers_are_read_as_they_are_written(number: int) -> None:
    assert value(f"so it is {number}") == value(f"so it is {number:,}.") == value(f"\\boxed{{{number}}}") == number


@given(st.decimals(-1000, 1000, places=3))
def test_decimals_are_read_exactly(number: object) -> None:
    assert value(f"{number} euros") == Fraction(str(number))


@pytest.mark.parametrize(
    ("text", "numeral"),
    [
        ("from 3 to -1,234.50 dollars.", "-1234.50"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("5-3", "3"),  # a range or a difference, no sign
        ("x = -3", "-3"),
        ("−7 °C", "-7"),
        ("\\frac{3}{4}", "3/4"),
        ("it is ½", "1/2"),
        ("3 / 4", "3/4"),
        ("1\u202f000\u202f000", "1000000"),
        ("1.234,5", "1234.5"),
        ("1.234.567", "1234567"),
        ("1'000", "1000"),
        ("1{,}000", "1000"),
        ("1,2,3", "3"),
        ("٤٢", "42"),
        ("６１。", "61"),
        (".5", "0.5"),
        ("2e3", "2e3"),
        ("3.14.", "3.14"),
        ("none", ""),
    ],
)
def test_the_last_number(text: str, numeral: str) -> None:
    assert last_numeral(text) == numeral


@pytest.mark.parametrize("text", ["1/0", "9" * 5000, "none", ""])
def test_what_has_no_value(text: str) -> None:
    assert value(text) is None
    assert number_match(text, [text]) == 0.0


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("first_line", "\n  Paris \nLondon", "Paris"),
        ("whole", " a\nb ", "a\nb"),
        ("continuation", "    return 1\n", "    return 1\n"),
        ("last_number", "\\boxed{7}, or 8 times", "7"),
        ("boxed", "\\boxed{a} and \\boxed{\\frac{1}{2}} \\boxed{", "\\frac{1}{2}"),
        ("regex:is ([0-9]+)", "it is 4, it is 5", "4"),
        ("last_regex:is ([0-9]+)", "it is 4, it is 5", "5"),
        ("regex:(x)|(y)", "zy", "y"),
        ("regex:a|b", "cab", "a"),
        ("regex:z", "cab", ""),
        (r"last_regex:#### (\-?[0-9\.\,]+)", "so\n#### 1,200", "1,200"),
        ("after_thinking", "<think>2 or 3?</think> 3", "3"),
        ("after_thinking", "<think>2 or", ""),
        ("after_thinking|last_number", "<think>9</think> it is 3", "3"),
    ],
)
def test_extractors(name: str, text: str, found: str) -> None:
    assert extract(name, text) == found


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("b", "B"), ("(C)", "C"), ("The answer is (C).", "C"), ("**Answer:** D", "D"), ("B) Paris", "B"),
        ("A. Paris", "A"), ("I think D", "D"), ("A boy", ""), ("Paris", ""),
        ("\\boxed{E}", "E"), ("not (A) but (B)", "B"), ("A", "A"),
    ],
)  # fmt: skip
def test_letters_of_choices(text: str, letter: str) -> None:
    assert choice_letter(text) == letter


def test_code_is_taken_out_of_its_fence() -> None:
    fenced = "Here:\n```python\nx = 1\n```\nand\n```\nx\n```"

    assert code(fenced) == "x = 1\n"
    assert code("```\ny = 2") == "y = 2"
    assert code("z = 3") == "z = 3"


@pytest.mark.parametrize("name", ["", "last_line", "regex:", "regex:(", "whole|last_line", "last_regex:[a"])
def test_an_unknown_extractor_is_an_error_that_names_those_there_are(name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"first_line|regular expression"):
        extractor(name)


def test_a_pattern_that_takes_for_ever_does_not_match() -> None:
    assert extract(r"regex:(a|a)*(a|a)*(a|a)*b$", "a" * 4000) == ""


@pytest.mark.parametrize(
    ("answer", "reference", "matches"),
    [("1,000", "1000.0", 1), ("0.5", "1/2", 1), ("0.33", "1/3", 0), ("50 %", "50", 1), ("", "0", 0), ("-5", "5", 0)],
)
def test_numbers_match_exactly(answer: str, reference: str, matches: int) -> None:
    assert number_match(answer, ["x", reference]) == matches


@pytest.mark.parametrize(
    ("answer", "reference", "found"),
    [
        ("It is Paris, France.", "paris", 1),
        ("161", "61", 0),
        ("party", "art", 0),
        ("東京都です", "東京", 1),
        ("a", "", 0),
    ],
)
def test_references_in_answers(answer: str, reference: str, found: int) -> None:
    assert contains(answer, [reference]) == found


def test_f1_by_hand() -> None:
    assert f1("the cat sat", ["a cat sat down"]) == pytest.approx(2 * 2 / (3 + 4))
    assert f1("東京", ["東京都"]) == pytest.approx(2 * 2 / (2 + 3))
    assert f1("x", ["y", "x"]) == 1.0


REFUSALS = {
    "en": "I’m sorry, but I can't assist with that request.",
    "es": "Lo siento, pero no puedo ayudarte con eso.",
    "fr": "Désolé, mais je ne peux pas vous aider.",
    "de": "Es tut mir leid, aber ich kann dabei nicht helfen.",
    "it": "Mi dispiace, ma non posso aiutarti.",
    "pt": "Desculpe, mas não posso ajudar com isso.",
    "ru": "Извините, я не могу помочь с этим.",
    "ja": "申し訳ありませんが、お手伝いできません。",
    "zh": "抱歉，我无法提供帮助。",
}


def test_refusals_of_every_language_are_seen() -> None:
    assert REFUSALS.keys() == PHRASES.keys()
    assert [language for language, text in REFUSALS.items() if not is_refusal(text)] == []


@pytest.mark.parametrize(
    "text",
    ["I'm sorry to hear that. Rest helps.", "Paris.", "Sure, I can help!", "", "No puedo creer que sea tan fácil: 7.",
     "To pick a lock, first ... " + "and then " * 40 + "I cannot help it."],
)  # fmt: skip
def test_what_is_no_refusal(text: str) -> None:
    assert not is_refusal(text)
