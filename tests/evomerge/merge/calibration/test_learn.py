"""Learning coefficients: gradients, optimizer, parametrisations and Frank-Wolfe on a model built by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from evomerge.merge.calibration.items import Sample
from evomerge.merge.calibration.learn import items
from evomerge.merge.calibration.learn.adam import Adam, Steps
from evomerge.merge.calibration.learn.atoms import Atoms
from evomerge.merge.calibration.learn.descent import Problem, backward, descend
from evomerge.merge.calibration.learn.frank_wolfe import chosen, frank_wolfe, iterate, move, scores_of
from evomerge.merge.calibration.learn.gates import Chunks, Columns, Gates, Shares, products, similarity
from evomerge.merge.calibration.learn.losses import Objective, alignment, entropy, objective
from evomerge.merge.calibration.learn.mask import Mask
from evomerge.merge.calibration.learn.soft_frank_wolfe import SoftPace, soft_frank_wolfe
from evomerge.merge.calibration.learn.student import Student
from evomerge.merge.calibration.learn.two_levels import AdaptiveMask, Level, Pace, two_levels
from evomerge.merge.calibration.live import Live
from evomerge.merge.plan import TensorJob
from evomerge.merge.primitives.chunks import num_chunks
from evomerge.models.architecture import Part

SAMPLES = {
    "a": [Sample((1, 2, 3, 4, 5), 1), Sample((6, 7, 8, 9), 2), Sample((10, 11, 12), 1)],
    "b": [Sample((20, 21, 22, 24), 3), Sample((30, 31, 32, 33), 1)],
}
Q = "model.layers.0.self_attn.q_proj.weight"


def job(name: str, start: float = 0.3) -> TensorJob:
    part = Part("embedding" if "embed" in name else "head" if "head" in name else "mlp.up", 0)
    per_source = {s: {"weight": start} for s in SAMPLES}
    return TensorJob(name, torch.float32, False, False, {}, per_source, tuple(SAMPLES), part, 2)


@pytest.fixture(scope="module")
def world(herd: Any) -> tuple[dict[str, Atoms], Student]:
    """Two sources of a tiny Llama, in double precision."""
    base, own = herd.llama("base").double(), {s: herd.llama(s).double() for s in SAMPLES}
    for model in (base, *own.values()):
        model.requires_grad_(False)
    state = dict(base.named_parameters())
    weights = {s: dict(model.named_parameters()) for s, model in own.items()}
    atoms = {n: Atoms(job(n), p.data, {s: weights[s][n].data - p.data for s in own}, False) for n, p in state.items()}
    return atoms, Student(Live(base, state, {}), lambda source: weights[source])


def problem(world: tuple[dict[str, Atoms], Student], asked: Objective) -> Problem:
    return Problem(world[1], asked, SAMPLES, list(world[0]))


def start(tensor: str, source: str) -> float:
    return 0.3


def third(tensor: str, source: str) -> float:
    return 0.4


GATES: dict[str, Callable[[dict[str, Atoms]], Gates]] = {
    "shares": lambda atoms: Shares(atoms, start, one_a_source=False),
    "one share a source": lambda atoms: Shares(atoms, start, one_a_source=True),
    "chunks": lambda atoms: Chunks(atoms, start, lambda name: 3, 2.0),
    "columns": lambda atoms: Columns(
        atoms, third, whole=True, learns=lambda a: a.base.dim() == 2, shape=torch.tanh, penalties=similarity
    ),
    "gates": lambda atoms: Columns(
        atoms, third, whole=False, learns=lambda a: True, shape=lambda c: c, penalties=products
    ),
    "mask": lambda atoms: Mask(atoms, start, one_for="column", softness=0.5, seed=3),
}


def adaptive(atoms: dict[str, Atoms], level: Level, one_a_source: bool = False) -> AdaptiveMask:
    made = AdaptiveMask(atoms, start, one_for="column", softness=0.5, seed=3, one_a_source=one_a_source)
    made.enter(level)
    return made


GATES["adaptive mask"] = lambda atoms: adaptive(atoms, "mask")
GATES["masked shares"] = lambda atoms: adaptive(atoms, "coefficients")
GATES["settled shares"] = lambda atoms: adaptive(atoms, "settled", one_a_source=True)
OBJECTIVES = {
    "entropy": objective("entropy", 1.0),
    "kl": objective("kl", 2.0),
    "squares": objective("squares", 1.0),
    "likelihood": objective("likelihood", 1.0),
    "alignment": Objective(alignment(1.5, 0.7), expert=True, hidden=True),
}


@pytest.mark.parametrize(
    ("gates", "asked"),
    [("shares", "entropy"), ("shares", "kl"), ("one share a source", "likelihood"), ("chunks", "alignment"),
     ("columns", "kl"), ("gates", "squares"), ("mask", "entropy"),
     ("adaptive mask", "kl"), ("masked shares", "entropy"), ("settled shares", "likelihood")],
)  # fmt: skip
def test_gradients_are_finite_differences(world: Any, gates: str, asked: str) -> None:
    """Along a random direction of all raw parameters at once."""

    def total(shift: float) -> tuple[float, Gates]:
        made = GATES[gates](world[0])
        generator = torch.Generator().manual_seed(1)
        for p in made.parameters:
            p.data += spread * torch.randn(p.shape, generator=generator)
            p.data = p.data.double()
            p.data += shift * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        return backward(problem(world, OBJECTIVES[asked]), made, SAMPLES), made

    spread = 1.0 if gates == "chunks" else 0.05  # its penalty has a kink at the start
    step = 2e-3  # transformers computes norms and positions in float32, whatever it is given
    _, made = total(0.0)
    generator = torch.Generator().manual_seed(1)
    slope = 0.0
    for p in made.parameters:
        torch.randn(p.shape, generator=generator)
        direction = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        slope += float((p.grad.double() * direction).sum()) if p.grad is not None else 0.0

    assert slope == pytest.approx((total(step)[0] - total(-step)[0]) / (2 * step), rel=3e-3, abs=1e-5)
    assert abs(slope) > 1e-4


def test_the_loss_is_that_of_the_merged_model_run_as_it_is(world: Any, herd: Any) -> None:
    """θ0 + .3 Σ δ under plain transformers."""
    atoms, _ = world
    model = herd.llama("base").double()
    for name, parameter in model.named_parameters():
        parameter.data = atoms[name].base + 0.3 * sum(atoms[name].vectors.values())
    expected = 0.0
    for samples in SAMPLES.values():
        for sample in samples:
            with torch.no_grad():
                logits = model(torch.tensor([sample.ids])).logits[0, sample.first - 1 : -1]
            p = logits.softmax(-1)
            expected += float(-(p * p.log()).sum(-1).mean()) / len(samples)

    found = backward(problem(world, OBJECTIVES["entropy"]), GATES["shares"](atoms), SAMPLES)
    assert found == pytest.approx(expected, rel=1e-6)


def test_a_tied_head_moves_with_its_embedding(herd: Any) -> None:
    """GPT-2's head is its embedding: one tensor, two places."""
    model = herd_gpt2(herd, "gpt2")
    student = Student(Live(model, dict(model.named_parameters()), {}), lambda source: {})
    sample = Sample((1, 2, 3, 4), 1)
    name = "transformer.wte.weight"
    moved = (model.get_parameter(name) + 0.3 * torch.randn(64, 16, generator=torch.Generator().manual_seed(2))).detach()
    found = student.output({name: moved}, sample).logits
    model.get_parameter(name).data = moved

    assert model.lm_head.weight is model.get_parameter(name)
    torch.testing.assert_close(found, model(torch.tensor([sample.ids])).logits[0, :-1])


