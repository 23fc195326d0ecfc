"""What holds for every answer: problem documents, headers, limits, documentation."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings


def test_an_unknown_address_is_a_problem(client: TestClient, problem: Any) -> None:
    assert "/api/v1/nowhere" in problem(client.get("/api/v1/nowhere"), 404, "not-found")["detail"]


def test_a_wrong_method_is_a_problem_that_says_what_is_allowed(client: TestClient, problem: Any) -> None:
    response = client.delete("/api/v1/runs")

    problem(response, 405, "method-not-allowed")
    assert set(response.headers["allow"].split(", ")) == {"GET", "POST"}


def test_a_wrong_method_stays_a_problem_with_a_dashboard(settings: Settings, tmp_path: Path, problem: Any) -> None:
    static = _dashboard(tmp_path)
    with TestClient(create_app(settings, static=static), base_url="http://localhost") as client:
        problem(client.delete("/api/v1/runs"), 405, "method-not-allowed")
        problem(client.get("/api/v1/nowhere"), 404, "not-found")


def test_deep_links_of_the_dashboard_give_its_page(settings: Settings, tmp_path: Path) -> None:
    static = _dashboard(tmp_path)
    with TestClient(create_app(settings, static=static), base_url="http://localhost") as client:
        response = client.get("/runs/run_1", headers={"accept": "text/html"})

    assert (response.status_code, response.text) == (200, "<h1>dashboard</h1>")
    assert "default-src 'self'" in response.headers["content-security-policy"]


def test_without_a_built_dashboard_the_root_says_how_to_build_it(client: TestClient) -> None:
    assert "python -m api.ui_build" in client.get("/").text


def test_a_body_over_the_limit_is_a_problem(tmp_path: Path, problem: Any) -> None:
    app = create_app(Settings(data_dir=tmp_path, max_body_bytes=1024))
    with TestClient(app, base_url="http://localhost") as client:
        response = client.post("/api/v1/runs", content=b" " * 2000, headers={"content-type": "application/json"})

    problem(response, 413, "too-large")


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(tmp_path: Path, problem: Any) -> None:
    app = create_app(Settings(data_dir=tmp_path, max_body_bytes=1024))
    with TestClient(app, base_url="http://localhost") as client:
        chunks = (b" " * 500 for _ in range(10))
        response = client.post("/api/v1/runs", content=chunks, headers={"content-type": "application/json"})

    problem(response, 413, "too-large")


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    for path in ("/livez", "/api/v1/runs", "/api/v1/nowhere", "/"):
        headers = client.get(path).headers

        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "", "a b", "localhost@evil.example"])
def test_a_foreign_host_header_is_refused(client: TestClient, problem: Any, host: str) -> None:
    problem(client.get("/api/v1/runs", headers={"host": host}), 400, "host-not-allowed")


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1", "[::1]:80", "LOCALHOST"])
def test_loopback_host_headers_are_taken_with_any_port(client: TestClient, host: str) -> None:
    assert client.get("/api/v1/runs", headers={"host": host}).status_code == 200


def test_a_change_asked_for_by_another_site_is_refused(client: TestClient, problem: Any) -> None:
    refused = client.post("/api/v1/runs/run_1:cancel", headers={"origin": "https://evil.example"})

    problem(refused, 403, "cross-origin")
    same = client.post("/api/v1/runs/run_1:cancel", headers={"origin": "http://localhost"})
    problem(same, 404, "not-found")


def test_probes_and_version_answer(client: TestClient) -> None:
    assert client.get("/livez").json() == client.get("/readyz").json() == {"status": "ok"}
    assert client.get("/api/v1/version").json()["api"] == "v1"


def test_openapi_documents_problems_and_the_search(client: TestClient) -> None:
    document = client.get("/api/v1/openapi.json").json()

    submit = document["paths"]["/api/v1/runs"]["post"]
    assert {"202", "413", "415", "422"} <= set(submit["responses"])
    assert submit["requestBody"]["content"]["application/yaml"]["schema"] == {"$ref": "#/components/schemas/RunSpec"}
    references = _references(document)
    assert references
    assert all(name in document["components"]["schemas"] for name in references)


def test_problem_types_have_an_address_that_explains_them(client: TestClient) -> None:
    type_ = client.get("/api/v1/nowhere").json()["type"]

    assert client.get(type_).json()["name"] == "not-found"


def test_a_service_that_only_shows_runs_loads_neither_torch_nor_ray() -> None:
    code = "import api.app, sys; sys.exit(','.join({'torch', 'ray', 'transformers'} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


def _dashboard(folder: Path) -> Path:
    static = folder / "static"
    static.mkdir()
    (static / "index.html").write_text("<h1>dashboard</h1>")
    return static


def _references(node: Any) -> set[str]:
    if isinstance(node, dict):
        own = {node["$ref"].rpartition("/")[2]} if isinstance(node.get("$ref"), str) else set()
        return own.union(*(_references(value) for value in node.values()))
    return set().union(*(_references(value) for value in node)) if isinstance(node, list) else set()
