"""Banks of answers: listed, read in every form, taken in and written out, over REST and the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from api.cli import main
from api.settings import Settings
from evomerge.storage.blocks import AnswerBlock
from evomerge.storage.sql import SqlStore, open_store
from fitness.items import Item, write_items

FINGERPRINT = "ab" * 32
NAN = float("nan")


@pytest.fixture
def filled(settings: Settings) -> Callable[..., None]:
    """Fills the service's store: two models, one of which answered one item of two."""

    def fill(*more: AnswerBlock) -> None:
        store: SqlStore = open_store(settings.url)
        store.describe_evaluator(FINGERPRINT, {"dtype": "float32"})
        accuracy = {"accuracy": (1.0, 0.0), "margin": (0.25, -1e-300)}
        a = AnswerBlock(FINGERPRINT, "sums", "a" * 64, ("x", 'y "2"'), (), accuracy)
        b = AnswerBlock(FINGERPRINT, "sums", "b" * 64, ("x",), (), {"accuracy": (0.0,)})
        store.add_answers([a, b, *more])
        store.close()

    return fill


@pytest.fixture
def bank(client: TestClient, filled: Callable[..., None]) -> TestClient:
    filled()
    return client


def test_banks_are_listed_under_an_etag_that_changes_with_them(client: TestClient, filled: Callable[..., None]) -> None:
    empty = client.get("/api/v1/answers")
    filled()
    listed = client.get("/api/v1/answers", headers={"If-None-Match": empty.headers["etag"]})
    again = client.get("/api/v1/answers", headers={"If-None-Match": listed.headers["etag"]})

    assert empty.json() == {"items": []}
    (bank,) = listed.json()["items"]
    assert (bank["fingerprint"], bank["eval_set"], bank["settings"]) == (FINGERPRINT, "sums", {"dtype": "float32"})
    assert (bank["subjects"], bank["items"], bank["answers"], bank["complete"]) == (2, 2, 3, 1)
    assert bank["metrics"] == ["accuracy", "margin"]
    assert (again.status_code, again.content) == (304, b"")


def test_a_bank_is_a_matrix_in_json_csv_or_npz(bank: TestClient) -> None:
    address = f"/api/v1/answers/{FINGERPRINT[:12]}?metric=accuracy"
    page = bank.get(address)
    text = bank.get(address, headers={"Accept": "text/csv"})
    packed = bank.get(address, headers={"Accept": "text/html, application/x-npz;q=0.9"})

    assert page.json() == {
        "fingerprint": FINGERPRINT, "eval_set": "sums", "metric": "accuracy", "items": ["x", 'y "2"'],
        "subjects": ["a" * 64, "b" * 64], "values": [[1.0, 0.0], [0.0, None]], "next_cursor": None,
    }  # fmt: skip
    assert text.headers["content-type"].startswith("text/csv")
    assert text.text == f'subject,x,"y ""2"""\n{"a" * 64},1.0,0.0\n{"b" * 64},0.0,\n'
    with np.load(io.BytesIO(packed.content), allow_pickle=False) as found:
        assert np.array_equal(found["values"], [[1.0, 0.0], [0.0, NAN]], equal_nan=True)
    assert page.headers["vary"] == "Accept"
    tags = {answer.headers["etag"] for answer in (page, text, packed)}
    assert len(tags) == 3
    assert bank.get(address, headers={"If-None-Match": page.headers["etag"]}).status_code == 304


def test_rows_come_in_pages(client: TestClient, filled: Callable[..., None]) -> None:
    filled(*(AnswerBlock(FINGERPRINT, "sums", f"m{n}", ("x",), (), {"accuracy": (n / 7,)}) for n in range(5)))
    address, seen = f"/api/v1/answers/{FINGERPRINT}?metric=accuracy&limit=3", list[str]()
    for size in (3, 3, 1):
        page = client.get(address)
        assert len(page.json()["subjects"]) == len(page.json()["values"]) == size
        seen += page.json()["subjects"]
        if page.json()["next_cursor"]:
            address = page.headers["link"].split(">")[0].removeprefix("<")
            assert page.json()["next_cursor"] in address

    assert page.json()["next_cursor"] is None
    assert seen == ["a" * 64, "b" * 64, *(f"m{n}" for n in range(5))]