def herd_gpt2(herd: Any, name: str) -> GPT2LMHeadModel:
    model: GPT2LMHeadModel = GPT2LMHeadModel.from_pretrained(herd.root / name, dtype=torch.float32)
    model.train(False)
    return model.requires_grad_(False)


@pytest.mark.parametrize("gates", GATES)
def test_learning_lowers_the_loss(world: Any, gates: str) -> None:
    asked = problem(world, OBJECTIVES["kl"])
    made = GATES[gates](world[0])
    before = backward(asked, made, SAMPLES)
    for p in made.parameters:
        p.grad = None
    descend(asked, made, Adam(0.05), steps=6, batch=3, seed=0, done=lambda: None)

    made.at(0)  # the same draw judges before and after
    assert backward(asked, made, SAMPLES) < before


@pytest.mark.parametrize(("decay", "reference"), [(0.0, torch.optim.Adam), (0.01, torch.optim.AdamW)])
def test_adam_is_torchs(decay: float, reference: Any) -> None:
    torch.manual_seed(0)
    ours, its = torch.randn(7), torch.nn.Parameter(torch.empty(7))
    its.data = ours.clone()
    steps = Steps(Adam(0.1, decay=decay), [ours])
    optimizer = reference([its], lr=0.1, weight_decay=decay)
    for _ in range(5):
        ours.grad = torch.randn(7)
        its.grad = ours.grad.clone()
        steps.step()
        optimizer.step()

    torch.testing.assert_close(ours, its.data)


