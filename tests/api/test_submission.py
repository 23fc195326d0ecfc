"""Submitting a search: every wrong field is named, nothing is made of a wrong search."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from fastapi.testclient import TestClient
from transformers import LlamaConfig, LlamaForCausalLM

from api.settings import Settings

SPEC: dict[str, Any] = {
    "name": "tiny",
    "models": {"base": "base", "sources": {"a": "expert-a", "b": "expert-b"}},
    "space": {"kind": "parameter", "method": "task_arithmetic", "weight": [-0.5, 1.5], "layers": 2},
    "objectives": [{"name": "sums", "eval_sets": ["sums"], "metric": "accuracy"}],
    "optimizer": {"name": "cma_es", "options": {}},
    "budget": {"candidates": 20},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer base, two experts of it, and a stranger with wider layers."""
    folder = tmp_path_factory.mktemp("models")
    for seed, (name, hidden) in enumerate([("base", 32), ("expert-a", 32), ("expert-b", 32), ("stranger", 48)]):
        torch.manual_seed(seed)
        config = LlamaConfig(
            hidden_size=hidden, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, vocab_size=64
        )
        LlamaForCausalLM(config).save_pretrained(folder / name)
    return folder


@pytest.fixture
def registered(client: TestClient, settings: Settings, models: Path) -> TestClient:
    """The client of a service that knows the models and three eval sets, one with an id twice."""
    folder = settings.data_dir
    item = {"context": "2 + 2 =", "choices": [" 4", " 5"], "label": 0}
    sums = [
        item | {"id": str(n), "context": f"{n} + 2 =", "split": "holdout" if n > 5 else "search"} for n in range(10)
    ]
    for name, items in {"sums": sums, "twice": [*sums, sums[0]], "open": sums[:5]}.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, items)))
    registry = {
        "models": {name: str(models / name) for name in ("base", "expert-a", "expert-b", "stranger")}
        | {"vanished": "nowhere"},
        "eval_sets": {name: f"{name}.jsonl" for name in ("sums", "twice", "open")},
    }
    settings.registry_path.write_text(yaml.safe_dump(registry))
    return client


def _with(path: str, value: Any) -> dict[str, Any]:
    """The search with another value at a place."""
    spec = copy.deepcopy(SPEC)
    *parents, last = path.split("/")[1:]
    node: Any = spec
    for part in parents:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[int(last) if isinstance(node, list) else last] = value
    return spec


def test_a_search_is_accepted_with_its_place_and_full_spec(registered: TestClient) -> None:
    response = registered.post("/api/v1/runs", json=SPEC)

    assert response.status_code == 202, response.text
    run = response.json()
    assert response.headers["location"] == f"/api/v1/runs/{run['id']}"
    assert run["state"] == "queued"
    assert run["spec"]["subset"]["policy"] == "auto"
    assert registered.get(response.headers["location"]).json()["id"] == run["id"]


def test_yaml_is_read_as_json_is(registered: TestClient) -> None:
    text = yaml.safe_dump(SPEC)
    response = registered.post("/api/v1/runs:validate", content=text, headers={"content-type": "application/yaml"})

    assert response.json() == registered.post("/api/v1/runs:validate", json=SPEC).json()


def test_checking_says_what_the_search_would_be_and_makes_nothing(registered: TestClient) -> None:
    checked = registered.post("/api/v1/runs:validate", json=SPEC).json()

    assert checked["dimension"] == len(checked["genes"]) == 4  # two sources × two groups of layers
    assert checked["items"] == {"sums": {"search": 6, "holdout": 4}}
    assert any("holdout" in warning for warning in checked["warnings"])
    assert registered.get("/api/v1/runs").json()["items"] == []