def test_what_comes_between_two_pages_changes_neither_rows_nor_columns(
    client: TestClient, filled: Callable[..., None]
) -> None:
    filled(*(AnswerBlock(FINGERPRINT, "sums", f"m{n}", ("x",), (), {"accuracy": (n / 7,)}) for n in range(5)))
    address = f"/api/v1/answers/{FINGERPRINT}?metric=accuracy&limit=3"
    first = client.get(address).json()
    filled(*(AnswerBlock(FINGERPRINT, "sums", name, ("z",), (), {"accuracy": (1.0,)}) for name in ("m1a", "m2")))
    rest = client.get(f"{address}&cursor={first['next_cursor']}").json()
    whole = client.get(address, headers={"Accept": "text/csv"}).text.splitlines()

    assert rest["items"] == first["items"] == ["x", 'y "2"']
    assert rest["subjects"] == ["m1", "m2", "m3"]
    assert (whole[0][:10], whole[0][-2:]) == ("subject,x,", ",z")
    assert [line.split(",")[0] for line in whole[1:]] == [
        "a" * 64,
        "b" * 64,
        *(f"m{n}" for n in range(2)),
        "m1a",
        "m2",
        "m3",
        "m4",
    ]
    assert "m2,0.2857142857142857,,1.0" in whole


def test_more_subjects_than_are_read_at_a_time_come_whole(client: TestClient, filled: Callable[..., None]) -> None:
    filled(*(AnswerBlock(FINGERPRINT, "sums", f"m{n:04}", ("x",), (), {"accuracy": (n / 2000,)}) for n in range(1100)))
    address = f"/api/v1/answers/{FINGERPRINT}?metric=accuracy"
    text = client.get(address, headers={"Accept": "text/csv"}).text.splitlines()
    packed = client.get(address, headers={"Accept": "application/x-npz"})

    assert len(text) == 1103
    assert len(set(text)) == 1103
    with np.load(io.BytesIO(packed.content), allow_pickle=False) as found:
        assert found["values"].shape == (1102, 2)
        assert found["values"][2:, 0].tolist() == [n / 2000 for n in range(1100)]


