"""Gradients of real tiny models: right by finite differences, and followed by a whole search that can be replayed."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from evomerge.errors import FailureReason, InvalidInputError
from evomerge.run.spec import RunSpec
from tests.workers.tiny_run import counted_once, events_of, make_registry, run_spec, whole_run
from workers.job import Job
from workers.replay import replay
from workers.resident_worker import Worker
from workers.setup import prepare

METRICS = ("log_likelihood", "choice_probability", "margin")
STEP = 1 / 128


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return make_registry(tmp_path_factory.mktemp("gradient-run"))


def search_of(registry, folder, space, metrics=("choice_probability",), **changes):
    objectives = [
        {"name": f"o{n}", "eval_sets": ["sums", "threes"][: 1 + n % 2], "metric": metric, "items": 5}
        for n, metric in enumerate(metrics)
    ]
    spec = run_spec(space=space, objectives=objectives, optimizer={"name": "adam"}, **changes)
    return prepare(RunSpec.model_validate(spec), registry, folder / "cache")


def evaluate(search, worker, genome, slopes=()):
    return worker.run(Job(0, search.space.recipe(genome), search.plan.items(0), slopes=slopes))


def value_of(search, worker, genome, number):
    """An objective's value, by hand from the answers."""
    slopes, answers = search.plan.slopes(0)[number], evaluate(search, worker, genome).responses
    return sum(
        weight * dict(zip(answers[name].item_ids, answers[name].values[slopes.metric], strict=True))[item]
        for name, weights in slopes.weights.items()
        for item, weight in weights.items()
    )


def check_gradients(search, genome):
    """Every objective's derivative by every gene, beside a central difference of fourth order."""
    worker = Worker(search.worker, "w")
    result = evaluate(search, worker, genome, search.plan.slopes(0))
    assert result.failure is None, result.failure
    found = torch.tensor([search.linear.derivatives(genome, products) for products in result.products])
    expected = torch.zeros_like(found)
    for gene in range(len(genome)):
        for steps, factor in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
            moved = list(genome)
            moved[gene] += steps * STEP
            for number in range(len(found)):
                expected[number, gene] += factor * value_of(search, worker, tuple(moved), number) / (12 * STEP)

    assert expected.abs().max() > 1e-3
    assert (found - expected).abs().max() < 2e-3 * expected.abs().max()


def test_gradients_of_task_arithmetic_by_layers_are_finite_differences(registry, tmp_path):
    space = {"kind": "parameter", "method": "task_arithmetic", "layers": 2, "search": {"lambda": [0.5, 1.5]}}
    search = search_of(registry, tmp_path, space, METRICS[:2])

    assert search.space.dim == 5
    check_gradients(search, tuple(0.3 + 0.05 * gene for gene in range(search.space.dim)))


def test_gradients_of_a_normalised_mean_with_knots_are_finite_differences(registry, tmp_path):
    space = {"kind": "parameter", "method": "linear", "weight": [0.1, 0.9], "knots": 2}

    check_gradients(search_of(registry, tmp_path, space, ("log_likelihood",)), (0.3, 0.6, 0.5, 0.4))


def test_a_tied_head_counts_once_with_both_its_uses(registry, tmp_path):
    for name in ("base", "math", "ja"):
        model = LlamaForCausalLM.from_pretrained(registry.model(name))
        model.config.tie_word_embeddings = True
        model.tie_weights()
        model.save_pretrained(tmp_path / name)
        for file in registry.model(name).glob("token*"):
            (tmp_path / name / file.name).write_bytes(file.read_bytes())
    sets = {name: str(registry.eval_set(name)) for name in ("sums", "threes")}
    models = {name: str(tmp_path / name) for name in ("base", "math", "ja")}
    (tmp_path / "registry.yaml").write_text(json.dumps({"models": models, "eval_sets": sets}))
    tied = type(registry).load(tmp_path / "registry.yaml")
    space = {"kind": "parameter", "method": "task_arithmetic", "roles": [["embedding"], ["*"]]}
    search = search_of(tied, tmp_path, space, ("log_likelihood",))

    assert search.space.architecture.tied
    check_gradients(search, (0.4, 0.5, 0.6, 0.3))


