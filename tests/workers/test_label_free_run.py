"""Searches on items without labels: by entropy, as AdaMerging does, and by agreement with the sources."""

import json

import pytest

from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from tests.workers.test_gradient_run import check_gradients
from tests.workers.tiny_run import events_of, make_registry, run_spec, whole_run
from workers.job import Job
from workers.registry import Registry
from workers.resident_worker import Worker
from workers.setup import prepare


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """The tiny models and their items without labels, each owned by one of the sources."""
    folder = tmp_path_factory.mktemp("label-free-run")
    make_registry(folder)
    for name in ("sums", "threes"):
        path = folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for n, row in enumerate(rows):
            row |= {"label": None, "group": "math" if n % 4 < 2 else "ja"}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Registry.load(folder / "registry.yaml")


def spec_of(metric, optimizer="adam", **changes):
    objective = {"name": "free", "eval_sets": ["sums"], "metric": metric, "direction": "minimize"}
    options = {"lr": 0.1} if optimizer == "adam" else {"population": 4}
    space = {"kind": "parameter", "method": "task_arithmetic"}
    return run_spec(
        objectives=[objective | changes], optimizer={"name": optimizer, "options": options}, space=space,
        budget={"candidates": 12},
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["entropy", "expert_kl", "expert_mse"])
def test_gradients_by_genes_are_finite_differences(registry, tmp_path, metric):
    search = prepare(RunSpec.model_validate(spec_of(metric, items=5)), registry, tmp_path / "cache")

    check_gradients(search, (0.4, 0.7))


@pytest.mark.parametrize("metric", ["entropy", "expert_kl"])
def test_adam_makes_it_smaller_without_labels(registry, tmp_path, metric):
    store, run = whole_run(tmp_path, registry, spec_of(metric))
    events = events_of(store, run)
    scored = [e.data for e in events if e.type == "candidate.scored" and e.data["kind"] == "search"]
    means = [data["scores"]["free"]["mean"] for data in scored]

    assert len(means) == 12
    assert min(means) < means[0]
    assert sum(means[-4:]) / 4 < means[0]


def test_sources_agree_with_themselves_on_what_they_own(registry, tmp_path):
    search = prepare(RunSpec.model_validate(spec_of("expert_kl", "cma_es")), registry, tmp_path / "cache")
    worker = Worker(search.worker, "w")
    groups = {item.id: item.group for item in search.plan.eval_sets["sums"].items}
    for name in ("math", "ja"):
        result = worker.run(Job(0, search.baselines[f"source:{name}"], search.plan.search_items()))
        answers = result.responses["sums"]
        own = {True: [], False: []}
        for item, value in zip(answers.item_ids, answers.values["expert_kl"], strict=True):
            own[groups[item] == name].append(value)

        assert own[True] == pytest.approx([0] * 12, abs=1e-6)
        assert sum(own[False]) > 1e-3


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"direction": "maximize"}, r"objectives\.0\.direction.*minimize"),
        ({"metric": "accuracy", "direction": "maximize"}, r"objectives\.0\.metric.*entropy.*no label"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_submission(registry, tmp_path, changes, field):
    spec = RunSpec.model_validate(spec_of(optimizer="cma_es", **({"metric": "entropy"} | changes)))

    with pytest.raises(InvalidInputError, match=field):
        prepare(spec, registry, tmp_path / "cache")
