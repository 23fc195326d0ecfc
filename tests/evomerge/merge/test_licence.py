"""What a model's directory says about its licence."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.merge.licence import front_matter, licence_of


def test_the_model_card_says_it(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: Apache-2.0\ntags: [merge]\n---\n# A model\n")

    found = licence_of(tmp_path)

    assert (found.name, found.warning) == ("apache-2.0", None)
    assert found.where == tmp_path / "README.md"


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("license: other\nlicense_name: my-own\n", "my-own"),
        ("license: [mit, apache-2.0]\n", "mit and apache-2.0"),
        ("license: other\n", "other"),
    ],
)
def test_odd_heads(tmp_path: Path, head: str, name: str) -> None:
    (tmp_path / "README.md").write_text(f"---\n{head}---\n")

    assert licence_of(tmp_path).name == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("                 Apache License\n           Version 2.0", "apache-2.0"),
        ("MIT License\n\nCopyright", "mit"),
        ("Creative Commons\nAttribution-NoDerivatives 4.0 International", "cc-by-nd-4.0"),
        ("LLAMA 3.2 COMMUNITY LICENSE", "llama3"),
        ("Do what you like.", "see license"),
    ],
)
def test_a_licence_file_says_it_where_the_card_does_not(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "README.md").write_text("# A model without a head\n")
    (tmp_path / "LICENSE").write_text(text)

    assert licence_of(tmp_path).name == name


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("cc-by-nd-4.0", "forbids derived works"),
        ("cc-by-nc-nd-4.0", "forbids derived works"),
        ("cc-by-nc-4.0", "non-commercial"),
    ],
)
def test_licences_that_speak_against_merging_are_warned_of(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "README.md").write_text(f"---\nlicense: {name}\n---\n")

    assert says in str(licence_of(tmp_path).warning)


@pytest.mark.parametrize("card", [None, "no head", "---\nlicense: [\n---\n", "---\nlicense: mit\n", "---\n- a\n---\n"])
def test_nothing_said_is_a_warning(tmp_path: Path, card: str | None) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)

    assert front_matter(tmp_path / "README.md") == {}
    assert "no licence" in str(licence_of(tmp_path).warning)