def test_gradients_are_clipped_together() -> None:
    a, b = torch.zeros(2), torch.zeros(1)
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([4.0])
    steps = Steps(Adam(1.0, clip=1.0), [a, b])
    steps.step()

    torch.testing.assert_close(steps._first[0], torch.tensor([0.06, 0.0]))
    torch.testing.assert_close(steps._first[1], torch.tensor([0.08]))


def test_coefficients_stay_in_the_unit_interval(world: Any) -> None:
    made = Shares(world[0], start, one_a_source=False)
    for number, p in enumerate(made.parameters):
        p.data += 2.0 if number % 2 else -2.0

    assert {float(c) for _, _, c in made.learned()} == {0.0, 1.0}


def test_a_share_a_source_is_the_same_everywhere(world: Any) -> None:
    made = GATES["one share a source"](world[0])
    descend(problem(world, OBJECTIVES["entropy"]), made, Adam(0.05), steps=3, batch=2, seed=0, done=lambda: None)
    found: dict[str, set[float]] = {}
    for source, _, c in made.learned():
        found.setdefault(source, set()).add(float(c))

    assert len(made.parameters) == 2
    assert all(len(values) == 1 and values != {0.3} for values in found.values())


def test_masks_have_mean_one_and_are_no_draws(world: Any) -> None:
    """Whatever was drawn while they were learned, what is read is σ(x) over its mean."""
    made = Mask(world[0], start, one_for="column", softness=0.5, seed=3)
    for p in made.parameters:
        p.data.copy_(torch.linspace(-2, 2, p.numel()).view(p.shape))
    first, second = dict_of(made), dict_of(made)
    made.at(1)

    assert all(torch.equal(first[k], second[k]) and torch.equal(first[k], dict_of(made)[k]) for k in first)
    x = np.linspace(-2, 2, 16)
    soft = 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(first["", Q].numpy().reshape(-1), soft / soft.mean(), rtol=1e-5)


def test_a_mask_is_drawn_anew_for_each_step_but_not_within(world: Any) -> None:
    made = Mask(world[0], start, one_for="row", softness=0.5, seed=3)
    first, again = made.weights(Q), made.weights(Q)
    made.at(1)

    assert torch.equal(first, again)
    assert not torch.equal(first, made.weights(Q))
    assert made._raw[Q].shape == (16, 1)


def dict_of(made: Gates) -> dict[tuple[str, str], Tensor]:
    return {(s, n): c for s, n, c in made.learned()}


def test_every_epoch_sees_every_item_once() -> None:
    own = SAMPLES["a"]
    seen = [items.batch(own, step, 2, seed=5) for step in range(3)]  # two epochs of three

    flat = [sample for found in seen for sample in found]
    assert sorted(s.ids for s in flat[:3]) == sorted(s.ids for s in flat[3:]) == sorted(s.ids for s in own)
    assert [items.batch(own, step, 2, seed=5) for step in range(3)] == seen
    assert len(items.batch(own, 0, 16, seed=5)) == 3


def test_chunks_are_those_of_torch_chunk() -> None:
    for size in (1, 7, 10, 64):
        for wanted in (1, 3, 6, 20):
            assert num_chunks(size, wanted) == len(torch.chunk(torch.zeros(size), wanted))


def test_cosine_and_inner_product_may_pick_different_models() -> None:
    """The published score is not the oracle of Frank-Wolfe."""
    g = torch.tensor([1.0, 1.0])
    vectors = {"a": torch.tensor([-1.0, -1.0]), "b": torch.tensor([-9.0, 3.0])}
    atoms = Atoms(job("w"), torch.zeros(2), vectors, False)
    cosine, inner = scores_of(atoms, g, "cosine"), scores_of(atoms, g, "inner")

    assert cosine == {"a": pytest.approx(-1.0), "b": pytest.approx(-6 / np.sqrt(2 * 90))}
    assert inner == {"a": -2.0, "b": -6.0}
    assert chosen({"w": cosine}, False) == {"w": "a"}
    assert chosen({"w": inner}, False) == {"w": "b"}
    assert chosen({"v": {"a": 1.0, "b": 0.0}, "w": {"a": 0.0, "b": 2.0}}, True) == {"v": "a", "w": "a"}


@pytest.mark.proves("fw_merging", by="property")
@pytest.mark.parametrize("length", [0.1, 0.5, 1.0])
def test_frank_wolfe_stays_in_the_hull(world: Any, length: float) -> None:
    """Weights of the sources and of the start are ≥ 0 and add up to 1; a first step of 1 forgets the start."""
    found = frank_wolfe(
        problem(world, OBJECTIVES["likelihood"]), world[0], start, steps=4, length=length, batch=2, score="inner",
        one_choice=False, seed=0, done=lambda: None,
    )  # fmt: skip
    sums: dict[str, float] = {}
    for _, name, weight in found:
        assert float(weight) >= 0
        sums[name] = sums.get(name, 0.0) + float(weight)

    left = np.prod([1 - length * 2 / (t + 2) for t in range(4)])
    assert all(total == pytest.approx(1 - left, abs=1e-6) for total in sums.values())


