"""`evomerge moe`: a mixture of experts out of a base and its dense fine-tunes, without training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from evomerge.errors import InvalidInputError
from evomerge.merge.calibration.calibrated import calibrated
from evomerge.merge.card import model_card
from evomerge.merge.engine import Progress
from evomerge.merge.execute import merge_to_directory, usable_cores
from evomerge.merge.fingerprint import fingerprint
from evomerge.merge.inputs import Inputs, open_inputs
from evomerge.merge.resolve import pin
from evomerge.merge.sidecar import write_sidecar
from evomerge.merge.structure.assembly import write_weights
from evomerge.merge.structure.blueprint import BASE, Blueprint, Settings, mlps_of
from evomerge.merge.structure.expansion import Child, child_name
from evomerge.merge.structure.gates import read_prompts
from evomerge.merge.structure.targets import mixture_config, target_of
from evomerge.models.partial import partial
from evomerge.recipe.document import dump_yaml_data
from evomerge.recipe.schema import Recipe
from evomerge.recipe.text import load_recipe

PAPERS: Mapping[str, str] = {
    "trunk": "Zhou et al. 2025, MergeME: Model Merging Techniques for Homogeneous and Heterogeneous MoEs, "
    "arXiv:2502.00997",
    "experts": "Zhang et al. 2024, BAM! Just Like That: Simple and Efficient Parameter Upcycling for Mixture of "
    "Experts, arXiv:2408.08274",
    "expand": "Hui et al. 2024, Upcycling Instruction Tuning from Dense to Mixture-of-Experts via Parameter Merging, "
    "arXiv:2410.01610",
}
"""What is done → the paper that does it."""


def build_moe(
    recipe: Recipe,
    out: Path,
    settings: Settings,
    *,
    root: Path,
    threads: int | None = None,
    memory: int | None = None,
    hashes: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Build a mixture: each source's MLPs become one expert of each layer, all else is merged as the recipe says.

    Args:
        recipe: a dense base and its sources; method and parameters are for what lies outside the MLPs. Its seed draws
            random rows and bred experts, too.
        out: the directory to make: a checkpoint that transformers loads, with `recipe.yaml`, a model card, and
            `structure.json`, which says which expert is what. It is there whole or not at all.
        settings: how.
        root: relative locations in the recipe are under it.
        threads: tensors merged at a time; by default one a core that this process may use.
        memory: bytes of tensors that may be in memory at a time while all but the experts is merged; by default as for
            `merge_to_directory`. Experts are copied one tensor at a time; routers of kind `hidden` need the base whole.
        hashes: a directory that remembers hashes of unchanged files.
        progress: told of bytes written and bytes in all.

    Raises:
        InvalidInputError: `memory` is too small, a setting does not fit the models, or the recipe is illegal or asks
            for what no mixture has.
        HashMismatchError: weights are not the ones that the recipe names.
        CheckpointError, ArchitectureError, NonFiniteError: a model cannot be read, or the result not written.

    Source: Zhou et al. 2025, MergeME, arXiv:2502.00997 (the trunk by TIES or DARE); Zhang et al. 2024,
    BAM, arXiv:2408.08274 (experts from dense models; its experts of attention have no class in transformers).
    """
    names = _names(recipe, out, settings)
    prompts = {} if settings.prompts is None else read_prompts(settings.prompts, names)
    recipe = pin(recipe, root, hashes)
    report = {"settings": settings.plain, "prompts": {name: asdict(found) for name, found in prompts.items()}}
    key = hashlib.sha256(json.dumps([fingerprint(recipe, root), report], sort_keys=True).encode()).hexdigest()
    cores = threads or usable_cores()
    with partial(out, key) as at:
        with open_inputs(recipe, root, lambda path: _nested(path, at.scratch, threads, memory)) as inputs:
            target = target_of(settings.to, inputs.base.config, inputs.architecture)
            inputs = calibrated(inputs, recipe, at.scratch, root=root)
            mlps = mlps_of(inputs.architecture)
            bred = tuple(map(child_name, range(settings.expand)))
            blueprint = Blueprint(target, settings, (*names, *bred), len(names), mlps, prompts, recipe.seed)
            children = write_weights(recipe, blueprint, inputs, at, cores, progress, memory)
            _describe(recipe, blueprint, children, inputs, at.model, report)
        at.publish()
    return out


