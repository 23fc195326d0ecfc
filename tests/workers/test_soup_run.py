"""A greedy soup of tiny models, through the whole search."""

import pytest

from evomerge.errors import InvalidInputError
from evomerge.run.spec import RunSpec
from tests.workers.tiny_run import counted_once, events_of, make_registry, run_spec, whole_run
from workers.replay import replay
from workers.setup import prepare


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    return make_registry(tmp_path_factory.mktemp("soup-run"))


def spec_of(space, candidates=7):
    objective = {"name": "skill", "eval_sets": ["sums"], "metric": "log_likelihood"}
    return run_spec(
        space=space, objectives=[objective], optimizer={"name": "greedy_soup"}, budget={"candidates": candidates}
    )


def test_it_begins_with_the_average_and_each_source_alone_and_then_adds(registry, tmp_path):
    spec = spec_of({"kind": "parameter", "method": "linear"})
    store, run = whole_run(tmp_path, registry, spec)
    events = events_of(store, run)
    genomes = [e.data["genome"] for e in events if e.type == "candidate.proposed" and e.data["kind"] == "search"]
    space = prepare(RunSpec.model_validate(spec), registry, tmp_path / "cache").space
    weights = [space.values(tuple(genome)) for genome in genomes]

    assert weights[:3] == [(0.5, 0.5), (1.0, 0.0), (0.0, 1.0)]
    assert all(sum(row) == pytest.approx(1, abs=1e-3) for row in weights)
    assert counted_once(events)
    assert replay(store, run, registry).told == 7


@pytest.mark.parametrize(
    ("space", "field"),
    [
        ({"kind": "parameter", "method": "ties"}, r"space\.method.*greedy_soup"),
        ({"kind": "data_flow"}, r"space\.kind.*greedy_soup|optimizer\.name"),
    ],
)
def test_what_is_no_average_of_sources_is_refused_at_submission(registry, tmp_path, space, field):
    with pytest.raises(InvalidInputError, match=field):
        prepare(RunSpec.model_validate(spec_of(space)), registry, tmp_path / "cache").optimizer()