def test_no_gradient_stays_behind_and_scores_are_as_without(registry, tmp_path):
    search = search_of(registry, tmp_path, {"kind": "parameter", "method": "task_arithmetic"})
    worker = Worker(search.worker, "w")
    plain = evaluate(search, worker, (0.4, 0.6))
    with_gradient = evaluate(search, worker, (0.4, 0.6), search.plan.slopes(0))
    again = evaluate(search, worker, (0.4, 0.6))
    model = worker._load().resident.model

    assert plain.products == again.products == ()
    assert plain.responses["sums"].values == with_gradient.responses["sums"].values == again.responses["sums"].values
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())
    assert set(with_gradient.seconds) == {"materialize", "score", "gradient"}


def test_a_model_that_is_not_finite_is_a_failure(registry, tmp_path):
    search = search_of(registry, tmp_path, {"kind": "parameter", "method": "task_arithmetic"})
    worker = Worker(search.worker, "w")
    slopes = search.plan.slopes(0)
    weights = {name: dict.fromkeys(items, float("inf")) for name, items in slopes[0].weights.items()}
    result = evaluate(search, worker, (0.4, 0.6), (replace(slopes[0], weights=weights),))

    assert result.failure is not None
    assert result.failure.reason is FailureReason.NON_FINITE


@pytest.mark.parametrize(
    ("name", "options"), [("adam", {"lr": 0.05}), ("frank_wolfe", {}), ("frank_wolfe", {"scope": "group"})]
)
def test_a_search_follows_gradients_up_and_can_be_replayed(registry, tmp_path, name, options):
    objective = {"name": "skill", "eval_sets": ["sums"], "metric": "log_likelihood"}
    space = {"kind": "parameter", "method": "task_arithmetic", "layers": 2}
    optimizer = {"name": name, "options": options}
    spec = run_spec(space=space, objectives=[objective], optimizer=optimizer, budget={"candidates": 16})
    store, run = whole_run(tmp_path, registry, spec)
    events = events_of(store, run)
    scored = [e.data for e in events if e.type == "candidate.scored" and e.data["kind"] == "search"]
    means = [data["scores"]["skill"]["mean"] for data in scored]

    assert counted_once(events)
    assert all(len(data["gradients"]) == 1 and len(data["gradients"][0]) == 4 for data in scored)
    assert max(means) > means[0]
    assert sum(means[-4:]) / 4 > means[0]
    assert replay(store, run, registry).told == 16


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"space": {"kind": "parameter", "method": "ties"}}, r"space\.method"),
        ({"space": {"kind": "parameter", "methods": ["linear", "task_arithmetic"]}}, r"optimizer\.name|space\.methods"),
        ({"space": {"kind": "parameter", "method": "linear", "fixed": {"normalize": False}}}, "space.fixed.normalize"),
        ({"space": {"kind": "data_flow"}}, r"space\.kind"),
        (
            {"objectives": [{"name": "a", "eval_sets": ["sums"], "metric": "accuracy"}]},
            r"objectives\.0\.metric.*margin",
        ),
    ],
)
def test_what_gives_no_gradients_is_refused_at_submission(registry, tmp_path, changes, field):
    with pytest.raises(InvalidInputError, match=field):
        prepare(RunSpec.model_validate(run_spec(optimizer={"name": "adam"}) | changes), registry, tmp_path / "cache")


def test_the_corners_are_each_source_alone(registry, tmp_path):
    search = search_of(registry, tmp_path, {"kind": "parameter", "method": "task_arithmetic", "layers": 2})
    weights = [search.space.values(genome) for genome in search.linear.sources_alone()]

    assert [sorted(set(row)) for row in weights] == [[0.0, 1.0]] * 2
    assert [sum(column) for column in zip(*weights, strict=True)] == [1.0] * 4


def test_the_genes_of_one_group_are_one_part(registry, tmp_path):
    search = search_of(registry, tmp_path, {"kind": "parameter", "method": "task_arithmetic", "layers": 2})
    parts = {}
    for name, kind in zip(search.space.names, search.space.domain.kinds, strict=True):
        parts.setdefault(kind.part, set()).add(name)

    assert parts == {label: {f"weight/{s}/{label}" for s in ("math", "ja")} for label in ("layers 0-0", "layers 1-1")}
