"""The model card of a merged model: what it is, from what, under which licences, how good, how to make it again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evomerge import __version__
from evomerge.merge.licence import Licence, licence_of
from evomerge.merge.lineage import PAPER, TITLE
from evomerge.merge.literature import PATHS, cited, papers
from evomerge.merge.methods import method_of
from evomerge.models.hub import HUB
from evomerge.recipe.document import dump_yaml_data
from evomerge.recipe.path import Hop
from evomerge.recipe.schema import ModelRef, Recipe
from evomerge.recipe.segments import Segments
from evomerge.recipe.text import dump_yaml

BUILD = "evomerge merge recipe.yaml OUT"
"""The command that builds what a recipe describes."""
DATA_FLOW = "Akiba et al. 2024, Evolutionary Optimization of Model Merging Recipes, arXiv:2403.13187"


def model_card(recipe: Recipe, places: Mapping[str, Path], build: str = BUILD, section: str | None = None) -> str:
    """The `README.md` of the model that a recipe makes, with the head that model hubs read.

    Args:
        recipe: pinned; its provenance gives the scores.
        places: `base` and every source → the directory where it lies now; sources without one have no part in it.
        build: the command that makes it again.
        section: what else there is to say, after the sources.
    """
    models = {name: ref for name, ref in {"base": recipe.base, **recipe.sources}.items() if name in places}
    licences = {name: licence_of(places[name]) for name in models}
    parts = [
        f"---\n{dump_yaml_data(_head(recipe, licences))}---",
        f"# {_title(recipe)}",
        f"A merge made by evomerge {__version__}. No training was done; the weights are those of the recipe below.",
        "## Sources\n\n" + "\n".join(_sources(models, licences)),
        *([section] if section is not None else []),
        *_path(recipe),
        *_warnings(licences),
        *_evaluation(recipe.provenance),
        f"## Recipe\n\n```yaml\n{dump_yaml(recipe)}```",
        "## Build it again\n\n"
        "The hashes in the recipe say which weights are meant; where they lie may differ.\n\n"
        f"    {build}" + "".join(f" --model {name}=PLACE" for name in models),
        *_citations(recipe),
    ]
    return "\n\n".join(parts) + "\n"


def _title(recipe: Recipe) -> str:
    names = " + ".join(recipe.sources)
    return f"{_place(recipe.base)} merged with {names}"


def _place(ref: ModelRef) -> str:
    """A name that tells nothing about the machine: the hub's, or the directory's own."""
    return ref.location.removeprefix(HUB) if ref.location.startswith(HUB) else Path(ref.location).name


def _head(recipe: Recipe, licences: Mapping[str, Licence]) -> dict[str, Any]:
    head: dict[str, Any] = {}
    names = {licence.name for licence in licences.values()}
    if None not in names:
        joined = " and ".join(sorted(str(name) for name in names))
        head |= {"license": joined} if len(names) == 1 else {"license": "other", "license_name": joined}
    hub = [_place(ref) for ref in (recipe.base, *recipe.sources.values()) if ref.location.startswith(HUB)]
    if hub:
        head |= {"base_model": hub, "base_model_relation": "merge"}
    how = [] if recipe.path is None else ["data-flow"]
    if recipe.path is None or recipe.path.uses_merged:
        how.append(recipe.merge.method)
    return {**head, "library_name": "transformers", "tags": ["merge", "evomerge", *how]}


def _sources(models: Mapping[str, ModelRef], licences: Mapping[str, Licence]) -> Iterator[str]:
    yield "| name | model | licence | SHA-256 of the weights |"
    yield "|---|---|---|---|"
    for name, ref in models.items():
        digest = f"`{ref.sha256[:16]}…`" if ref.sha256 else "not pinned"
        revision = f" @ {ref.revision}" if ref.revision else ""
        yield f"| {name} | {_place(ref)}{revision} | {licences[name].name or 'none stated'} | {digest} |"


def _path(recipe: Recipe) -> Iterator[str]:
    """Which layers a token goes through, those that follow each other in one model joined."""
    if recipe.path is None:
        return
    runs: list[list[Hop]] = []
    for hop in recipe.path.layers:
        if runs and (hop.model, hop.layer) == (runs[-1][-1].model, runs[-1][-1].layer + 1):
            runs[-1].append(hop)
        else:
            runs.append([hop])
    rows = [f"| {run[0].model} | {run[0].layer} to {run[-1].layer} |" for run in runs]
    scaled = f", each with a scale of its input (`{recipe.path.semantics}`)" if recipe.path.scaled else ""
    yield (
        f"## Path\n\nThe {len(recipe.path.layers)} layers are, in this order{scaled}; what stands before and after "
        f"them is {recipe.path.host}'s.\n\n| model | layers |\n|---|---|\n" + "\n".join(rows)
    )


def _warnings(licences: Mapping[str, Licence]) -> Iterator[str]:
    said = [f"- **{name}**: {licence.warning}." for name, licence in licences.items() if licence.warning]
    names = {licence.name for licence in licences.values() if licence.name}
    if len(names) > 1:
        said.append(f"- The licences differ ({', '.join(sorted(names))}): the terms of all of them apply.")
    if said:
        yield "## Licences: read before sharing\n\n" + "\n".join(said)


def _evaluation(provenance: Mapping[str, Any]) -> Iterator[str]:
    """What the search measured, where the recipe comes from one: on holdout items, else on all search items, else
    estimates."""
    verified = _mapping(provenance.get("verified"))
    for scores, what in (
        (verified.get("holdout"), "on holdout items, which the search never saw"),
        (verified.get("search"), "on all items that the search drew from"),
        (provenance.get("scores"), "estimated during the search, from subsets of items"),
    ):
        rows = list(_rows(_mapping(scores)))
        if rows:
            run = f"Run `{provenance['run']}`, candidate {provenance.get('candidate')}. " if "run" in provenance else ""
            table = ["| objective | score | standard error | items |", "|---|---|---|---|", *rows]
            yield f"## Evaluation\n\n{run}Scores {what}.\n\n" + "\n".join(table)
            return


def _mapping(value: object) -> Mapping[str, Any]:
    """Provenance is free text as far as the schema goes."""
    return value if isinstance(value, dict) else {}


def _rows(scores: Mapping[str, Any]) -> Iterator[str]:
    for name, score in scores.items():
        mean, error, items = (_mapping(score).get(key) for key in ("mean", "se", "n"))
        if isinstance(mean, int | float):
            text = f"{error:.3f}" if isinstance(error, int | float) else "–"
            yield f"| {name} | {mean:.3f} | {text} | {items if items is not None else '–'} |"


def _lineage(segments: Segments) -> str:
    number = sum(len(chromosome.starts) for chromosome in segments.chromosomes)
    bibtex = "\n\n".join(paper.bibtex for paper in papers() if paper.place in PAPER)
    return (
        f"## Method\n\n{TITLE}: crossings of the sources, which come to a weighted sum of them in each of {number} "
        f"segments: {PAPER}.\n\n```bibtex\n{bibtex}\n```"
    )


def _citations(recipe: Recipe) -> Iterator[str]:
    if recipe.path is not None:
        (paper,) = (paper for paper in papers() if paper.key == PATHS)
        yield f"## Data flow\n\nA path through layers of several models: {DATA_FLOW}.\n\n```bibtex\n{paper.bibtex}\n```"
        if not recipe.path.uses_merged:
            return
    if recipe.segments is not None:
        yield _lineage(recipe.segments)
        return
    method = method_of(recipe.merge)
    found = cited([recipe.merge])
    text = "\n\n".join(paper.bibtex for paper in found)
    yield f"## Method\n\n{method.title} (`{recipe.merge.method}`): {method.paper}." + (
        f"\n\n```bibtex\n{text}\n```" if text else ""
    )
