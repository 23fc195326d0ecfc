import { useEffect, useState } from "react";
import { type CandidateListed, get, type Page, ProblemError } from "../api";
import { baselineName, withError } from "../format";
import { setQuery, useQuery, withQuery } from "../place";
import { useThrottled } from "../throttled";
import { Link } from "./Link";
import { State } from "./State";
import { Trouble } from "./Trouble";

const PAGE = 50;
const REFRESH_MS = 1500;

interface Props { run: string; names: string[]; seq: number; chosen: number | null }

/** Candidates, filtered and sorted by the service; what is asked for stands in the address. */
export function CandidateTable({ run, names, seq, chosen }: Props) {
  const query = useQuery();
  const path = `/runs/${run}/candidates?${serverQuery(query, names)}`;
  const pages = Math.max(Number(query.get("pages")) || 1, 1);
  const { rows, more, error } = useCandidates(path, pages, seq);
  const sort = query.get("sort") ?? "number";

  return (
    <section aria-labelledby="candidates-title">
      <div className="title-row">
        <h2 id="candidates-title">Candidates</h2>
        <Filters names={names} query={query} />
      </div>
      {error && <Trouble error={error} />}
      <div className="scroll">
        <table className="candidates" data-testid="candidates">
          <thead>
            <tr>
              <SortHeader label="Candidate" field="number" sort={sort} />
              <th>State</th>
              <th className="number">Generation</th>
              {names.map((name) => <SortHeader key={name} label={name} field={`score:${name}`} sort={sort} numeric />)}
              <th>Notes</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => <CandidateRow key={row.number} run={run} row={row} names={names} chosen={row.number === chosen} />)}
          </tbody>
        </table>
      </div>
      {rows.length === 0 && !error && <p className="empty">No candidate fits.</p>}
      {more && <button onClick={() => setQuery({ pages: String(pages + 1) })}>Show more</button>}
    </section>
  );
}

function serverQuery(query: URLSearchParams, names: string[]): string {
  const asked = new URLSearchParams({ limit: String(PAGE) });
  for (const key of ["sort", "state", "kind", "front", ...names.map((name) => `min.${name}`)]) {
    const value = query.get(key);
    if (value) asked.set(key, value);
  }
  return asked.toString();
}

/** The first pages, read again when the run has moved on, but not more often than a person can follow. */
function useCandidates(path: string, pages: number, seq: number) {
  const [rows, setRows] = useState<CandidateListed[]>([]);
  const [more, setMore] = useState(false);
  const [error, setError] = useState<ProblemError | null>(null);
  const tick = useThrottled(seq, REFRESH_MS);

  useEffect(() => {
    const abort = new AbortController();
    readPages(path, pages, abort.signal).then(([found, rest]) => {
      setRows(found);
      setMore(rest);
      setError(null);
    }, (reason: unknown) => {
      if (!abort.signal.aborted && reason instanceof ProblemError) setError(reason);
    });
    return () => abort.abort();
  }, [path, pages, tick]);
  return { rows, more, error };
}

async function readPages(path: string, pages: number, signal: AbortSignal): Promise<[CandidateListed[], boolean]> {
  const rows: CandidateListed[] = [];
  let cursor: string | null = null;
  for (let page = 0; page < pages; page++) {
    const found: Page<CandidateListed> = await get(cursor ? `${path}&cursor=${encodeURIComponent(cursor)}` : path, signal);
    rows.push(...found.items);
    cursor = found.next_cursor;
    if (!cursor) break;
  }
  return [rows, cursor !== null];
}

function Filters({ names, query }: { names: string[]; query: URLSearchParams }) {
  const choose = (key: string) => (event: { target: { value: string } }) => setQuery({ [key]: event.target.value, pages: null });
  return (
    <form className="filters" role="search" aria-label="Filter candidates" onSubmit={(event) => event.preventDefault()}>
      <label>State
        <select value={query.get("state") ?? ""} onChange={choose("state")}>
          <option value="">all</option>
          {["proposed", "running", "scored", "failed", "cancelled"].map((one) => <option key={one}>{one}</option>)}
        </select>
      </label>
      <label>Kind
        <select value={query.get("kind") ?? ""} onChange={choose("kind")}>
          <option value="">all</option>
          <option value="search">search</option>
          <option value="baseline">baseline</option>
        </select>
      </label>
      {names.map((name) => (
        <label key={name}>{name} ≥
          <input type="number" step="any" value={query.get(`min.${name}`) ?? ""} onChange={choose(`min.${name}`)} aria-label={`least ${name}`} />
        </label>
      ))}
      <label className="check">
        <input type="checkbox" checked={query.get("front") === "true"} onChange={(event) => setQuery({ front: event.target.checked ? "true" : null, pages: null })} />
        on the front
      </label>
    </form>
  );
}

function SortHeader({ label, field, sort, numeric = false }: { label: string; field: string; sort: string; numeric?: boolean }) {
  const direction = sort === field ? "ascending" : sort === `-${field}` ? "descending" : "none";
  // Scores are looked at from the best down, numbers from the first up.
  const first = numeric ? `-${field}` : field;
  const next = sort === first ? (numeric ? field : `-${field}`) : first;
  return (
    <th aria-sort={direction} className={numeric ? "number" : undefined}>
      <button className="sort" onClick={() => setQuery({ sort: next, pages: null })}>
        {label}<span aria-hidden="true">{direction === "ascending" ? " ↑" : direction === "descending" ? " ↓" : ""}</span>
      </button>
    </th>
  );
}

function CandidateRow({ run, row, names, chosen }: { run: string; row: CandidateListed; names: string[]; chosen: boolean }) {
  const notes = [];
  if (row.cached) notes.push("scored before");
  if (row.attempts > 1) notes.push(`${row.attempts} attempts`);
  if (row.violation > 0) notes.push("misses a constraint");
  if (row.failure) notes.push(row.failure.reason.replaceAll("_", " "));
  return (
    <tr className={chosen ? "chosen" : undefined} aria-selected={chosen}>
      <td>
        <Link to={withQuery({}, `/runs/${run}/candidates/${row.number}`)} className="name">
          {row.kind === "baseline" ? baselineName(row.label) : row.number}
        </Link>
        {row.on_front && <span className="badge">front</span>}
      </td>
      <td><State state={row.state} /></td>
      <td className="number">{row.kind === "search" ? row.generation : ""}</td>
      {names.map((name) => <td key={name} className="number">{withError(row.scores[name])}</td>)}
      <td className="muted small">{notes.join(" · ")}</td>
    </tr>
  );
}