def _names(recipe: Recipe, out: Path, settings: Settings) -> tuple[str, ...]:
    """The models whose MLPs are experts, if what is asked for can be."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError("out", str(out), "a directory that does not exist yet or is empty")
    for field in ("slices", "output"):
        if getattr(recipe, field) is not None:
            raise InvalidInputError(field, "a section", "none in the recipe of a mixture: its layers are the base's")
    if taken := {child_name(number) for number in range(settings.expand)} & set(recipe.sources):
        raise InvalidInputError("expand", settings.expand, f"no source that is called {min(taken)!r} itself")
    names = ((BASE,) if settings.with_base else ()) + tuple(recipe.sources)
    number = len(names) + settings.expand
    if settings.experts_per_token > number:
        raise InvalidInputError("experts_per_token", settings.experts_per_token, f"at most {number}: all experts")
    return names


def _nested(path: Path, scratch: Path, threads: int | None, memory: int | None) -> Path:
    """The model of a recipe that is a source; what a killed build has finished is taken."""
    recipe = load_recipe(path)
    out = scratch / fingerprint(recipe, path.resolve().parent, (path.resolve(),))
    if out.exists():
        return out
    return merge_to_directory(recipe, out, root=path.resolve().parent, threads=threads, memory=memory)


def _describe(
    recipe: Recipe,
    blueprint: Blueprint,
    children: Sequence[Child],
    inputs: Inputs,
    out: Path,
    report: Mapping[str, object],
) -> None:
    """Config, tokenizer, recipe, card and report."""
    settings = blueprint.settings
    config = mixture_config(inputs.base.config, blueprint.target, len(blueprint.names), settings.experts_per_token)
    places = {name: source.path for name, source in inputs.sources.items()}
    write_sidecar(inputs.base.path, config, recipe, out, places, inputs.vocabulary)
    bred = {child.name: dict(zip(child.parents, child.shares, strict=True)) for child in children}
    experts = [{"name": name, **({"made_of": bred[name]} if name in bred else {})} for name in blueprint.names]
    text = json.dumps({**report, "experts": experts}, indent=2, ensure_ascii=False) + "\n"
    (out / "structure.json").write_text(text, encoding="utf-8")
    if blueprint.prompts:
        text = dump_yaml_data(
            {name: {k: list(v) for k, v in asdict(p).items()} for name, p in blueprint.prompts.items()}
        )
        (out / "prompts.yaml").write_text(text, encoding="utf-8")
    card = model_card(recipe, {BASE: inputs.base.path, **places}, _command(settings), _section(blueprint))
    (out / "README.md").write_text(card, encoding="utf-8")


def _command(settings: Settings) -> str:
    """What builds the same again."""
    asked = [f"--to {settings.to}", f"--gate {settings.gate}", f"--experts-per-token {settings.experts_per_token}"]
    if settings.prompts is not None:
        asked.append("--prompts prompts.yaml")
    if settings.gate == "hidden":
        asked.append(f"--states {settings.states} --tokens {settings.tokens}")
    if settings.with_base:
        asked.append("--with-base")
    if settings.expand:
        asked.append(f"--expand {settings.expand} --density {settings.density:g}")
    return f"evomerge moe recipe.yaml OUT {' '.join(asked)}"


def _section(blueprint: Blueprint) -> str:
    settings, number = blueprint.settings, len(blueprint.names)
    rows = "\n".join(f"| {at} | {name} |" for at, name in enumerate(blueprint.names))
    papers = [paper for what, paper in PAPERS.items() if what != "expand" or settings.expand]
    return (
        f"## Mixture of experts\n\nEach token takes {settings.experts_per_token} of {number} experts, the MLPs of "
        f"these models; all else is merged as the recipe says. The routers were not trained: their rows are "
        f"`{settings.gate}`.\n\n| expert | model |\n|---|---|\n{rows}\n\nAfter: {'; '.join(papers)}."
    )
