"""Which pool a run's spec asks for. Ray is imported by those who use it only."""

from __future__ import annotations

from evomerge.run.spec import RunSpec
from workers.job import Pool, WorkerSpec
from workers.local import LocalPool


def make_pool(worker: WorkerSpec, spec: RunSpec) -> Pool:
    """The local pool, or one of Ray actors: as many as the spec counts, else one a core or GPU."""
    if spec.workers.pool == "local":
        return LocalPool(worker)
    from workers.ray_pool import RayPool

    return RayPool(worker, spec.workers.count)