@pytest.mark.parametrize(
    ("path", "value", "pointer", "said"),
    [
        ("/models/base", "nobody", "/models/base", "registered aliases"),
        ("/models/base", "vanished", "/models/base", "gone"),
        ("/models/sources/a", "../../etc/passwd", "/models/sources/a", "registered aliases"),
        ("/models/sources/b", "stranger", "/models/sources/b", "head_dim 12"),
        ("/models/sources", {}, "/models/sources", "at least 1"),
        ("/objectives/0/metric", "luck", "/objectives/0/metric", "accuracy"),
        ("/objectives/0/metric", "exact_match", "/objectives/0/metric", "choice"),
        ("/objectives/0/eval_sets", ["nobody"], "/objectives/0/eval_sets/0", "registered aliases"),
        ("/objectives/0/eval_sets", ["twice"], "/objectives/0/eval_sets/0", "unique ids"),
        ("/objectives/0/direction", "sideways", "/objectives/0/direction", "maximize"),
        ("/objectives", [], "/objectives", "at least 1"),
        ("/objectives", [{"name": "c", "metric": "layers", "direction": "minimize"}], "/objectives", "besides costs"),
        ("/constraints", [{"name": "c", "metric": "layers"}], "/constraints/0/max", "limited by a number"),
        ("/constraints", [{"name": "c", "metric": "layers", "max": 9, "items": 4}], "/constraints/0/items", "none"),
        ("/space", {"kind": "data_flow", "host": "nobody"}, "/space/host", "one of base, a, b"),
        ("/space", {"kind": "hybrid", "merge": {"method": "alchemy"}}, "/space/merge/method", "task_arithmetic"),
        ("/verify/metrics", ["luck"], "/verify/metrics/0", "accuracy"),
        ("/space/kind", "wormhole", "/space/kind", "parameter"),
        ("/space/method", "alchemy", "/space/method", "task_arithmetic"),
        ("/space/weight", [2, 1], "/space/weight", "low"),
        ("/space/colour", "red", "/space/colour", ""),
        ("/optimizer/name", "luck", "/optimizer/name", "cma_es"),
        ("/optimizer/options", {"colour": 1}, "/optimizer/options/colour", ""),
        ("/budget/candidates", 0, "/budget/candidates", "greater than or equal to 1"),
        ("/budget/candidatez", 5, "/budget/candidatez", "known here are candidates"),
        ("/buget", {}, "/buget", "budget"),
        ("/seed", "one", "/seed", "integer"),
    ],
)
def test_a_wrong_field_is_named_with_what_is_allowed(
    registered: TestClient, problem: Any, path: str, value: Any, pointer: str, said: str
) -> None:
    body = problem(registered.post("/api/v1/runs", json=_with(path, value)), 422, "invalid")

    assert [one["pointer"] for one in body["errors"]] == [pointer]
    assert said in body["errors"][0]["detail"]
    assert registered.get("/api/v1/runs").json()["items"] == []


def test_all_wrong_fields_are_named_at_once(registered: TestClient, problem: Any) -> None:
    spec = _with("/models/base", "nobody")
    spec["models"]["sources"]["a"] = "nobody"
    spec["objectives"][0]["eval_sets"] = ["nobody"]
    errors = problem(registered.post("/api/v1/runs:validate", json=spec), 422, "invalid")["errors"]

    assert [one["pointer"] for one in errors] == ["/models/base", "/models/sources/a", "/objectives/0/eval_sets/0"]


@pytest.mark.parametrize(
    ("body", "media_type", "status", "kind"),
    [
        (b"{", "application/json", 400, "bad-request"),
        (b'{"seed": NaN}', "application/json", 400, "bad-request"),
        (b"\xff\xfe", "application/json", 400, "bad-request"),
        (b"[" * 100_000, "application/json", 400, "bad-request"),
        (b"a: [", "application/yaml", 400, "bad-request"),
        (b"!!python/object/apply:os.getcwd []", "application/yaml", 400, "bad-request"),
        (b"<spec/>", "application/xml", 415, "unsupported-media-type"),
        (b"[]", "application/json", 422, "invalid"),
        (b"null", "application/yaml", 422, "invalid"),
    ],
)
def test_a_body_that_is_no_search_is_a_problem(
    registered: TestClient, problem: Any, body: bytes, media_type: str, status: int, kind: str
) -> None:
    response = registered.post("/api/v1/runs", content=body, headers={"content-type": media_type})

    problem(response, status, kind)


def test_a_yaml_bomb_is_refused(registered: TestClient, problem: Any) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    response = registered.post("/api/v1/runs", content="\n".join(lines), headers={"content-type": "application/yaml"})

    problem(response, 400, "bad-request")


def test_the_same_key_and_search_is_one_run(registered: TestClient) -> None:
    headers = {"idempotency-key": "k1"}
    first = registered.post("/api/v1/runs", json=SPEC, headers=headers)
    again = registered.post(
        "/api/v1/runs", content=yaml.safe_dump(SPEC), headers=headers | {"content-type": "application/yaml"}
    )

    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(registered.get("/api/v1/runs").json()["items"]) == 1


def test_the_same_key_with_another_search_is_refused(registered: TestClient, problem: Any) -> None:
    headers = {"idempotency-key": "k1"}
    registered.post("/api/v1/runs", json=SPEC, headers=headers)
    body = problem(registered.post("/api/v1/runs", json=_with("/seed", 7), headers=headers), 422, "invalid")

    assert body["errors"][0]["parameter"] == "Idempotency-Key"


def test_without_a_registry_nothing_is_known(client: TestClient, problem: Any) -> None:
    assert client.get("/api/v1/models").json() == {"items": []}
    assert problem(client.post("/api/v1/runs", json=SPEC), 422, "invalid")["errors"][0]["pointer"] == "/models/base"


