"""The committed adapters are small, complete and say how they were trained."""

import json
from pathlib import Path

import pytest
from safetensors import safe_open

SKILLS = ("es", "geo", "ja", "math")
ADAPTERS = Path(__file__).parents[2] / "experiments" / "zoo" / "adapters"
MEGABYTE = 1_000_000
LINEARS = {
    "self_attn.q_proj": (576, 576),
    "self_attn.k_proj": (576, 192),
    "self_attn.v_proj": (576, 192),
    "self_attn.o_proj": (576, 576),
    "mlp.gate_proj": (576, 1536),
    "mlp.up_proj": (576, 1536),
    "mlp.down_proj": (1536, 576),
}


def expected_shapes(rank: int) -> dict[str, list[int]]:
    """Return the shape of each tensor by its name in PEFT's format."""
    shapes = {}
    for layer in range(12, 30):
        for linear, (columns, rows) in LINEARS.items():
            prefix = f"base_model.model.model.layers.{layer}.{linear}"
            shapes[f"{prefix}.lora_A.weight"] = [rank, columns]
            shapes[f"{prefix}.lora_B.weight"] = [rows, rank]
    return shapes


def test_all_adapters_together_stay_below_20_megabytes() -> None:
    sizes = [path.stat().st_size for path in ADAPTERS.rglob("*") if path.is_file()]

    assert 15 * MEGABYTE < sum(sizes) < 20 * MEGABYTE


@pytest.mark.parametrize("skill", SKILLS)
def test_an_adapter_holds_the_expected_tensors(skill: str) -> None:
    with safe_open(ADAPTERS / skill / "adapter_model.safetensors", "numpy") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict

    assert {name: each.get_shape() for name, each in slices.items()} == expected_shapes(12)
    assert {each.get_dtype() for each in slices.values()} == {"BF16"}


@pytest.mark.parametrize("skill", SKILLS)
def test_an_adapter_names_its_base_and_no_machine(skill: str) -> None:
    text = (ADAPTERS / skill / "adapter_config.json").read_text()
    config = json.loads(text)

    assert config["base_model_name_or_path"] == "smollm2-135m-instruct"
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (12, 24, "LORA")
    assert config["target_modules"] == sorted(each.split(".")[1] for each in LINEARS)
    assert "/" not in text


@pytest.mark.parametrize("skill", SKILLS)
def test_a_record_says_how_the_adapter_was_trained(skill: str) -> None:
    record = json.loads((ADAPTERS / skill / "training.json").read_text())

    assert record["skill"] == skill
    assert {"seed", "steps", "batch", "tokens", "cpu_s", "final_loss", "versions"} <= set(record)


def test_nothing_else_lies_among_the_adapters() -> None:
    files = {path.relative_to(ADAPTERS) for path in ADAPTERS.rglob("*") if path.is_file()}
    names = ("README.md", "adapter_config.json", "adapter_model.safetensors", "training.json")

    assert files == {Path(skill) / name for skill in SKILLS for name in names}