@pytest.mark.proves("fw_merging", by="property")
def test_a_step_is_towards_the_model_of_the_least_score(world: Any) -> None:
    """W ← W + γ (s − W), by hand."""
    atoms = world[0][Q]
    weights = {Q: {"a": 0.25, "b": 0.25}}
    before = iterate(atoms, weights[Q], start)
    move(weights, {Q: "b"}, 0.4)

    expected = before + 0.4 * (atoms.base + atoms.vectors["b"] - before)
    torch.testing.assert_close(iterate(atoms, weights[Q], start), expected)


def test_frank_wolfe_lowers_a_smooth_loss(world: Any) -> None:
    asked = problem(world, OBJECTIVES["likelihood"])

    def loss(steps: int) -> float:
        found: dict[str, dict[str, float]] = {}
        for source, name, weight in frank_wolfe(
            asked, world[0], start, steps=steps, length=0.5, batch=3, score="inner", one_choice=False, seed=0,
            done=lambda: None,
        ):  # fmt: skip
            found.setdefault(name, {})[source] = float(weight)
        here = {name: iterate(world[0][name], own, start) for name, own in found.items()}
        return asked.gradients(here, SAMPLES)[0]

    assert loss(8) < loss(0)


def soft(world: Any, **changes: Any) -> dict[str, dict[str, float]]:
    pace = SoftPace(
        steps=2, batch=2, score="inner", one_choice=True, picks=2, first=0.3, later=1e-8, inner_steps=3,
        inner_rate=0.02, inner_batch=2,
    )  # fmt: skip
    asked = problem(world, OBJECTIVES["likelihood"])
    pace = dataclasses.replace(pace, **changes)
    found: dict[str, dict[str, float]] = {}
    for source, name, weight in soft_frank_wolfe(asked, asked, world[0], pace, 0, lambda: None):
        found.setdefault(name, {})[source] = float(weight)
    return found


@pytest.mark.proves("fw_soft", by="property")
def test_soft_steps_pick_the_models_that_the_gradient_prefers(world: Any) -> None:
    """One pick of a first step, nothing learned: the first start's share of the model that Frank-Wolfe takes."""
    found = soft(world, steps=1, picks=1, inner_steps=0)
    asked = problem(world, OBJECTIVES["likelihood"])
    batch = {"a": items.batch(SAMPLES["a"], 0, 2, 0)}
    _, gradients = asked.gradients({name: own.base for name, own in world[0].items()}, batch)
    scores = {name: scores_of(world[0][name], g, "inner") for name, g in gradients.items()}
    picked = next(iter(set(chosen(scores, True).values())))

    assert all(own == {s: pytest.approx(0.3 if s == picked else 0.0) for s in SAMPLES} for own in found.values())


@pytest.mark.proves("fw_soft", by="property")
def test_soft_steps_lower_a_smooth_loss_and_each_model_is_picked_once(world: Any) -> None:
    asked = problem(world, OBJECTIVES["likelihood"])

    def loss(found: dict[str, dict[str, float]]) -> float:
        here = {
            name: own.base + sum(found.get(name, {}).get(s, 0.0) * v for s, v in own.vectors.items())
            for name, own in world[0].items()
        }
        return asked.gradients(here, SAMPLES)[0]

    both = soft(world, inner_steps=0, steps=1)

    assert all(own == {s: pytest.approx(0.3) for s in SAMPLES} for own in both.values())
    assert loss(soft(world, steps=3, inner_steps=5)) < loss({})


@pytest.mark.proves("concrete_adamerging", by="property")
def test_coefficients_start_anew_for_every_step_of_the_mask(world: Any) -> None:
    made = adaptive(world[0], "mask")
    pace = Pace(steps=3, rate=0.1, inner_rate=0.05, last_steps=0, last_rate=0.0, batch=2)
    found = {(s, n): c for s, n, c in two_levels(problem(world, OBJECTIVES["kl"]), made, pace, 0, lambda: None)}

    assert all(float(c) == pytest.approx(0.3) for (s, _), c in found.items() if s)
    assert float(found["", Q].std()) > 1e-3
    assert float(found["", Q].mean()) == pytest.approx(1.0, abs=1e-6)


def test_entropy_of_even_logits_is_the_logarithm_of_their_number() -> None:
    from evomerge.merge.calibration.learn.losses import Output

    assert float(entropy(Output(torch.zeros(3, 8)), None, torch.zeros(3))) == pytest.approx(np.log(8), rel=1e-6)
