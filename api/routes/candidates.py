"""Candidates of a run: a filtered page, one with everything, its recipe to take away."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from api import recipes
from api.deps import ProjectionsDep, RunDep, StoreDep
from api.problems import FieldError, Problem, documented, invalid
from api.routes.conditional import accepted, link_next, unchanged
from api.schemas import Candidate, CandidatePage, Chance, Front, candidate_listed, candidate_out
from evomerge.archive import front_probabilities
from evomerge.candidate import CandidateState
from evomerge.errors import InvalidInputError
from evomerge.seeds import generator
from evomerge.storage.store import CandidateQuery, CandidateRow, RunRow, Store

router = APIRouter(prefix="/api/v1", tags=["candidates"])

Number = Annotated[int, Path(ge=0, le=2**31 - 1, description="the candidate's number in its run")]
Format = Literal["yaml", "json", "mergekit"]
Kind = Literal["baseline", "search"]
FILTERS = ("state", "kind", "front", "sort", "limit", "cursor", "min.NAME")
FRONT_LIMIT = 1000
MEDIA_TYPES: dict[str, Format] = {
    "application/json": "json",
    "application/yaml": "yaml",
    "application/x-yaml": "yaml",
    "text/yaml": "yaml",
    "application/vnd.mergekit+yaml": "mergekit",
    "*/*": "yaml",
    "application/*": "yaml",
    "text/*": "yaml",
}


@router.get("/runs/{run_id}/candidates", responses=documented(404, 422))
def list_candidates(
    request: Request,
    response: Response,
    row: RunDep,
    store: StoreDep,
    state: CandidateState | None = None,
    kind: Kind | None = None,
    front: bool | None = None,
    sort: Annotated[str, Query(max_length=80, description="`number` or `score:NAME`; `-` first turns it")] = "number",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
    cursor: Annotated[str | None, Query(max_length=1000)] = None,
) -> CandidatePage:
    """A page of candidates; `min.NAME=0.4` keeps those whose score NAME is at least 0.4."""
    names = _score_names(row)
    minimum = _minimum(request.query_params, names)
    if sort.removeprefix("-") not in {"number", *(f"score:{name}" for name in names)}:
        raise _bad_parameter("sort", sort, f"number or score:NAME with NAME one of {names}, or the same after a '-'")
    query = CandidateQuery(state, kind, front, minimum, sort, limit, cursor)
    try:
        rows, following = store.candidates(row.id, query)
    except InvalidInputError as error:
        raise Problem("bad-cursor", str(error)) from error
    link_next(request, response, following)
    return CandidatePage(items=[candidate_listed(one) for one in rows], next_cursor=following)


@router.get("/runs/{run_id}/candidates/{number}", responses=documented(404, 422))
def get_candidate(row: RunDep, number: Number, store: StoreDep) -> Candidate:
    """One candidate with genome, recipe and responses."""
    return candidate_out(_candidate(store, row, number))


@router.get(
    "/runs/{run_id}/candidates/{number}/recipe",
    response_class=Response,
    responses={
        200: {
            "description": "the recipe; its digest stands in the header Evomerge-Digest",
            "content": {t: {} for t in ("application/yaml", "application/json", "application/vnd.mergekit+yaml")},
        },
        304: {"description": "the client already has it"},
        **documented(404, 406, 409, 422),
    },
)
def get_recipe(
    request: Request, row: RunDep, number: Number, store: StoreDep, format: Format | None = None
) -> Response:
    """The candidate's recipe as YAML, JSON or mergekit YAML: by `format`, else by the Accept header."""
    chosen = format if format is not None else accepted(request.headers.get("accept", "*/*"), MEDIA_TYPES)
    candidate = _candidate(store, row, number)
    text, media_type, suffix = recipes.write(recipes.of(row, candidate), chosen)
    tag = f'"{hashlib.sha256(text.encode()).hexdigest()}"'
    headers = {
        "ETag": tag,
        "Vary": "Accept",
        "Evomerge-Digest": candidate.digest,
        "Content-Disposition": f'attachment; filename="{_file_stem(row)}-{number}{suffix}"',
    }
    return unchanged(request, tag) or Response(text, media_type=media_type, headers=headers)


