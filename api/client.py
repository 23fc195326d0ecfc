"""REST from Python: what the command line uses, and anybody else can.

>>> with Client("http://127.0.0.1:8765") as client:  # doctest: +SKIP
...     run = client.submit(yaml.safe_load(open("search.yaml")))
...     for event in client.events(run["id"]):
...         print(event.seq, event.type)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Literal, Self

import httpx2

from evomerge.errors import EvomergeError
from evomerge.storage.store import TERMINAL, Event, Verb

_RECONNECT_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_STREAM_TIMEOUT = httpx2.Timeout(10.0, read=45.0)  # the service pings every 15 seconds


class ServiceError(EvomergeError):
    """The service refused; `problem` is its problem document, `status` the HTTP status."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status, self.problem = status, problem
        lines = [str(problem.get("detail") or problem.get("title") or f"HTTP {status}")]
        lines += [str(one["detail"]) for one in problem.get("errors", ())[1:]]
        super().__init__("\n".join(lines))


class UnreachableError(EvomergeError):
    """Nobody answers at the service's address."""


class Client:
    """A service at an address.

    Args:
        url: `http://127.0.0.1:8765`.
        key: the API key, where the service asks for one.
        patience_s: how long `events` goes on trying to reach a service that is away.
        sleep: how to wait between two attempts.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = 60.0,
        patience_s: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.url = url.rstrip("/")
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._http = httpx2.Client(
            base_url=f"{self.url}/api/v1", headers=headers, timeout=timeout_s, follow_redirects=True
        )
        self._patience_s, self._sleep = patience_s, sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def submit(self, spec: dict[str, Any], idempotency_key: str | None = None) -> dict[str, Any]:
        """Submit a search; the run."""
        headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
        return self._json("POST", "/runs", json=spec, headers=headers)

    def validate(self, spec: dict[str, Any]) -> dict[str, Any]:
        """Check a search: the spec with defaults, dimension, genes, items, warnings."""
        return self._json("POST", "/runs:validate", json=spec)

    def run(self, run_id: str) -> dict[str, Any]:
        """One run."""
        return self._json("GET", f"/runs/{run_id}")

    def runs(self, **query: Any) -> Iterator[dict[str, Any]]:
        """All runs, newest first."""
        return self._pages("/runs", query)

    def command(self, run_id: str, verb: Verb) -> dict[str, Any]:
        """Pause, resume, stop or cancel a run."""
        return self._json("POST", f"/runs/{run_id}:{verb}")

    def candidates(self, run_id: str, **query: Any) -> Iterator[dict[str, Any]]:
        """A run's candidates, filtered and sorted as REST does; `min.NAME` goes in as `**{"min.NAME": 0.4}`."""
        return self._pages(f"/runs/{run_id}/candidates", query)

    def candidate(self, run_id: str, number: int) -> dict[str, Any]:
        """One candidate with everything."""
        return self._json("GET", f"/runs/{run_id}/candidates/{number}")

    def front(self, run_id: str) -> dict[str, Any]:
        """The run's Pareto front."""
        return self._json("GET", f"/runs/{run_id}/front")

    def elites(self, run_id: str, bins: int = 15) -> dict[str, Any]:
        """For each objective the best candidate at each level of the others."""
        return self._json("GET", f"/runs/{run_id}/elites", params={"bins": bins})

    def preview(self, run_id: str) -> dict[str, Any]:
        """The front that a run's scored candidates predict, without another evaluation."""
        return self._json("GET", f"/runs/{run_id}/preview")

    def item_reports(self, run_id: str) -> list[dict[str, Any]]:
        """For each eval set and metric of a run's objectives, how well few items predict the full score."""
        found: list[dict[str, Any]] = self._json("GET", f"/runs/{run_id}/items")["items"]
        return found

    def recipe(
        self, run_id: str, number: int | None = None, format: Literal["yaml", "json", "mergekit"] = "yaml"
    ) -> str:
        """A candidate's recipe as text; without a number the best one's."""
        which = "best" if number is None else f"candidates/{number}"
        return self._answer("GET", f"/runs/{run_id}/{which}/recipe", params={"format": format}).text

    def banks(self) -> list[dict[str, Any]]:
        """What there are answers to, by evaluator and eval set."""
        found: list[dict[str, Any]] = self._json("GET", "/answers")["items"]
        return found

    def answers(self, fingerprint: str, eval_set: str | None = None, metric: str | None = None) -> dict[str, Any]:
        """The answers that an evaluator took as `{items, subjects, values}`, values null where nobody was asked.

        Args:
            fingerprint: or its beginning.
            eval_set, metric: not needed where there is one.
        """
        query = {name: text for name, text in {"eval_set": eval_set, "metric": metric}.items() if text is not None}
        page = self._json("GET", f"/answers/{fingerprint}", params=query)
        found = page
        while cursor := page["next_cursor"]:
            page = self._json("GET", f"/answers/{fingerprint}", params={**query, "cursor": cursor})
            for part in ("subjects", "values"):
                found[part] += page[part]
        return {**found, "next_cursor": None}

    def events(self, run_id: str, after: int = 0) -> Iterator[Event]:
        """Every event after `after` as it happens, each once, until the run is over; reconnects when the service is
        away.

        Raises:
            UnreachableError: the service stayed away for `patience_s`.
        """
        waited, attempt = 0.0, 0
        while True:
            try:
                with self._http.sse(
                    f"/runs/{run_id}/events", params={"after": after}, timeout=_STREAM_TIMEOUT
                ) as source:
                    if source.response.status_code == 204:
                        return
                    _raise_for(source.response)
                    for message in source:
                        if message.id:
                            after, waited, attempt = int(message.id), 0.0, 0
                            data = message.json()
                            assert isinstance(data, dict), "the service sends objects"
                            yield Event(message.event, data, after)
            except httpx2.TransportError as error:
                if waited >= self._patience_s:
                    raise self._unreachable(error) from error
            pause = _RECONNECT_S[min(attempt, len(_RECONNECT_S) - 1)]
            self._sleep(pause)
            waited, attempt = waited + pause, attempt + 1

    def wait(self, run_id: str) -> dict[str, Any]:
        """The run when it is over."""
        run = self.run(run_id)
        while run["state"] not in TERMINAL:
            for _ in self.events(run_id, run["last_seq"]):
                pass
            run = self.run(run_id)
        return run

    def _pages(self, path: str, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            page = self._json("GET", path, params={**query, **({"cursor": cursor} if cursor else {})})
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _json(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._answer(method, path, **request).json()
        return answer

    def _answer(self, method: str, path: str, **request: Any) -> httpx2.Response:
        try:
            response = self._http.request(method, path, **request)
        except httpx2.TransportError as error:
            raise self._unreachable(error) from error
        _raise_for(response)
        return response

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(f"no evomerge service answers at {self.url} ({error}); `evomerge serve` starts one")


def _raise_for(response: httpx2.Response) -> None:
    if response.status_code < 400:
        return
    response.read()
    try:
        problem = response.json()
    except ValueError:
        problem = {"detail": f"HTTP {response.status_code} from {response.url}: not an evomerge service?"}
    raise ServiceError(response.status_code, problem if isinstance(problem, dict) else {"detail": str(problem)})
