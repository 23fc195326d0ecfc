"""Searches on items without labels: by entropy, as AdaMerging does, and by agreement with the sources."""

import json

import pytest

from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from tests.workers.test_gradient_run import check_gradients
from tests.workers.tiny_run import drive, events_of, make_registry, run_spec, whole_run
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


OPTIONS = {
    "adam": {"lr": 0.1},
    "dam": {"lr": 0.1},
    "expert_merging": {"lr": 0.3, "regularisation": 0.001},
    "cma_es": {"population": 4},
}


def spec_of(metric, optimizer="adam", **changes):
    objective = {"name": "free", "eval_sets": ["sums"], "metric": metric, "direction": "minimize"}
    options = OPTIONS[optimizer]
    space = {"kind": "parameter", "method": "task_arithmetic"}
    return run_spec(
        objectives=[objective | changes], optimizer={"name": optimizer, "options": options}, space=space,
        budget={"candidates": 12},
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["entropy", "expert_kl", "expert_kl_2", "expert_mse"])
def test_gradients_by_genes_are_finite_differences(registry, tmp_path, metric):
    search = prepare(RunSpec.model_validate(spec_of(metric, items=5)), registry, tmp_path / "cache")

    check_gradients(search, (0.4, 0.7))


@pytest.mark.parametrize(
    ("metric", "optimizer"),
    [("entropy", "adam"), ("expert_kl", "adam"), ("expert_kl_2", "dam"), ("expert_kl", "expert_merging")],
)
def test_it_becomes_smaller_without_labels(registry, tmp_path, metric, optimizer):
    store, run = whole_run(tmp_path, registry, spec_of(metric, optimizer))
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


def test_the_same_question_in_the_eval_sets_of_two_sources_has_two_answers(registry, tmp_path):
    """Items belong to the source whose name the eval set has; a second run takes the first one's answers."""
    folder = registry.eval_set("sums").parent
    path = folder / "unowned.jsonl"
    rows = [json.loads(line) | {"group": ""} for line in registry.eval_set("sums").read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    both = Registry.of({k: str(v) for k, v in registry.models.items()}, {"math": str(path), "ja": str(path)}, folder)
    objectives = [
        {"name": f"like-{name}", "eval_sets": [name], "metric": "expert_kl", "direction": "minimize"}
        for name in ("math", "ja")
    ]
    spec = run_spec(objectives=objectives, optimizer={"name": "nsga2", "options": {}}, budget={"candidates": 4})
    store, first = whole_run(tmp_path, both, spec)
    second = store.create_run(spec | {"seed": 6}, "tiny")[0].id
    drive(store, both, tmp_path / "cache", second)

    for run in (first, second):
        for number, name, other in ((3, "math", "ja"), (2, "ja", "math")):
            row = store.candidate(run, number)
            assert row.label == f"source:{name}"
            for answers in row.responses.values():
                assert answers[name]["values"]["expert_kl"] == pytest.approx([0] * 24, abs=1e-6)
                assert sum(answers[other]["values"]["expert_kl"]) > 1e-3
    asked = [e.data["items"] for e in events_of(store, second) if e.type == "candidate.scored"][:4]
    assert asked == [0, 0, 0, 0], "baselines have answered before"
    store.close()