@router.get("/runs/{run_id}/front", response_model=Front, responses=documented(404))
def get_front(request: Request, row: RunDep, store: StoreDep, projections: ProjectionsDep) -> Response:
    """The run's Pareto front, and who else may be on it."""
    tag = f'"{row.version}"'
    known = unchanged(request, tag)
    if known is not None:
        return known
    members, _ = store.candidates(row.id, CandidateQuery(front=True, limit=FRONT_LIMIT))
    front = Front(
        last_seq=row.last_seq,
        hypervolume=row.summary.get("hypervolume"),
        reference=row.summary.get("reference") or [],
        members=[candidate_listed(one) for one in members],
        chances=_chances(row, projections.points(row.id)),
    )
    return Response(front.model_dump_json(), media_type="application/json", headers={"ETag": tag})


@router.get(
    "/runs/{run_id}/best/recipe",
    status_code=307,
    response_class=RedirectResponse,
    responses=documented(404, 422),
)
def get_best_recipe(
    row: RunDep,
    objective: Annotated[str | None, Query(max_length=80)] = None,
    format: Format | None = None,
) -> RedirectResponse:
    """Where the best candidate's recipe is: the verified winner's, or while the search runs the best so far."""
    number = _best(row, objective)
    query = f"?format={format}" if format else ""
    return RedirectResponse(f"/api/v1/runs/{row.id}/candidates/{number}/recipe{query}", 307)


def _chances(row: RunRow, points: Mapping[str, Any]) -> list[Chance]:
    """Of the search candidates, by their scores and standard errors; baselines are no members."""
    columns = [
        (-1.0 if one.get("direction") == "minimize" else 1.0, points["scores"][one["name"]], points["se"][one["name"]])
        for one in row.spec["objectives"]
        if one["name"] in points["scores"]
    ]
    known = [
        k
        for k, (kind, violation) in enumerate(zip(points["kind"], points["violation"], strict=True))
        if kind == "search" and violation == 0 and all(means[k] is not None for _, means, _ in columns)
    ]
    values = [[sign * means[k] for sign, means, _ in columns] for k in known]
    errors = [[ses[k] for _, _, ses in columns] for k in known]
    found = front_probabilities(values, errors, stream=generator(row.spec.get("seed", 0), "front"))
    chances = [Chance(number=points["number"][k], probability=p) for k, p in zip(known, found.tolist(), strict=True)]
    return sorted((one for one in chances if one.probability >= 0.01), key=lambda one: (-one.probability, one.number))


def _best(row: RunRow, objective: str | None) -> int:
    result, best = row.summary.get("result") or {}, row.summary.get("best") or {}
    believed = row.summary.get("believed") or {}  # of the best score a part is luck
    names = [one["name"] for one in row.spec["objectives"]]
    if objective is not None and objective not in names:
        raise _bad_parameter("objective", objective, f"one of {names}")
    if objective is None and "winner" in result:
        return int(result["winner"])
    chosen = believed.get(objective or names[0]) or best.get(objective or names[0])
    if chosen is None:
        raise Problem("not-found", f"run {row.id} has no scored candidate yet; its state is {row.state}")
    return int(chosen["number"])


def _candidate(store: Store, row: RunRow, number: int) -> CandidateRow:
    candidate = store.candidate(row.id, number)
    if candidate is None:
        raise Problem("not-found", f"run {row.id} has no candidate {number}")
    return candidate


def _score_names(row: RunRow) -> list[str]:
    return [one["name"] for kind in ("objectives", "constraints") for one in row.spec.get(kind, ())]


def _minimum(query: Mapping[str, str], names: list[str]) -> dict[str, float]:
    """The `min.NAME` filters; a parameter that nobody knows is an error, not ignored."""
    minimum = {}
    for key, text in query.items():
        if not key.startswith("min."):
            if key not in FILTERS:
                raise _bad_parameter(key, text, f"no such parameter; known are {', '.join(FILTERS)}")
            continue
        if key[4:] not in names:
            raise _bad_parameter(key, text, f"min.NAME with NAME one of {names}")
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if value - value != 0:  # NaN or infinite
            raise _bad_parameter(key, text, "a number")
        minimum[key[4:]] = value
    return minimum


def _bad_parameter(name: str, value: Any, allowed: str) -> Problem:
    detail = f"query parameter {name}: got {value!r}; expected {allowed}"
    return invalid([FieldError(parameter=name, detail=detail, value=value, allowed=allowed)])


def _file_stem(row: RunRow) -> str:
    """A run's name as part of a file name: letters, digits and dashes only."""
    return re.sub(r"[^A-Za-z0-9]+", "-", row.name).strip("-").lower()[:60] or "recipe"


assert set(MEDIA_TYPES.values()) == set(get_args(Format))
