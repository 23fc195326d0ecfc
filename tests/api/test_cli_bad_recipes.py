"""A recipe that is wrong ends in exit status 2 and one line that names the field; nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

ITEMS = {"items": {"location": "items.jsonl"}}


def _merge(**parts: Any) -> dict[str, Any]:
    return {"merge": {"method": "ties", **parts}}


def _source(place: str) -> dict[str, Any]:
    return {"sources": {"math": {"location": place}}}


def _fisher(**calibration: Any) -> dict[str, Any]:
    return {"merge": {"method": "fisher"}, "calibration": calibration}


def _items(name: str) -> dict[str, Any]:
    return {"items": {"location": f"{name}.jsonl"}}


def _align(**options: Any) -> dict[str, Any]:
    return {"align": {"math": options}}


NAN = float("nan")
RECIPES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown field": ({"foo": 1}, " foo: got 1; expected one of the fields ['schema',"),
    "another schema": ({"schema": "evomerge.recipe/9"}, " schema: got 'evomerge.recipe/9'"),
    "no base": ({"base": None}, " base: got None"),
    "base is text": ({"base": "base"}, " base: got 'base'; expected a mapping with the fields ['location',"),
    "no such base": ({"base": {"location": "nope"}}, "base: "),
    "path with brackets": ({"base": {"location": "a[/b]"}}, "a[/b]: no such directory"),
    "revision of a directory": ({"base": {"location": "base", "revision": "v1"}}, " base.revision: got 'v1'"),
    "hash that is none": ({"base": {"location": "base", "sha256": "zz"}}, " base.sha256: got 'zz'"),
    "another hash": ({"base": {"location": "base", "sha256": "0" * 64}}, "base: "),
    "base is an adapter": ({"base": {"location": "lora"}}, "/lora: expected model.safetensors"),
    "no sources": ({"sources": {}}, " sources: got {}; expected"),
    "sources as a list": ({"sources": []}, " sources: got []; expected a mapping"),
    "name with a blank": ({"sources": {"a b": {"location": "math"}}}, " sources.a b: got 'a b'"),
    "name `base`": ({"sources": {"base": {"location": "math"}}}, " sources.base: got 'base'; expected another name"),
    "name `union`": ({"sources": {"union": {"location": "math"}}}, " sources.union: got 'union'"),
    "name `same`": ({"sources": {"same": {"location": "math"}}}, " sources.same: got 'same'"),
    "no such source": (_source("nope"), "sources.math: "),
    "empty directory": (_source("empty"), "sources.math: "),
    "text file": (_source("text.txt"), "sources.math.location: got 'text.txt'"),
    "json that is no recipe": (_source("base/config.json"), "config.json:"),
    "no config": (_source("configless"), "config.json: missing"),
    "broken config": (_source("misconfigured"), "config.json: not valid JSON"),
    "truncated weights": (_source("truncated"), "not a whole safetensors file"),
    "no weights": (_source("weightless"), "expected model.safetensors"),
    "another family": (_source("gpt2"), "'gpt2'"),
    "quantised": (_source("quantised"), "quantization_config"),
    "infinity": (_source("infinite"), "'model.norm.weight' holds NaN or infinity"),
    "adapter of another base": (_source("stranger"), "[48, 48], in the base model it is [32, 32]"),
    "contains itself": (_source("recipe.yaml"), "sources.math: got 'recipe.yaml'; expected a recipe that does not"),
    "bases itself on itself": ({"base": {"location": "recipe.yaml"}}, "base: got 'recipe.yaml'"),
    "merge is text": ({"merge": "ties"}, " merge: got 'ties'; expected a mapping with the fields ['method',"),
    "unknown method": ({"merge": {"method": "tiez"}}, "merge.method: got 'tiez'; expected one of linear,"),
    "method is a number": ({"merge": {"method": 5}}, " merge.method: got 5; expected text"),
    "unknown parameter": (_merge(parameters={"dens": 1}), "merge.parameters.dens: got 1.0; expected parameters of"),
    "parameter out of range": (_merge(parameters={"density": 2}), "merge.parameters.density: got 2.0; expected a"),
    "parameter below": (_merge(parameters={"density": -1}), "merge.parameters.density: got -1.0"),
    "NaN": (_merge(parameters={"density": NAN}), " merge.parameters.density: got nan"),
    "infinite parameter": (_merge(parameters={"density": float("inf")}), " merge.parameters.density: got inf"),
    "flag for a number": (_merge(parameters={"density": True}), "merge.parameters.density: got True"),
    "nothing for a number": (_merge(parameters={"density": None}), " merge.parameters.density: got None"),
    "no knots": (_merge(parameters={"density": []}), " merge.parameters.density: got []"),
    "NaN among knots": (_merge(parameters={"density": [0.1, NAN]}), " merge.parameters.density: got [0.1, nan]"),
    "text for a flag": (_merge(parameters={"normalize": "yes"}), "merge.parameters.normalize: got 'yes'; expected"),
    "no such choice": (_merge(parameters={"scope": "all"}), "merge.parameters.scope: got 'all'; expected one of"),
    "number for a choice": (_merge(parameters={"scope": 1}), "merge.parameters.scope: got 1.0; expected one of"),
    "parameters of a stranger": (_merge(sources={"x": {"weight": 1}}), " merge.sources.x: got 'x'; expected one of"),
    "one's own of what is shared": (_merge(sources={"math": {"lambda": 1}}), "merge.sources.math.lambda: got 1.0"),
    "weights that cancel": (
        {"merge": {"method": "linear", "sources": {"math": {"weight": 1}, "ja": {"weight": -1}}}},
        "weights whose sum is not 0",
    ),
    "pipeline without stages": ({"merge": {"method": "pipeline"}}, " merge.pipeline: got None; expected stages"),
    "stages of a method": (_merge(pipeline=["trim", "sum"]), " merge.pipeline: got ['trim', 'sum']; expected stages"),
    "unknown stage": ({"merge": {"method": "pipeline", "pipeline": ["trim", "foo"]}}, "merge.pipeline[1]: got 'foo'"),
    "no sum": ({"merge": {"method": "pipeline", "pipeline": ["trim"]}}, "merge.pipeline: got ['trim']"),
    "trim after sum": ({"merge": {"method": "pipeline", "pipeline": ["sum", "trim"]}}, "merge.pipeline[1]: got 'trim'"),
    "layers out of range": (_merge(rules=[{"layers": [0, 9], "parameters": {}}]), "merge.rules[0].layers: got [0, 9]"),
    "layers turned round": (_merge(rules=[{"layers": [1, 0], "parameters": {}}]), "[first, last] with 0 <="),
    "three layers": (_merge(rules=[{"layers": [0, 1, 2], "parameters": {}}]), "expected at most 2 entries"),
    "unknown role": (_merge(rules=[{"roles": ["attn"], "parameters": {}}]), "merge.rules[0].roles: got 'attn'"),
    "rule of a stranger": (_merge(rules=[{"source": "x", "parameters": {}}]), " merge.rules[0].source: got 'x'"),
    "rule without parameters": (_merge(rules=[{"roles": ["mlp"]}]), " merge.rules[0].parameters: got None"),
    "one too many": ({"merge": {"method": "arcee_fusion"}}, "sources: got"),
    "slices out of range": ({"slices": [{"base": [0, 9]}]}, "slices[0].base: got [0, 9]; expected layers 0 to 1"),
    "slice of a source out of range": (
        {"slices": [{"base": [0, 1], "sources": {"math": [4, 5]}}]},
        "slices[0].sources.math: got [4, 5]",
    ),
    "slice turned round": ({"slices": [{"base": [1, 0]}]}, " slices[0].base: got [1, 0]; expected [first, last] with"),
    "slices of several lengths": ({"slices": [{"base": [0, 1], "sources": {"math": [0, 0]}}]}, "ranges of one length"),
    "slice of a stranger": ({"slices": [{"sources": {"x": [0, 1]}}]}, " slices[0].sources.x: got 'x'"),
    "no slices": ({"slices": []}, " slices: got []; expected at least 1 entry"),
    "slice of nothing": ({"slices": [{}]}, " slices[0]: got"),
    "unknown tokenizer": ({"tokenizer": "x"}, " tokenizer: got 'x'; expected one of the recipe's sources: ja, math"),
    "tokenizer is a number": ({"tokenizer": 3}, " tokenizer: got 3; expected text"),
    "token of a stranger": ({"tokens": {"<s>": {"model": "x"}}}, " tokens.<s>.model: got 'x'"),
    "token that nobody has": ({"tokens": {"<n>": {"model": "math", "token": "zz"}}}, "tokens.<n>: got 'zz'"),
    "no such token number": ({"tokens": {"<n>": {"model": "math", "token_id": 999}}}, "tokens.<n>.token_id: got 999"),
    "token from two places": ({"tokens": {"<n>": {"model": "math", "fill": "zero"}}}, "`model` or `fill`, not both"),
    "token of unknown fill": ({"tokens": {"<n>": {"fill": "random"}}}, " tokens.<n>.fill: got 'random'"),
    "token from nowhere": ({"tokens": {"<n>": {}}}, "tokens.<n>: got '<n>'; expected a token that a model has"),
    "token without text": ({"tokens": {"": {"fill": "zero"}}}, "expected at least 1 character"),
    "no tokens": ({"tokens": {}}, " tokens: got {}; expected"),
    "padding by nothing": ({"pad_to_multiple_of": 0}, " pad_to_multiple_of: got 0"),
    "padding that no disk holds": ({"pad_to_multiple_of": 10**12}, "bytes on this disk"),
    "empty template": ({"chat_template": ""}, " chat_template: got ''; expected at least 1 character"),
    "unknown dtype": ({"dtype": "int8"}, " dtype: got 'int8'; expected 'float32'"),
    "negative seed": ({"seed": -1}, " seed: got -1"),
    "seed and a half": ({"seed": 1.5}, " seed: got 1.5; expected a whole number"),
    "no shard": ({"shard_bytes": 0}, " shard_bytes: got 0"),
    "output is text": ({"output": "adapter"}, " output: got 'adapter'; expected a mapping with the fields ['kind',"),
    "unknown output": ({"output": {"kind": "gguf"}}, " output.kind: got 'gguf'"),
    "rank 0": ({"output": {"rank": 0}}, " output.rank: got 0"),
    "energy above 1": ({"output": {"energy": 1.5}}, " output.energy: got 1.5"),
    "adapter with norms": ({"output": {"rank": 2}}, "output.others: got 'error'; expected drop, or a merge that"),
    "adapter with slices": (
        {"output": {"rank": 2}, "slices": [{"base": [0, 0]}]},
        "output.kind: got 'adapter'; expected a model",
    ),
    "factors of checkpoints": ({"merge": {"method": "lora_mean"}}, "expected a LoRA adapter: lora_mean"),
    "statistics of nothing": ({"merge": {"method": "fisher"}}, "calibration: got None; expected a section with"),
    "calibration is text": (_merge() | {"calibration": "x"}, " calibration: got 'x'; expected a mapping with the"),
    "items are text": (_fisher(items="items.jsonl"), " calibration.items: got 'items.jsonl'; expected a mapping with"),
    "unknown field of items": (_fisher(items={"location": "x", "foo": 1}), "one of the fields ['location', 'sha256']"),
    "no items": (_fisher(), "calibration.sources.ja: got None; expected a JSONL file"),
    "items of one source": (_fisher(sources={"math": ITEMS["items"]}), "calibration.sources.ja: got None"),
    "items of a stranger": (_fisher(sources={"x": ITEMS["items"]}), " calibration.sources.x: got 'x'; expected one of"),
    "moments of a stranger": (_fisher(**ITEMS, moments={"x": {"location": "a"}}), " calibration.moments.x: got 'x'"),
    "no moments": (_fisher(**ITEMS, moments={"math": {"location": "nope"}}), "calibration.moments.math: "),
    "no such items": (_fisher(**_items("nope")), "calibration.items: "),
    "items are a directory": (_fisher(items={"location": "base"}), "calibration.items: "),
    "items with another hash": (_fisher(items={"location": "items.jsonl", "sha256": "0" * 64}), "another file lies"),
    "empty items": (_fisher(**_items("empty")), "expected at least one item"),
    "held-out items": (_fisher(**_items("held")), "expected at least one item that is not of the split 'holdout'"),
    "broken items": (_fisher(**_items("broken")), "broken.jsonl:2: got '{oops'"),
    "lists as items": (_fisher(**_items("lists")), "lists.jsonl:1: got '[1]'"),
    "items without text": (_fisher(**_items("fieldless")), "fieldless.jsonl:1: got ['foo']"),
    "numbers as items": (_fisher(**_items("numbers")), "numbers.jsonl:1: "),
    "labels out of range": (_fisher(**_items("labelless")), "labelless.jsonl:1: "),
    "no number of items": (_fisher(**ITEMS, number=0), " calibration.number: got 0"),
    "one token an item": (_fisher(**ITEMS, max_tokens=1), " calibration.max_tokens: got 1"),
    "unknown labels": (_fisher(**ITEMS, labels="all"), " calibration.labels: got 'all'; expected 'empirical'"),
    "statistics without a tokenizer": (
        _fisher(**ITEMS) | {"base": {"location": "tokenless"}} | _source("tokenless"),
        "no tokenizer for calibration items",
    ),
    "statistics of slices": (_fisher(**ITEMS) | {"slices": [{"base": [0, 1]}]}, "slices: "),
    "statistics of a union": (_fisher(**ITEMS) | {"tokenizer": "union"}, "tokenizer: got 'union'"),
    "statistics of aligned sources": (_fisher(**ITEMS) | _align(method="weights"), "align: got ['math']"),
    "align is text": ({"align": {"math": "weights"}}, " align.math: got 'weights'; expected a mapping"),
    "aligned by nothing": ({"align": {}}, " align: got {}; expected"),
    "unknown alignment": (_align(method="x"), " align.math: got {'method': 'x'}; expected 'method' to be one of"),
    "alignment without method": (_align(), " align.math: got {}; expected a mapping with the field 'method'"),
    "unknown option of alignment": (_align(method="weights", foo=1), " align.math.foo: got 1; expected one of the"),
    "a stranger aligned": ({"align": {"x": {"method": "weights"}}}, " align.x: got 'x'; expected one of the recipe's"),
    "activations of nothing": (_align(method="activations"), " align.math.items: got None"),
    "alignment by no items": (_align(method="activations", items={"location": "nope"}), "align.math.items: "),
    "alignment by held-out items": (_align(method="activations", **_items("held")), "expected at least one item"),
    "transport of nothing": (_align(method="transport", cost="activations"), "items with cost 'activations'"),
    "unknown units": (_align(method="weights", units=["x"]), " align.math.units[0]: got 'x'"),
    "no units": (_align(method="weights", units=[]), " align.math.units: got []; expected at least 1 entry"),
    "no regularisation": (_align(method="transport", reg=0), " align.math.reg: got 0; expected greater than 0"),
    "no expression": (_align(method="names", table=[["(", "x"]]), " align.math.table: got"),
    "half a pair": (_align(method="names", table=[["x"]]), " align.math.table[0][1]: got None"),
    "two for one": (_align(method="names", table=[[".*", "model.norm.weight"]]), "both mean the base model's"),
    "an adapter aligned": (_source("lora") | _align(method="weights"), "align.math: got 'weights'; expected no"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), RECIPES.values(), ids=RECIPES)
def test_a_wrong_recipe_is_refused(
    refused: Callable[..., str], written: Callable[..., str], changes: dict[str, Any], said: str
) -> None:
    assert said in refused("merge", written(**changes), "out")
