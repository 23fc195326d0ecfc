"""Rows of routers and bred experts, by themselves."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer

from evomerge.errors import InvalidInputError
from evomerge.merge.structure.expansion import Deltas, expand, with_children
from evomerge.merge.structure.gates import Prompts, cheap_rows, hidden_rows, warn_alike
from evomerge.models.checkpoint import open_checkpoint
from evomerge.models.source import architecture_of_checkpoint

GOLDEN = Path(__file__).parents[3] / "golden" / "mergekit" / "moe"
NUMBERS = json.loads((GOLDEN / "gates.json").read_text())
PROMPTS = {name: Prompts(*(tuple(said.get(key, ())) for key in ("positive", "negative")))
           for name, said in NUMBERS["prompts"].items()}  # fmt: skip


@pytest.mark.proves("moe_build", by="golden")
@pytest.mark.parametrize(("mode", "tokens"), [("hidden", "last"), ("hidden_avg", "mean")])
def test_rows_from_hidden_states_are_mergekits(mode: str, tokens: str) -> None:
    with open_checkpoint(GOLDEN) as checkpoint:
        architecture = architecture_of_checkpoint(checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN)
    rows = hidden_rows(GOLDEN, architecture, tokenizer, PROMPTS, states="layer", tokens=tokens)

    torch.testing.assert_close(rows, torch.tensor(NUMBERS["rows"][mode]), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(rows, hidden_rows(GOLDEN, architecture, tokenizer, PROMPTS, tokens=tokens), atol=0.01)


@pytest.mark.proves("moe_build", by="golden")
def test_rows_from_embeddings_are_mergekits() -> None:
    embedding = load_file(GOLDEN / "model.safetensors")["model.embed_tokens.weight"]
    rows = cheap_rows(embedding, AutoTokenizer.from_pretrained(GOLDEN), PROMPTS, 2)

    torch.testing.assert_close(rows, torch.tensor(NUMBERS["rows"]["cheap_embed"]), rtol=1e-5, atol=1e-6)


def test_experts_that_a_router_cannot_tell_apart_are_named(caplog: pytest.LogCaptureFixture) -> None:
    rows = torch.tensor([[[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]]])
    with caplog.at_level(logging.WARNING):
        warn_alike(rows, ("a", "b", "c"))

    assert [record.args for record in caplog.records] == [("a", "b")]


def deltas(tensor: str) -> dict[str, Tensor]:
    """`a` and `b` point the same way, `c` the other."""
    shape, start = (40, 50), {"up": 0, "down": 1}[tensor]
    generator = torch.Generator().manual_seed(start)
    common, noise = (torch.randn(shape, generator=generator) for _ in range(2))
    return {"a": common, "b": common + 0.2 * noise, "c": noise - common}


def read() -> Iterator[tuple[str, Deltas]]:
    yield from ((tensor, deltas(tensor)) for tensor in ("up", "down"))


@pytest.mark.proves("moe_build", by="property")
def test_the_least_similar_experts_have_the_child() -> None:
    flat = {name: torch.cat([deltas(tensor)[name].flatten() for tensor in ("up", "down")]) for name in "abc"}
    cosines = {pair: float(torch.cosine_similarity(flat[pair[0]], flat[pair[1]], dim=0)) for pair in ("ab", "ac", "bc")}
    (child,) = expand("abc", 1, read, 0.5, seed=3)

    assert "".join(child.parents) == min(cosines, key=lambda pair: cosines[pair])
    assert sum(child.shares) == pytest.approx(1.0)
    assert expand("abc", 1, read, 0.5, seed=3) == (child,)
    assert expand("abc", 1, read, 0.5, seed=4)[0].shares != child.shares


@pytest.mark.proves("moe_build", by="property")
def test_at_density_1_a_child_is_the_mean_of_its_parents_by_shares() -> None:
    children = expand("abc", 3, read, 1.0, seed=3)
    found = with_children(deltas("up"), children, "up", 1.0, 3)

    for child in children:
        expected = sum(share * found[parent] for parent, share in zip(child.parents, child.shares, strict=True))
        torch.testing.assert_close(found[child.name], expected)


@pytest.mark.proves("moe_build", by="property")
def test_dropping_keeps_the_expected_child() -> None:
    children = expand("abc", 1, read, 0.3, seed=3)
    parents, shares = children[0].parents, children[0].shares
    whole = sum(share * deltas("up")[parent] for parent, share in zip(parents, shares, strict=True))
    assert isinstance(whole, Tensor)
    drawn = [with_children(deltas("up"), children, "up", 0.3, seed)["expand-1"] for seed in range(400)]
    spread = torch.stack(drawn).std(0).clamp(min=1e-3) / 20

    assert float(((torch.stack(drawn).mean(0) - whole).abs() / spread).max()) < 5.5
    zero = (drawn[0] == 0).float().mean()
    assert float(zero) == pytest.approx(0.49, abs=0.05)


def test_experts_that_are_the_base_have_the_base_as_their_child() -> None:
    same = {name: torch.zeros(3, 4) for name in "ab"}
    children = expand("ab", 2, lambda: [("up", same)], 0.5, seed=0)

    assert all(not tensor.any() for tensor in with_children(same, children, "up", 0.5, 0).values())
    with pytest.raises(InvalidInputError, match="expand"):
        expand("a", 1, lambda: [("up", same)], 0.5, seed=0)
