"""Write docs/methods.md from the registry of merge methods, the literature and the tests that prove them.

python scripts/methods_table.py          # write the page
python scripts/methods_table.py --check  # exit status 1 if it is not up to date
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from evomerge.merge.calibration.kinds import of_items
from evomerge.merge.literature import Paper, link_to, papers
from evomerge.merge.method import Method, Parameter
from evomerge.merge.methods import BUILT_IN
from evomerge.merge.stage import Stage
from evomerge.merge.stages import STAGES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "methods.md"
HEAD = """# Merge methods

<!-- made by scripts/methods_table.py (`make methods`); do not edit -->

Every method is a pure function of the weights, its parameters and the recipe's seed. A recipe names it under
`merge.method`, a search under `space.method`; every parameter with a range can be searched. Parameters of one source
(marked *) stand under `merge.sources`, all can be narrowed to layers and roles by `merge.rules`. Where a paper's
authors' code or mergekit does something else, the default is the paper's and a parameter gives the other.

*Needs* says what a method takes beside the weights: `calibration` statistics are collected over items that the recipe
names (see [calibration](calibration.md)), `factors` are those of LoRA adapters (see [adapters](adapters.md)), `order`
means that the sources' order matters, `seed` that it draws at random. *Cost* is the dearest thing that is done with one
tensor. *Parameters* come with their defaults, then [the range that a search uses] or the other options. *Evidence*:
`golden` are numbers that another implementation gave on fixed tensors, `property` is a law that the paper states or an
independent restatement of its formula; the tests are linked.