@pytest.mark.parametrize(
    ("changes", "pointer", "said"),
    [
        ({"/space/method": "fisher"}, "/space/method", "beside the space calibration"),
        ({"/space/method": "fisher", "/calibration": {}}, "/space/method", "calibration.sources.a"),
        ({"/space/method": "fisher", "/calibration": {"items": {"location": "sum"}}}, "/calibration/items", "sums"),
        ({"/calibration": {"sources": {"x": {"location": "sums"}}}}, "/calibration/sources/x", "a source of the run"),
        ({"/calibration": {"items": "sums"}}, "/calibration/items", "dictionary"),
        ({"/space/method": "lora_mean"}, "/models/sources/a", "a LoRA adapter"),
        ({"/models/sources": {"base": "expert-a"}}, "/models/sources/base", "another name"),
    ],
)  # fmt: skip
def test_what_a_method_needs_is_asked_for_when_a_search_is_submitted(
    registered: TestClient, problem: Any, changes: dict[str, Any], pointer: str, said: str
) -> None:
    spec = copy.deepcopy(SPEC)
    for place, value in changes.items():
        *parents, last = place.split("/")[1:]
        node = spec
        for part in parents:
            node = node[part]
        node[last] = value
    body = problem(registered.post("/api/v1/runs", json=spec), 422, "invalid")

    assert body["errors"][0]["pointer"].startswith(pointer)
    assert said in body["errors"][0]["detail"]
    assert registered.get("/api/v1/runs").json()["items"] == []


def test_the_catalog_says_what_a_method_is_and_needs(registered: TestClient) -> None:
    items = {one["name"]: one for one in registered.get("/api/v1/methods").json()["items"]}
    ties, fisher, lora = items["ties"], items["fisher"], items["lora_mean"]
    density = next(p for p in ties["parameters"] if p["name"] == "density")
    scope = next(p for p in ties["parameters"] if p["name"] == "scope")

    assert ties["description"] == f"{ties['title']}. {ties['paper']}"
    assert "arXiv:2306.01708" in ties["paper"]
    assert (density["default"], density["range"], density["legal"]) == (0.2, [0.05, 1.0], [0.0, 1.0])
    assert (density["per_source"], density["scale"], density["text"]) == (
        True,
        "linear",
        "share of entries that survive",
    )
    assert (scope["default"], scope["range"], scope["choices"]) == ("global", None, ["global", "tensor"])
    assert (ties["needs"]["calibration"], fisher["needs"]["calibration"]) == ([], ["fisher"])
    assert (ties["needs"]["adapters"], lora["needs"]["adapters"]) == (False, True)
    assert items["slerp"]["needs"]["sources"] == [1, 2]
    assert (items["dare_linear"]["needs"]["seed"], items["linear"]["needs"]["seed"]) == (True, False)
    assert (items["magmax"]["cost"], items["tsv_m"]["cost"], items["tsv_m"]["grain"]) == (
        "elementwise",
        "svd",
        "tensor",
    )
    assert all(len(one["description"]) > 20 and one["paper"] for one in items.values())


def test_the_catalog_lists_the_stages_of_pipelines(registered: TestClient) -> None:
    items = {one["name"]: one for one in registered.get("/api/v1/stages").json()["items"]}

    assert (items["trim"]["kind"], items["sum"]["kind"], items["scale"]["kind"]) == ("sparsify", "aggregate", "post")
    assert "density" in [p["name"] for p in items["trim"]["parameters"]]
    assert items["core"]["needs"]["adapters"]
    assert all(one["description"] for one in items.values())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("stages", "trim"),
        ("models", "expert-a"),
        ("eval-sets", "sums"),
        ("optimizers", "cma_es"),
        ("methods", "ties"),
        ("metrics", "accuracy"),
    ],
)
def test_the_catalog_lists_what_a_search_can_name(registered: TestClient, path: str, name: str) -> None:
    items = registered.get(f"/api/v1/{path}").json()["items"]

    assert name in [one["name"] for one in items]
    assert all(one.get("description", "text") for one in items)


def test_the_catalog_marks_what_is_gone(registered: TestClient) -> None:
    items = {one["name"]: one["available"] for one in registered.get("/api/v1/models").json()["items"]}

    assert items["base"]
    assert not items["vanished"]


def test_the_catalog_does_not_tell_places(registered: TestClient, models: Path) -> None:
    assert str(models) not in registered.get("/api/v1/models").text


def test_items_that_a_source_was_trained_on_are_warned_of(
    registered: TestClient, settings: Settings, problem: Any
) -> None:
    (settings.data_dir / "seen.jsonl").write_text(json.dumps({"text": "7 + 2 = 4"}))
    registry = yaml.safe_load(settings.registry_path.read_text())
    settings.registry_path.write_text(yaml.safe_dump(registry | {"training": {"expert-a": ["seen.jsonl"]}}))
    warnings = registered.post("/api/v1/runs:validate", json=SPEC).json()["warnings"]

    assert "/models: a: 1 of 4 holdout items of 'sums' are in its training data" in warnings
    settings.registry_path.write_text(yaml.safe_dump(registry | {"training": {"expert-a": ["gone.jsonl"]}}))
    body = problem(registered.post("/api/v1/runs:validate", json=SPEC), 422, "invalid")
    assert "gone.jsonl" in json.dumps(body)
