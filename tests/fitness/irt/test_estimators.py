"""The table of estimators, and the page about them."""

from __future__ import annotations

import re
from pathlib import Path

from fitness.irt.contracts import Bank
from fitness.irt.estimators import ESTIMATORS, make_estimator
from tests.fitness.irt.simulated import answers_of_2pl, matrix_of

PAGE = Path(__file__).parents[3] / "docs" / "estimators.md"


def test_the_page_explains_every_estimator() -> None:
    headings = re.findall(r"^### (.*)$", PAGE.read_text(), re.MULTILINE)

    assert re.findall(r"`(\w+)`", " ".join(headings)) == list(ESTIMATORS)


def test_estimators_have_the_names_that_the_table_says() -> None:
    bank = Bank(matrix_of(answers_of_2pl(6, 8, 1)[0]), (0, 1))

    assert [make_estimator(name, bank).name for name in ESTIMATORS] == list(ESTIMATORS)
