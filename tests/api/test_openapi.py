"""Requests that the OpenAPI document allows, and some that it does not, get answers that it documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.app import create_app
from api.settings import Settings
from evomerge.storage.sql import open_store
from evomerge.testing.scripted import ScriptedRun, spec

QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
SCALARS = st.one_of(
    st.integers(-3, 600).map(str),
    st.sampled_from(["true", "scored", "running", "search", "baseline", "-score:ja", "score:nobody", "yaml", "*/*"]),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12),
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, dict[str, Any], str]]:
    """A client, the document, and the id of a finished run (a live one's stream would not end)."""
    folder = tmp_path_factory.mktemp("service")
    with TestClient(
        create_app(Settings(data_dir=folder), static=folder / "none"),
        base_url="http://localhost",
        raise_server_exceptions=False,
        follow_redirects=False,
    ) as client:
        store = open_store(Settings(data_dir=folder).url)
        run = ScriptedRun(store, spec("ja", "math"))
        run.enter("running")
        for means in ((0.5, 0.5), (0.6, 0.4)):
            run.score(run.propose(), means)
        run.finish()
        yield client, client.get("/api/v1/openapi.json").json(), run.id
        store.close()


@QUICK
@given(data=st.data())
def test_every_answer_is_one_that_is_documented(
    service: tuple[TestClient, dict[str, Any], str], data: st.DataObject
) -> None:
    client, document, run_id = service
    path = data.draw(st.sampled_from(sorted(document["paths"])))
    method = data.draw(st.sampled_from(sorted(document["paths"][path])))
    operation = document["paths"][path][method]
    query, headers = {}, {}
    address = path.replace("{run_id}", data.draw(st.sampled_from([run_id, run_id, "run_nobody"])))
    for parameter in operation.get("parameters", ()):
        name, place = parameter["name"], parameter["in"]
        if place == "path" and f"{{{name}}}" in address:
            address = address.replace(f"{{{name}}}", data.draw(st.sampled_from(["0", "1", "99", "-1", "x"])))
        elif place == "query" and data.draw(st.booleans()):
            query[name] = data.draw(SCALARS)
        elif place == "header" and data.draw(st.booleans()):
            headers[name] = data.draw(st.sampled_from(["0", "7", "x"]))
    body = {}
    if "requestBody" in operation:
        body = {"json": data.draw(st.dictionaries(st.sampled_from(["name", "seed", "key", "models"]), SCALARS))}
    response = client.request(method, address, params=query, headers=headers, **body)

    documented = operation["responses"]
    assert str(response.status_code) in documented, f"{method} {response.url}: {response.text}"
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        problem = response.json()
        assert problem["status"] == response.status_code
        assert problem["detail"]
    elif response.content:
        media_type = response.headers["content-type"].partition(";")[0]
        assert media_type in documented[str(response.status_code)]["content"]