@pytest.mark.parametrize(
    ("address", "status", "named"),
    [
        ("nobody", 404, "GET /api/v1/answers"),
        (FINGERPRINT, 422, "accuracy, margin"),
        (f"{FINGERPRINT}?metric=f1", 422, "accuracy, margin"),
        (f"{FINGERPRINT}?eval_set=code&metric=accuracy", 422, "sums"),
        (f"{FINGERPRINT}?metric=accuracy&cursor=x", 400, "cursor"),
        (f"{FINGERPRINT}?metric=accuracy&cursor=WyJhbnN3ZXJzIiwzXQ", 400, "cursor"),
        (f"{FINGERPRINT}?metric=accuracy&limit=0", 422, "limit"),
        (f"{FINGERPRINT}?metric=accuracy&format=parquet", 422, "format"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(bank: TestClient, address: str, status: int, named: str) -> None:
    answer = bank.get(f"/api/v1/answers/{address}")

    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert named in answer.json()["detail"]


def test_a_form_that_is_not_offered_is_refused(bank: TestClient) -> None:
    answer = bank.get(f"/api/v1/answers/{FINGERPRINT}?metric=accuracy", headers={"Accept": "image/png"})

    assert answer.status_code == 406
    assert "text/csv" in answer.json()["detail"]


# The command line


@pytest.fixture
def evomerge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end well; give what it printed."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["evomerge", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        assert end.value.code in (0, None), printed.err
        return printed.out

    return run


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end in one line; give the line."""

    def run(*arguments: str) -> str:
        monkeypatch.setattr("sys.argv", ["evomerge", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        line = capsys.readouterr().err
        assert (end.value.code, line.count("\n")) == (2, 1), line
        return line

    return run


def test_what_is_imported_is_listed_and_exported(evomerge: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("subject,x,y\nqwen,1,0\nllama,0.5,\n")
    folder = ("--data-dir", str(tmp_path / "data"))
    said = evomerge("items", "import", str(tmp_path / "in.csv"), "--eval-set", "sums", "--metric", "accuracy", *folder)
    again = evomerge("items", "import", str(tmp_path / "in.csv"), "--eval-set", "sums", "--metric", "accuracy", *folder)
    listed = json.loads(evomerge("items", "list", "--json", *folder))
    evomerge("items", "export", str(tmp_path / "out.csv"), "--eval-set", "sums", "--metric", "accuracy", *folder)
    evomerge(
        "items",
        "export",
        str(tmp_path / "out.jsonl"),
        "--eval-set",
        "sums",
        "--metric",
        "accuracy",
        "--complete",
        *folder,
    )

    assert "3 answers of 2 subjects to 'sums'; 2 of 2 blocks are new" in said
    assert "0 of 2 blocks are new" in again
    assert [(b["fingerprint"], b["subjects"], b["complete"]) for b in listed] == [("imported:sums", 2, 1)]
    assert (tmp_path / "out.csv").read_text() == "subject,x,y\nllama,0.5,\nqwen,1.0,0.0\n"
    assert [json.loads(line)["subject"] for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ["qwen"] * 2
    assert "imported:sums" in evomerge("items", "list", *folder)


def test_an_eval_set_says_what_was_asked_and_which_columns_are_wanted(
    evomerge: Callable[..., str], tmp_path: Path
) -> None:
    items = [
        Item(f"i{n}", f"{n} + 1 =", (f" {n + 1}", " 0"), 0, split="holdout" if n == 2 else "search", group="g")
        for n in range(3)
    ]
    write_items(items, tmp_path / "sums.jsonl")
    (tmp_path / "in.csv").write_text("subject,i2,i1,i0\nqwen,1,0,1\n")
    shared = ("--eval-set", "sums", "--metric", "accuracy", "--items", str(tmp_path / "sums.jsonl"))
    folder = ("--data-dir", str(tmp_path / "data"))
    evomerge("items", "import", str(tmp_path / "in.csv"), *shared, "--fingerprint", FINGERPRINT, *folder)
    evomerge("items", "export", str(tmp_path / "out.csv"), *shared, *folder)
    evomerge("items", "export", str(tmp_path / "last.csv"), *shared, "--split", "holdout", *folder)

    assert (tmp_path / "out.csv").read_text() == "subject,i0,i1\nqwen,1.0,0.0\n"
    assert (tmp_path / "last.csv").read_text() == "subject,i2\nqwen,1.0\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("subject,x\na,2\n", ("--metric", "accuracy"), "accuracy of 'a' for item 'x'"),
        ("subject,x\na,1\n", ("--metric", "accuracies"), "metric"),
        ("subject,x\na,1\n", (), "metric"),
        ("subject,x\na\n", ("--metric", "accuracy"), "in.csv:2"),
        ("subject,x\na,1\n", ("--metric", "accuracy", "--fingerprint", "a/b"), "fingerprint"),
        ("subject,x\na,1\n", ("--metric", "accuracy", "--items", "gone.jsonl"), "gone.jsonl"),
    ],
)
def test_an_import_that_is_wrong_is_one_line_and_leaves_nothing(
    refused: Callable[..., str],
    evomerge: Callable[..., str],
    tmp_path: Path,
    text: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    (tmp_path / "in.csv").write_text(text)
    folder = ("--data-dir", str(tmp_path / "data"))
    said = refused("items", "import", str(tmp_path / "in.csv"), "--eval-set", "sums", *options, *folder)

    assert message in said
    assert json.loads(evomerge("items", "list", "--json", *folder)) == []


def test_an_export_of_nothing_or_of_one_of_several_says_what_there_is(
    refused: Callable[..., str], settings: Settings, filled: Callable[..., None], tmp_path: Path
) -> None:
    filled(AnswerBlock("cd" * 32, "sums", "m", ("x",), (), {"accuracy": (1.0,)}))
    folder, out = ("--data-dir", str(settings.data_dir)), str(tmp_path / "out.csv")

    assert "sums" in refused("items", "export", out, "--eval-set", "code", "--metric", "accuracy", *folder)
    several = refused("items", "export", out, "--eval-set", "sums", "--metric", "accuracy", *folder)
    assert "abababababababab, cdcdcdcdcdcdcdcd" in several
    wrong = refused("items", "export", out, "--eval-set", "sums", "--metric", "f1", "--fingerprint", "ab", *folder)
    assert "accuracy, margin" in wrong
    assert not Path(out).exists()
