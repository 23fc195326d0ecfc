"""The live model against files: the same bytes, whatever was materialized before."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from evomerge.errors import InvalidInputError, NonFiniteError
from evomerge.merge.execute import merge_to_directory
from evomerge.merge.method import Parameter
from evomerge.merge.methods import METHODS
from evomerge.merge.resident import Resident
from evomerge.recipe.schema import Merge, ModelRef, Recipe, Rule

Read = Callable[[Path], dict[str, Tensor]]


@pytest.fixture(scope="module")
def resident(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> Resident:
    return Resident(zoo.recipe("linear"), cache=tmp_path_factory.mktemp("cache"))


def assert_live(resident: Resident, expected: dict[str, Tensor]) -> None:
    live = dict(resident.model.named_parameters())
    assert set(live) == set(expected)
    different = [n for n in live if not torch.equal(live[n].view(torch.int16), expected[n].view(torch.int16))]
    assert not different


NUMBERS = st.floats(-1.5, 1.5, width=16)
ROLES = st.sampled_from(["attention", "attention.q", "mlp", "mlp.down", "norm", "embedding"])


def searched(parameter: Parameter) -> st.SearchStrategy[float]:
    """A value from the range that a search would use."""
    return st.floats(parameter.low, parameter.high)


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    """What `Zoo.recipe` takes: any method, any of the sources, rules over layers and roles."""
    method = METHODS[draw(st.sampled_from(sorted(name for name, m in METHODS.items() if not m.requires)))]
    least, most = method.num_sources
    names = draw(
        st.lists(
            st.sampled_from(["itself", "code", "math", "ja", "es"]), min_size=least, max_size=most or 4, unique=True
        )
    )
    numbers = {"weight": NUMBERS, "density": st.floats(0, 1), "t": st.floats(0, 1), "lambda": NUMBERS}
    if method.name == "nuslerp":
        numbers["weight"] = st.floats(0.1, 1.0)
    shared: dict[str, Any] = {}
    for p in method.parameters:
        if p.choices:
            shared[p.name] = draw(st.sampled_from(p.choices))
        elif isinstance(p.default, bool):
            shared[p.name] = draw(st.booleans())
        elif not p.per_source:
            shared[p.name] = draw(numbers.get(p.name, searched(p)))
    own = [p for p in method.parameters if p.per_source and not p.choices and not isinstance(p.default, bool)]
    sources = {name: {p.name: draw(numbers.get(p.name, searched(p))) for p in own} for name in names}
    rules = []
    if any(p.name == "weight" for p in own) and draw(st.booleans()):
        first = draw(st.integers(0, 2))
        rule = {"layers": (first, 2), "roles": (draw(ROLES),), "source": names[0]}
        rules.append(Rule(**rule, parameters={"weight": (0.4, draw(numbers["weight"]))}))
    return {"method": method.name, "names": names, "parameters": shared, "sources": sources, "rules": tuple(rules)}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(asked=recipes())
def test_a_live_model_and_a_directory_hold_the_same_bytes(
    asked: dict[str, Any], zoo: Any, resident: Resident, tmp_path: Path, tensors: Read
) -> None:
    recipe = zoo.recipe(asked.pop("method"), *asked.pop("names"), **asked)
    out = tmp_path / "out"
    try:
        merge_to_directory(recipe, out, root=tmp_path, check_hashes=False)
    except InvalidInputError:  # weights that sum to 0
        with pytest.raises(InvalidInputError):
            resident.materialize(recipe)
        return
    resident.materialize(recipe)

    assert_live(resident, tensors(out))
    shutil.rmtree(out)


SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
GPT2_SIZES: dict[str, Any] = {
    "vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
NEOX_SIZES: dict[str, Any] = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim")}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("family", "sizes"), [("gemma3_text", SIZES), ("phi3", SIZES), ("gpt2", GPT2_SIZES), ("gpt_neox", NEOX_SIZES)]
)
def test_other_families_hold_the_same_bytes_too(family: str, sizes: dict[str, Any], tied: bool, tmp_path: Path) -> None:
    for seed, name in enumerate(("base", "x")):
        torch.manual_seed(seed)
        config = AutoConfig.for_model(family, tie_word_embeddings=tied, **sizes)
        AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(tmp_path / name)
    recipe = Recipe(
        base=ModelRef(location=str(tmp_path / "base")),
        sources={"x": ModelRef(location=str(tmp_path / "x"))},
        merge=Merge(method="task_arithmetic", parameters={"weight": 0.5}),
    )
    resident = Resident(recipe)
    resident.materialize(recipe)
    built = AutoModelForCausalLM.from_pretrained(
        merge_to_directory(recipe, tmp_path / "out", root=tmp_path), dtype="auto"
    )

    assert_live(resident, dict(built.named_parameters()))


def test_materializing_leaves_no_trace_of_an_earlier_recipe(zoo: Any, resident: Resident, tensors: Read) -> None:
    resident.materialize(zoo.recipe("task_arithmetic"))
    resident.materialize(zoo.recipe("task_arithmetic", "ja"))
    resident.materialize(zoo.recipe("passthrough", "itself"))

    assert_live(resident, tensors(zoo.base))


def test_a_checkpoint_passed_through_is_that_checkpoint(zoo: Any, resident: Resident, tensors: Read) -> None:
    resident.materialize(zoo.recipe("passthrough", "code"))

    assert_live(resident, tensors(zoo.sources["code"]))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # PEFT's own call
def test_an_adapter_passed_through_is_what_peft_makes_of_it(zoo: Any, resident: Resident) -> None:
    peft = pytest.importorskip("peft")

    model = AutoModelForCausalLM.from_pretrained(zoo.base, dtype=torch.float32)
    expected = peft.PeftModel.from_pretrained(model, zoo.sources["es"]).merge_and_unload()
    resident.materialize(zoo.recipe("passthrough", "es"))

    live = dict(resident.model.named_parameters())
    for name, parameter in expected.named_parameters():
        assert torch.allclose(live[name].float(), parameter, rtol=2**-8, atol=1e-6), name


def test_sources_match_by_hash_under_any_name_and_place(zoo: Any, tmp_path: Path, tensors: Read) -> None:
    def hashed(name: str, place: str) -> Recipe:
        refs = {name: ModelRef(location=place, sha256="a" * 64)}
        base = ModelRef(location=str(zoo.base), sha256="b" * 64)
        return Recipe(base=base, sources=refs, merge=Merge(method="passthrough"))

    resident = Resident(hashed("code", str(zoo.sources["code"])))
    resident.materialize(hashed("other", "/elsewhere"))

    assert_live(resident, tensors(zoo.sources["code"]))


def test_the_head_stays_tied_to_the_embedding(zoo: Any, resident: Resident) -> None:
    resident.materialize(zoo.recipe("linear", "code", "math"))

    model = resident.model
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert torch.isfinite(model(torch.tensor([[1, 2, 3]])).logits).all()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"dtype": "float32"}, "dtype"),
        ({"base": {"location": "/other"}}, "base"),
        ({"sources": {"x": {"location": "/other"}}}, "sources.x"),
    ],
)
def test_what_is_not_resident_is_refused(zoo: Any, resident: Resident, change: dict[str, Any], field: str) -> None:
    recipe = Recipe.model_validate({**zoo.recipe("linear", "code").model_dump(by_alias=True), **change})

    with pytest.raises(InvalidInputError) as error:
        resident.materialize(recipe)
    assert error.value.field == field


def test_a_candidate_that_overflows_is_non_finite_and_the_next_one_is_whole(
    zoo: Any, resident: Resident, tensors: Read
) -> None:
    with pytest.raises(NonFiniteError, match="merged model"):
        resident.materialize(zoo.recipe("task_arithmetic", parameters={"weight": 3e38, "lambda": 10.0}))
    resident.materialize(zoo.recipe("passthrough", "itself"))

    assert_live(resident, tensors(zoo.base))


def test_a_source_with_nan_is_refused_when_it_becomes_resident(zoo: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(zoo.sources["code"], bad)
    stored = load_file(bad / "model.safetensors")
    stored["model.norm.weight"][3] = float("nan")
    save_file(stored, bad / "model.safetensors", {"format": "pt"})
    recipe = Recipe(
        base=ModelRef(location=str(zoo.base)),
        sources={"bad": ModelRef(location=str(bad))},
        merge=Merge(method="linear"),
    )

    with pytest.raises(NonFiniteError, match=r"'bad'.*model\.norm\.weight"):
        Resident(recipe)
