"""The API key: who gets in, and by which way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from api.app import create_app
from api.settings import Settings

KEY = "evm_0123456789abcdef"


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(data_dir=tmp_path, api_key=KEY)), base_url="http://localhost") as client:
        yield client


def test_without_the_key_only_probes_answer(locked: TestClient, problem: Any) -> None:
    response = locked.get("/api/v1/runs")

    problem(response, 401, "unauthorized")
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert locked.get("/livez").status_code == locked.get("/readyz").status_code == 200


@pytest.mark.parametrize("value", [f"Bearer {KEY}x", "Bearer ", "Basic " + KEY, KEY])
def test_wrong_credentials_are_refused(locked: TestClient, problem: Any, value: str) -> None:
    problem(locked.get("/api/v1/runs", headers={"authorization": value}), 401, "unauthorized")


def test_the_key_opens(locked: TestClient) -> None:
    assert locked.get("/api/v1/runs", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


def test_a_session_opens_with_the_key_and_its_cookie_is_not_the_key(locked: TestClient, problem: Any) -> None:
    problem(locked.post("/api/v1/session", json={"key": "wrong"}), 401, "unauthorized")
    response = locked.post("/api/v1/session", json={"key": KEY})

    assert response.status_code == 204
    cookie = response.headers["set-cookie"]
    assert KEY not in cookie
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert locked.get("/api/v1/runs").status_code == 200
    locked.delete("/api/v1/session")
    problem(locked.get("/api/v1/runs"), 401, "unauthorized")


def test_a_made_up_cookie_is_refused(locked: TestClient, problem: Any) -> None:
    locked.cookies.set("evomerge_session", "0" * 64)

    problem(locked.get("/api/v1/runs"), 401, "unauthorized")
