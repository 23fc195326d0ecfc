"""The page of methods says what the code has, and every method is proven by a test."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from evomerge.merge.literature import cited, papers
from evomerge.merge.methods import BUILT_IN
from evomerge.merge.stages import STAGES
from evomerge.recipe.schema import Merge

ROOT = Path(__file__).parents[1]
UNPROVEN = {"passthrough"}
"""The identity, as a baseline; its parameters' effects are tested with it."""

ELSEWHERE = {
    "align_weights", "align_activations", "align_transport", "align_names", "pleas",
    "hc_smoe", "sub_moe", "m_smoe", "reap", "mka", "moe_build",
}  # fmt: skip
"""Proven too, but no methods of recipes: how sources are aligned, and what makes one model of another's structure."""


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("methods_table", ROOT / "scripts" / "methods_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(table: ModuleType) -> None:
    assert table.PAGE.read_text(encoding="utf-8") == table.page(), "run: python scripts/methods_table.py"


def test_every_method_is_proven_by_a_test(table: ModuleType) -> None:
    proven = {proof.method for proof in table.proofs()}

    assert sorted(set(BUILT_IN) - proven - UNPROVEN) == []


def test_marks_name_methods_that_exist(table: ModuleType) -> None:
    known = {*BUILT_IN, *STAGES, *ELSEWHERE}
    wrong = [p for p in table.proofs() if p.method not in known or p.by not in ("golden", "property")]

    assert wrong == []


def test_papers_name_what_exists() -> None:
    named = {name for paper in papers() for name in paper.methods}

    assert sorted(named - set(BUILT_IN) - set(STAGES)) == []


def test_every_paper_of_a_method_is_in_the_literature() -> None:
    known = {paper.place for paper in papers()}
    named = {n for m in BUILT_IN.values() for n in re.findall(r"arXiv:\d{4}\.\d{4,5}", m.paper)}

    assert sorted(named - known) == []


def test_papers_are_whole() -> None:
    keys = [paper.key for paper in papers()]

    assert len(set(keys)) == len(keys)
    for paper in papers():
        assert re.fullmatch(r"arXiv:\d{4}\.\d{4,5}|doi:10\.\S+|https://\S+", paper.place), paper
        assert paper.authors, paper
        assert 1900 < paper.year <= 2026, paper
        if paper.status != "working":
            assert paper.note, f"{paper.key} is {paper.status}: say what is missing or why"


def test_a_citation_is_bibtex() -> None:
    (paper,) = cited([Merge(method="ties"), Merge(method="ties")])

    assert paper.bibtex.startswith("@misc{yadav2023ties,\n  title = {{TIES-Merging: ")
    assert "author = {Prateek Yadav and Derek Tam and" in paper.bibtex
    assert paper.bibtex.endswith("url = {https://arxiv.org/abs/2306.01708}\n}")


def test_papers_are_named_as_texts_cite_them() -> None:
    short = {paper.key: paper.short for paper in papers()}

    assert short["yadav2023ties"] == "Yadav et al. 2023"
    assert short["matena2021fisher"] == "Matena and Raffel 2021"
    assert short["karcher1977center"] == "Karcher 1977"
    assert short["arcee2025fusion"] == "Arcee AI 2025"
    assert short["fleshman2024readapt"] == "Fleshman and Van Durme 2024"
    assert short["nouriborji2025mol"] == "Nouriborji et al. 2025"


def test_a_method_s_papers_are_linked(table: ModuleType) -> None:
    text = (
        "after Yu et al. 2024, A: B, arXiv:2311.03099 (ours); Karcher 1977, C, doi:10.1/x; as in TIES, arXiv:2306.01708"
    )

    assert table._sources(text) == (
        "[after Yu et al. 2024](https://arxiv.org/abs/2311.03099) (ours); [Karcher 1977](https://doi.org/10.1/x); "
        "as in TIES, [arXiv:2306.01708](https://arxiv.org/abs/2306.01708)"
    )


def test_every_method_and_paper_is_on_the_page(table: ModuleType) -> None:
    page = table.page()

    assert [name for name in BUILT_IN if f"| `{name}`<br>" not in page] == []
    assert [paper.key for paper in papers() if f"]({paper.link}) | {paper.status} |" not in page] == []


def test_a_pipeline_cites_its_stages() -> None:
    found = cited([Merge(method="pipeline", pipeline=("trim", "sum"))])

    assert "yadav2023ties" in [paper.key for paper in found]
