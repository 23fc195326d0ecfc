import { useEffect, useState } from "react";
import { get, isOver, type Page, ProblemError, type RunListed } from "../api";
import { ago, exactTime, withError } from "../format";
import { Link } from "../parts/Link";
import { Progress, State } from "../parts/State";
import { Trouble } from "../parts/Trouble";
import { setQuery, useQuery } from "../place";

const POLL_MS = 2000;
const STATES = ["queued", "starting", "running", "paused", "stopping", "verifying", "succeeded", "failed", "cancelled"];

/** The newest runs, read again while the page is seen. */
function useRuns(state: string, limit: number) {
  const [page, setPage] = useState<Page<RunListed> | null>(null);
  const [error, setError] = useState<ProblemError | null>(null);

  useEffect(() => {
    const abort = new AbortController();
    let timer: ReturnType<typeof setTimeout>;
    const read = () => {
      if (document.hidden) return;
      get<Page<RunListed>>(`/runs?limit=${limit}${state && `&state=${state}`}`, abort.signal).then((found) => {
        setPage(found);
        setError(null);
      }, (reason: unknown) => {
        if (!abort.signal.aborted && reason instanceof ProblemError) setError(reason);
      }).finally(() => {
        if (!abort.signal.aborted) timer = setTimeout(read, POLL_MS);
      });
    };
    const seen = () => {
      clearTimeout(timer);
      read();
    };
    read();
    document.addEventListener("visibilitychange", seen);
    return () => {
      abort.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [state, limit]);
  return { page, error };
}

export function Runs() {
  const query = useQuery();
  const state = query.get("state") ?? "";
  const limit = Math.min(Number(query.get("limit")) || 50, 500);
  const { page, error } = useRuns(state, limit);

  useEffect(() => {
    document.title = "Runs · evomerge";
  }, []);

  return (
    <section>
      <div className="title-row">
        <h1>Runs</h1>
        <label className="inline">State
          <select value={state} onChange={(event) => setQuery({ state: event.target.value })}>
            <option value="">all</option>
            {STATES.map((one) => <option key={one}>{one}</option>)}
          </select>
        </label>
        <Link to="/new" className="button primary push">New search</Link>
      </div>
      {error && <Trouble error={error} />}
      {page && page.items.length === 0 && <NoRuns filtered={state !== ""} />}
      {page && page.items.length > 0 && <RunTable runs={page.items} />}
      {page?.next_cursor && limit < 500 && (
        <button onClick={() => setQuery({ limit: String(Math.min(limit + 100, 500)) })}>Show more</button>
      )}
    </section>
  );
}

function NoRuns({ filtered }: { filtered: boolean }) {
  if (filtered) return <p className="empty">No run is in this state.</p>;
  return (
    <div className="empty">
      <p>No run yet.</p>
      <p>A search merges the models that this service knows and looks for the mix that scores best.</p>
      <Link to="/new" className="button">Describe the first one</Link>
    </div>
  );
}

function RunTable({ runs }: { runs: RunListed[] }) {
  return (
    <div className="scroll">
      <table className="runs">
        <thead>
          <tr><th>Run</th><th>State</th><th>Progress</th><th>Best so far</th><th>Created</th></tr>
        </thead>
        <tbody>{runs.map((run) => <RunRow key={run.id} run={run} />)}</tbody>
      </table>
    </div>
  );
}

function RunRow({ run }: { run: RunListed }) {
  const { budget = 0, scored = 0, failed = 0, best = {} } = run.summary;
  const done = scored + failed;
  return (
    <tr>
      <td>
        <Link to={`/runs/${run.id}`} className="name">{run.name}</Link>
        <div className="muted small mono">{run.id}</div>
      </td>
      <td>
        <State state={run.state} />
        {run.reason && run.state !== "succeeded" && <div className="muted small reason">{run.reason}</div>}
      </td>
      <td>
        {!isOver(run.state) && budget > 0 && <Progress done={done} total={budget} label={`${done} of ${budget} candidates`} />}
        <div className="small number">{budget > 0 ? <>{done} of {budget}{failed > 0 && `, ${failed} failed`}</> : <span className="muted">waits to be taken up</span>}</div>
      </td>
      <td className="number">
        {Object.entries(best).map(([name, score]) => (
          <div key={name}><span className="muted">{name}</span> {withError(score)}</div>
        ))}
      </td>
      <td className="small" title={exactTime(run.created)}>{ago(run.created)}</td>
    </tr>
  );
}
