"""Hypothesis strategies for recipes and what they are made of."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from evomerge.recipe.schema import RESERVED, Merge, ModelRef, ParameterValue, Recipe, Rule

NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True).filter(lambda name: name not in RESERVED)
# Any text that UTF-8 can carry, and the text that YAML likes to take for something else.
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.sampled_from(["no", "null", "~", "1e5", "08", "0o17", "1_000", "12:30", "2024-01-01", "=", "<<", "- a", "# b"]),
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
HASHES = st.none() | st.from_regex(r"[0-9a-f]{64}", fullmatch=True) | st.just("1234e567" * 8)


def parameter_values() -> st.SearchStrategy[ParameterValue]:
    """A flag, a number, text, or knots."""
    return st.one_of(st.booleans(), NUMBERS, TEXTS, st.lists(NUMBERS, min_size=1, max_size=4).map(tuple))


def parameters() -> st.SearchStrategy[dict[str, ParameterValue]]:
    """Parameters by name, whatever the method."""
    return st.dictionaries(
        st.sampled_from(["weight", "density", "lambda", "mode"]) | TEXTS, parameter_values(), max_size=3
    )


def model_refs() -> st.SearchStrategy[ModelRef]:
    """Places, with and without content hash."""
    here = st.builds(ModelRef, location=TEXTS, sha256=HASHES)
    return here | st.builds(ModelRef, location=TEXTS.map("hub:{}".format), revision=TEXTS, sha256=HASHES)


def json_values() -> st.SearchStrategy[Any]:
    """What a JSON document can hold."""
    scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | NUMBERS | TEXTS
    return st.recursive(
        scalars, lambda v: st.lists(v, max_size=3) | st.dictionaries(TEXTS, v, max_size=3), max_leaves=6
    )


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Recipes of the schema's every shape; the method and the models need not exist."""
    sources = draw(st.dictionaries(NAMES, model_refs(), min_size=1, max_size=3))
    names = st.sampled_from(sorted(sources))
    layers = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda pair: (min(pair), max(pair)))
    rules = st.builds(
        Rule,
        layers=st.none() | layers,
        roles=st.lists(st.sampled_from(["attention", "mlp.down", "norm"]), max_size=2).map(tuple),
        source=st.none() | names,
        parameters=parameters(),
    )
    merge = Merge(
        method=draw(TEXTS),
        parameters=draw(parameters()),
        sources=draw(st.dictionaries(names, parameters(), max_size=2)),
        rules=tuple(draw(st.lists(rules, max_size=3))),
    )
    return Recipe(
        base=draw(model_refs()),
        sources=sources,
        merge=merge,
        dtype=draw(st.sampled_from(["float32", "bfloat16", "float16"])),
        seed=draw(st.integers(0, 2**63 - 1)),
        shard_bytes=draw(st.integers(1, 10**12)),
        provenance=draw(st.dictionaries(TEXTS, json_values(), max_size=3)),
    )
