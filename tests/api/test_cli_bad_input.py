"""Commands that are given something wrong end in exit status 2 and one line that names it; no traceback."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from api.cli import main

FISHER = {"merge": {"method": "fisher"}, "calibration": {"items": {"location": "items.jsonl"}}}


@pytest.mark.parametrize("command", ["merge", "lint", "cite", "calibrate", "export"])
@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("nope.yaml", "nope.yaml"),
        ("base", "base: got 'Is a directory'"),
        ("text.txt", "text.txt:1: got 'hello'; expected a mapping"),
        ("binary.yaml", "binary.yaml: got 'byte 0 is not UTF-8'"),
    ],
)
def test_what_is_no_recipe_is_refused(refused: Callable[..., str], command: str, file: str, said: str) -> None:
    assert said in refused(command, file, *(["out"] if command == "merge" else []))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["base"], "out: got 'base'; expected a directory that does not exist yet or is empty"),
        (["text.txt"], "out: got 'text.txt'"),
        (["base", "--dry-run"], "out: got 'base'"),
        (["text.txt/out"], "text.txt/out: cannot be written"),
        (["/proc/out"], "/proc/out: cannot be written"),
        (["out", "--memory", "1"], "memory: got 1; expected at least"),
        (["out", "--memory", "1", "--dry-run"], "memory: got 1; expected at least"),
        (["out", "--memory", "abc"], "--memory: got 'abc'; expected a size"),
        (["out", "--memory", "0"], "--memory: got '0'"),
        (["out", "--memory", "nan"], "--memory: got 'nan'"),
        (["out", "--device", "tpu"], "device: got 'tpu'; expected cpu or cuda"),
        (["out", "--device", "meta"], "device: got 'meta'; expected cpu or cuda"),
        (["out", "--device", "cuda:99"], "device: got 'cuda:99'; expected cpu"),
        (["out", "--device", "cuda:99", "--dry-run"], "device: got 'cuda:99'; expected cpu"),
        (["out", "--model", "math"], "--model: got 'math'; expected NAME=PLACE"),
        (["out", "--model", "x=base"], "--model: got 'x=base'"),
        (["out", "--model", "math=nope"], "sources.math: "),
        (["out", "--rank", "3"], "--rank: got 3; expected --as-adapter"),
        (["out", "--drop"], "--drop: got 'drop'; expected --as-adapter"),
        (["out", "--as-adapter", "--energy", "2"], "--energy: got 2.0; expected"),
        (["out", "--as-adapter", "--alpha", "nan"], "--alpha: got nan; expected a finite number"),
        (["out", "--as-adapter"], "output.others: got 'error'"),
    ],
)
def test_wrong_options_of_merge_are_refused(
    refused: Callable[..., str], written: Callable[..., str], options: list[str], said: str
) -> None:
    assert said in refused("merge", written(), *options)


@pytest.mark.parametrize("option", [["--threads", "0"], ["--threads", "x"], ["--rank", "0"], ["--frob"]])
def test_what_is_no_option_or_no_number_is_a_mistake_of_usage(
    written: Callable[..., str],
    broken: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: list[str],
) -> None:
    monkeypatch.chdir(broken)
    monkeypatch.setattr("sys.argv", ["evomerge", "merge", written(), "out", *option])
    with pytest.raises(SystemExit) as end:
        main()

    assert end.value.code == 2
    assert option[0] in capsys.readouterr().err
    assert not (broken / "out").exists()


@pytest.mark.parametrize(
    ("command", "changes", "options", "said"),
    [
        ("lint", {"merge": {"method": "tiez"}}, [], "merge.method: got 'tiez'"),
        ("lint", {"merge": {"method": "ties", "parameters": {"foo": 1}}}, [], "merge.parameters.foo: got 1.0"),
        ("lint", {"sources": {"math": {"location": "truncated"}}}, [], "not a whole safetensors file"),
        ("cite", {"merge": {"method": "tiez"}}, [], "merge.method: got 'tiez'"),
        ("cite", {"merge": {"method": "pipeline", "pipeline": ["x"]}}, [], "merge.pipeline[0]: got 'x'"),
        ("calibrate", {"merge": {"method": "fisher"}}, [], "calibration: got None"),
        (
            "calibrate",
            {**FISHER, "merge": {"method": "fisher", "parameters": {"foo": 1}}},
            [],
            "merge.parameters.foo",
        ),
        ("calibrate", FISHER, ["--device", "tpu"], "device: got 'tpu'; expected cpu or cuda"),
        ("calibrate", FISHER, ["--device", "cuda:99"], "device: got 'cuda:99'; expected cpu"),
        ("calibrate", FISHER, ["--data-dir", "text.txt"], "text.txt/cache"),
        (
            "calibrate",
            {**FISHER, "calibration": {"items": {"location": "empty.jsonl"}}},
            [],
            "expected at least one item",
        ),
        ("export", {}, ["-o", "base"], "base: Is a directory"),
        ("export", {}, ["-o", "a/b.yaml"], "a/b.yaml: No such file or directory"),
        ("export", {"merge": {"method": "fisher"}}, ["--to", "mergekit"], "merge"),
        ("export", {"align": {"math": {"method": "weights"}}}, ["--to", "mergekit"], "align"),
    ],
)
def test_other_commands_refuse_recipes_as_clearly(
    refused: Callable[..., str],
    written: Callable[..., str],
    command: str,
    changes: dict[str, Any],
    options: list[str],
    said: str,
) -> None:
    assert said in refused(command, written(**changes), *options)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["extract", "nope", "math", "out", "--rank", "2"], "base: "),
        (["extract", "base", "nope", "out", "--rank", "2"], "sources.model: "),
        (["extract", "base", "math", "out"], "--rank: got None; expected a rank, or --energy"),
        (["extract", "base", "math", "out", "--energy", "0"], "--energy: got 0.0"),
        (["extract", "base", "math", "out", "--rank", "2", "--alpha", "-1"], "--alpha: got -1.0"),
        (["extract", "base", "math", "base", "--rank", "2"], "out: got 'base'"),
        (["extract", "base", "math", "out", "--rank", "2"], "output.others: got 'error'"),
        (["extract", "base", "base", "out", "--rank", "2"], "the merge changes no matrix"),
        (["extract", "base", "gpt2", "out", "--rank", "2", "--drop"], "'gpt2'"),
        (["extract", "base", "infinite", "out", "--rank", "2", "--drop"], "holds NaN or infinity"),
        (["export", "run_nobody"], "what: got 'run_nobody'; expected a recipe file"),
        (["show", "nope"], "run: got 'nope'"),
        (["show", "nope", "5"], "candidate: got 'nope 5'"),
        (["show", "--data-dir", "text.txt"], "data_dir: got 'text.txt'; expected a directory"),
        (["import", "nope.yaml"], "nope.yaml"),
        (["import", "base"], "base: got 'Is a directory'"),
        (["import", "text.txt"], "text.txt:1: got 'hello'; expected a mapping"),
        (["import", "binary.yaml"], "binary.yaml: got 'byte 0 is not UTF-8'"),
        (["compress", "nope", "out", "--items", "items.jsonl"], "nope: no such directory"),
        (["compress", "base", "out", "--items", "items.jsonl"], "model: got 'llama'; expected a mixture of experts"),
        (["compress", "base", "out", "--items", "nope.jsonl"], "nope.jsonl"),
        (["compress", "base", "out", "--items", "empty.jsonl"], "expected at least one item"),
        (["compress", "base", "out", "--items", "items.jsonl", "--method", "x"], "method: got 'x'; expected one of"),
        (["compress", "base", "out", "--items", "items.jsonl", "--keep", "nan"], "keep: got nan"),
        (["compress", "base", "out", "--items", "items.jsonl", "--method", "mka", "--layers", "2"], "layers: got 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_are_refused(refused: Callable[..., str], arguments: list[str], said: str) -> None:
    assert said in refused(*arguments)


MERGEKIT = "merge_method: linear\nmodels: [{model: base, parameters: {weight: 1}}]\ndtype: float32\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (MERGEKIT, "", "got 'nothing'; expected a configuration of mergekit"),
        (MERGEKIT, "a: [", "expected valid YAML"),
        ("linear", "foo", "merge_method: got 'foo'; expected a method of mergekit"),
        ("[{model: base, parameters: {weight: 1}}]", "[]", "models: got []"),
        ("model: base", "model: 3", "models[0].model: got 3"),
        ("weight: 1", "weight: heavy", "models[0].parameters.weight: got 'heavy'"),
        ("weight: 1", "weight: .nan", "models[0].parameters.weight: got nan"),
        ("dtype: float32", "dtype: int8", "dtype: got 'int8'; expected one of float32"),
        ("dtype: float32", "tokenizer_source: x", "tokenizer_source: got 'x'"),
        ("models", "experts", "experts: got"),
    ],
)
def test_what_cannot_be_imported_is_refused(
    refused: Callable[..., str], broken: Path, old: str, new: str, said: str
) -> None:
    (broken / "mergekit.yaml").write_text(MERGEKIT.replace(old, new))

    assert said in refused("import", "mergekit.yaml")


@pytest.mark.parametrize(("output", "said"), [("base", "base: cannot be written"), ("a/b.yaml", "a/b.yaml: cannot be")])
def test_an_import_that_cannot_be_written_says_so(
    refused: Callable[..., str], broken: Path, output: str, said: str
) -> None:
    (broken / "mergekit.yaml").write_text(MERGEKIT)

    assert said in refused("import", "mergekit.yaml", "-o", output)


def test_brackets_in_a_name_are_printed_as_they_are(
    written: Callable[..., str], broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(broken)
    out = tmp_path / "of [bold]" / "mine[" / "b]"
    monkeypatch.setattr("sys.argv", ["evomerge", "merge", written(), str(out)])
    with pytest.raises(SystemExit) as end:
        main()

    assert not end.value.code
    assert str(out) in "".join(capsys.readouterr().out.split("\n"))