Methods: {methods}. [Stages](#stages) of which own methods are made. [Papers](#papers) and what of them works here.
For models trained apart, mixtures of experts and smaller models see
[alignment and structure](alignment-and-structure.md).
"""
GROUPS = {
    "Averages of weights": "They need no base (or take it as one more model).",
    "Task vectors": "What fine-tuning added to the base, entry by entry or row by row.",
    "Singular values and least squares": "Task vectors as matrices. Embeddings, heads and vectors are left to simpler "
    "rules, which `others` chooses.",
    "With statistics of the models": "Data decide: the sources read items of yours before they are merged.",
    "Learned coefficients": "Gradients over items of yours decide; the merge that follows is as pure as any other.",
    "Adapters in factor space": "For sources that are all LoRA adapters.",
}
"""Heading of a table of methods → what they have in common."""
KINDS = {
    "data-free": "Merges of weights alone",
    "calibration": "Merges that look at data",
    "adapter": "Adapters",
    "alignment": "Models trained apart",
    "structure": "Experts and layers of one model",
    "search": "Searches over merges",
    "dynamic": "Models that choose at run time, and what of them is static",
    "finding": "Findings",
}
"""Kind of a paper → heading of its table."""
STAGES_HEAD = """## Stages

A recipe may spell out its own method: `method: pipeline` and `pipeline: [trim, weigh, elect, disjoint_mean, scale]`.
Stages run in order; exactly one adds the task vectors up, `post` stages come after it. Their parameters are the
pipeline's parameters.
"""
PAPERS_HEAD = """## Papers

What was read of the field, and what of it works here. *working*: all that a static merge can have of it; *partly*: the
note says what is missing; *open*: the note says why. Papers whose result is no single checkpoint, and findings, are
listed where a part of them is of use. `evomerge cite` prints a recipe's papers as BibTeX.
"""


@dataclass(frozen=True, slots=True)
class Proof:
    """A test that shows a method right."""

    method: str
    by: str
    file: str
    line: int


def proofs() -> tuple[Proof, ...]:
    """All tests with a mark `proves`, by reading their source."""
    found = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                for decorator in node.decorator_list:
                    found += list(_of_mark(decorator, path.relative_to(ROOT), node.lineno))
    return tuple(found)


def _of_mark(decorator: ast.expr, path: Path, line: int) -> Iterator[Proof]:
    if isinstance(decorator, ast.Call) and ast.unparse(decorator.func) == "pytest.mark.proves":
        by = next(ast.literal_eval(k.value) for k in decorator.keywords if k.arg == "by")
        for argument in decorator.args:
            yield Proof(ast.literal_eval(argument), by, path.as_posix(), line)


def page() -> str:
    """The whole page."""
    return "\n".join(
        [
            HEAD.format(methods=", ".join(f"[{heading.lower()}](#{_anchor(heading)})" for heading in GROUPS)),
            *_method_tables(),
            STAGES_HEAD,
            "| stage | kind | what it does | parameters |",
            "|---|---|---|---|",
            *(_stage_row(stage) for _, stage in sorted(STAGES.items(), key=lambda item: (item[1].kind, item[0]))),
            "",
            PAPERS_HEAD,
            *_paper_tables(),
        ]
    )


def _anchor(heading: str) -> str:
    return heading.lower().replace(" ", "-")


def _method_tables() -> Iterator[str]:
    proven = proofs()
    for heading, text in GROUPS.items():
        yield f"## {heading}\n\n{text}\n"
        yield "| method | papers | needs | cost | parameters | evidence |"
        yield "|---|---|---|---|---|---|"
        for _, method in sorted(BUILT_IN.items()):
            if _group(method) == heading:
                yield _method_row(method, proven)
        yield ""


def _group(method: Method) -> str:
    """Its heading, by what it needs and does."""
    if method.factored:
        return "Adapters in factor space"
    if method.requires:
        return "Learned coefficients" if method.cost == "training" else "With statistics of the models"
    if method.domain == "weights":
        return "Averages of weights"
    return "Singular values and least squares" if method.cost in ("svd", "solve") else "Task vectors"


def _method_row(method: Method, proven: tuple[Proof, ...]) -> str:
    cells = [
        f"`{method.name}`<br>{method.title}",
        _sources(method.paper),
        ", ".join(_needs(method)) or "–",
        method.cost,
        "<br>".join(_parameter(p) for p in method.parameters) or "–",
        _evidence(method.name, proven),
    ]
    return f"| {' | '.join(cells)} |"


def _sources(text: str) -> str:
    """A method's text on its papers with links in place of titles, which stand in the tables of papers."""
    place = r"(?:arXiv:\d{4}\.\d{4,5}|(?:doi:|https://)[^\s;,)]+)"
    short = re.sub(rf"([^;:()\s][^;:()]*? \d{{4}}), [^;]+?, ({place})", lambda m: f"[{m[1]}]({link_to(m[2])})", text)
    linked = re.sub(rf"(?<!\()(?<!/)({place})", lambda m: f"[{m[1]}]({link_to(m[1])})", short)
    return _escaped(linked)


def _needs(method: Method) -> Iterator[str]:
    calibration = sorted(of_items(method.requires))
    if calibration:
        yield f"calibration ({', '.join(calibration)})"
    if method.factored:
        yield "factors"
    if method.ordered:
        yield "order"
    if method.stochastic:
        yield "seed"
    least, most = method.num_sources
    if most is None and least > 1:
        yield f"{least} sources or more"
    elif most is not None:
        yield f"{least} to {most} sources" if most > least else f"{least} source{'s' * (least > 1)}"


def _stage_row(stage: Stage) -> str:
    parameters = "<br>".join(_parameter(p) for p in stage.parameters) or "–"
    return f"| `{stage.name}` | {stage.kind} | {_escaped(stage.text)} | {parameters} |"


def _parameter(parameter: Parameter) -> str:
    star = "*" if parameter.per_source else ""
    default = str(parameter.default).lower() if isinstance(parameter.default, bool) else parameter.default
    if parameter.choices:
        options = " \\| ".join(choice for choice in parameter.choices if choice != default)
        return f"`{parameter.name}`{star}: {default} \\| {options}"
    if parameter.low is None:
        return f"`{parameter.name}`{star}: {default}"
    log = ", log" if parameter.scale == "log" else ""
    return f"`{parameter.name}`{star}: {default:g} [{parameter.low:g}, {parameter.high:g}{log}]"


def _evidence(name: str, proven: tuple[Proof, ...]) -> str:
    mine = [proof for proof in proven if proof.method == name]
    kinds = sorted({proof.by for proof in mine})
    links = [
        f"{kind}: "
        + ", ".join(f"[{Path(file).stem}](../{file})" for file in sorted({p.file for p in mine if p.by == kind}))
        for kind in kinds
    ]
    return "<br>".join(links) or "–"


def _paper_tables() -> Iterator[str]:
    count = {status: sum(p.status == status for p in papers()) for status in ("working", "partly", "open")}
    yield f"{len(papers())} papers: {count['working']} working, {count['partly']} partly, {count['open']} open.\n"
    for kind, heading in KINDS.items():
        yield f"### {heading}\n"
        yield "| paper | status | here as | note |"
        yield "|---|---|---|---|"
        yield from (_paper_row(paper) for paper in papers() if paper.kind == kind)
        yield ""


def _paper_row(paper: Paper) -> str:
    names = ", ".join(f"`{name}`" for name in paper.methods) or "–"
    cells = [
        f"{paper.short}, [{_escaped(paper.title)}]({paper.link})",
        paper.status,
        names,
        _escaped(paper.note),
    ]
    return f"| {' | '.join(cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page() else 1)
    PAGE.write_text(page(), encoding="utf-8")
