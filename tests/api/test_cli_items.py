"""`evomerge items`: eval sets made, shown and checked from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.cli import main
from fitness.items import load_eval_set

TEMPLATE = '{context: "{{ q }}", choices: "{{ options }}", label: 0}'


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["evomerge", "items", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def rows(path: Path, count: int = 40) -> Path:
    lines = [{"q": f"Which number follows {n} times {n}?", "options": [f" {n * n + 1}", " 0"]} for n in range(count)]
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    return path


@pytest.fixture
def eval_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "sums.jsonl"
    data = rows(tmp_path / "rows.jsonl")
    assert run(monkeypatch, "from-dataset", data, "--template", TEMPLATE, "--to", made, "--holdout", "0.4") == 0
    return made


def test_a_data_set_becomes_an_eval_set_that_can_be_shown(
    eval_set: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = load_eval_set("sums", eval_set)
    assert run(monkeypatch, "show", eval_set) == 0

    assert 0 < len(found.split("holdout")) < len(found.split("search"))
    said = capsys.readouterr().out
    assert f"40 choice items, digest {found.digest[:16]}" in said
    assert f"holdout: {len(found.split('holdout'))}" in said


def test_contamination_is_reported_and_can_be_dropped(
    eval_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    items = load_eval_set("sums", eval_set).items
    seen = [items[3], items[8]]
    training = tmp_path / "training.jsonl"
    training.write_text("\n".join(json.dumps({"p": i.context, "c": i.choices[0]}) for i in seen), encoding="utf-8")
    clean = tmp_path / "clean.jsonl"
    assert run(monkeypatch, "overlap", eval_set, training, "--drop", clean) == 1
    said = capsys.readouterr().out
    assert run(monkeypatch, "overlap", clean, training, "--json") == 0

    assert all(i.id in said for i in seen)
    assert [i.id for i in load_eval_set("clean", clean).items] == [i.id for i in items if i not in seen]
    report = json.loads(capsys.readouterr().out)
    assert sum(split["suspect"] for split in report["splits"].values()) == 0
    assert report["texts"] == {str(training): 2}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["from-dataset", "absent.jsonl", "--template", TEMPLATE, "--to", "x.jsonl"], "absent.jsonl"),
        (["from-dataset", "rows.jsonl", "--template", "{context: '{{ p }}'}", "--to", "x.jsonl"], "row 1 context"),
        (["from-dataset", "rows.jsonl", "--template", TEMPLATE, "--to", "x.jsonl", "--holdout", "2"], "holdout"),
        (["show", "absent.jsonl"], "absent.jsonl"),
        (["overlap", "rows.jsonl"], "rows.jsonl:1"),
        (["from-harness", "x", "--to", "x.jsonl", "--metadata", "[]"], "a JSON object"),
        (["from-harness", "x", "--to", "x.jsonl", "--apply-chat-template", "absent"], "a model's directory"),
    ],
)
def test_what_cannot_be_is_one_line_and_nothing_is_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    match: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows(tmp_path / "rows.jsonl", 3)

    assert run(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert match in said
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]
