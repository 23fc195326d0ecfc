import { useEffect, useRef, useState } from "react";
import { type Candidate, get, getText, ProblemError, ROOT, type Scores } from "../api";
import { candidateName, compact, duration, interval, number } from "../format";
import { go, withQuery } from "../place";
import { Genome } from "./Genome";
import { Link } from "./Link";
import { State } from "./State";
import { Trouble } from "./Trouble";

interface Props { run: string; place: number; last: number; seq: number; over: boolean }

function useCandidate(run: string, place: number, seq: number) {
  const [candidate, setCandidate] = useState<Candidate | null>(null);
  const [error, setError] = useState<ProblemError | null>(null);
  // A candidate that is not settled yet, or waits to be verified, is read again when the run has moved on.
  useEffect(() => {
    const abort = new AbortController();
    get<Candidate>(`/runs/${run}/candidates/${place}`, abort.signal).then((found) => {
      setCandidate(found);
      setError(null);
    }, (reason: unknown) => {
      if (!abort.signal.aborted && reason instanceof ProblemError) setError(reason);
    });
    return () => abort.abort();
  }, [run, place, seq]);
  return { candidate: candidate?.number === place ? candidate : null, error };
}

/** Everything about one candidate, beside the run's page. */
export function CandidateDrawer({ run, place, last, seq }: Props) {
  const { candidate, error } = useCandidate(run, place, seq);
  const panel = useRef<HTMLElement>(null);
  const close = () => go(withQuery({}, `/runs/${run}`));

  useEffect(() => {
    panel.current?.focus({ preventScroll: true });
  }, [place]);

  const keys = (event: React.KeyboardEvent) => {
    if (event.key === "Escape") close();
    if ((event.target as HTMLElement).closest("input, select, textarea, pre")) return;
    if (event.key === "j" && place < last) go(withQuery({}, `/runs/${run}/candidates/${place + 1}`));
    if (event.key === "k" && place > 0) go(withQuery({}, `/runs/${run}/candidates/${place - 1}`));
  };

  const title = candidate ? candidateName(candidate.kind, candidate.label, place) : `candidate ${place}`;
  return (
    <aside className="drawer" role="dialog" aria-label={title} ref={panel} tabIndex={-1} onKeyDown={keys} data-testid="candidate">
      <div className="title-row">
        <h2>{title.charAt(0).toUpperCase() + title.slice(1)}</h2>
        {candidate && <State state={candidate.state} />}
        {candidate?.on_front && <span className="badge">front</span>}
        <span className="push steps">
          {place > 0 && <Link to={withQuery({}, `/runs/${run}/candidates/${place - 1}`)} label="previous candidate" title="previous (k)" className="button quiet">←</Link>}
          {place < last && <Link to={withQuery({}, `/runs/${run}/candidates/${place + 1}`)} label="next candidate" title="next (j)" className="button quiet">→</Link>}
          <button className="quiet" onClick={close} aria-label="Close" title="close (Esc)">✕</button>
        </span>
      </div>
      {error && <Trouble error={error} />}
      {candidate && <Content run={run} candidate={candidate} />}
    </aside>
  );
}

function Content({ run, candidate }: { run: string; candidate: Candidate }) {
  const base = `${ROOT}/runs/${run}/candidates/${candidate.number}/recipe`;
  return (
    <>
      {candidate.failure && (
        <div className="trouble" role="alert">
          <strong>{candidate.failure.reason.replaceAll("_", " ")}</strong>
          <p>{candidate.failure.message}</p>
        </div>
      )}
      <ScoreTable candidate={candidate} />
      <h3>Merge</h3>
      <Genome recipe={candidate.recipe} />
      <h3>Recipe</h3>
      <div className="actions">
        <a className="button" href={`${base}?format=yaml`} download>YAML</a>
        <a className="button" href={`${base}?format=json`} download>JSON</a>
        <MergekitButton run={run} candidate={candidate} />
      </div>
      <RecipeText run={run} candidate={candidate} />
      <h3>Evaluation</h3>
      <dl className="facts">
        {candidate.kind === "search" && <div><dt>generation</dt><dd>{candidate.generation}</dd></div>}
        {Object.entries(candidate.seconds).map(([phase, seconds]) => <div key={phase}><dt>{phase}</dt><dd>{duration(seconds)}</dd></div>)}
        {candidate.worker && <div><dt>worker</dt><dd>{candidate.worker}</dd></div>}
        <div><dt>attempts</dt><dd>{candidate.attempts}</dd></div>
        {candidate.cached && <div><dt>scored before</dt><dd>yes</dd></div>}
        <div><dt>digest</dt><dd className="mono" title={candidate.digest}>{candidate.digest.slice(0, 16)}</dd></div>
      </dl>
    </>
  );
}

function ScoreTable({ candidate }: { candidate: Candidate }) {
  const { search, holdout } = candidate.verified;
  const columns = ([["subset", candidate.scores], ["all search items", search], ["holdout", holdout]] as const)
    .filter(([, scores]) => scores && Object.keys(scores).length > 0) as [string, Scores][];
  const names = [...new Set(columns.flatMap(([, scores]) => Object.keys(scores)))];
  if (names.length === 0) return <p className="muted">Not scored{candidate.state === "failed" ? "" : " yet"}.</p>;
  return (
    <div className="scroll">
      <table className="scores" data-testid="scores">
        <thead><tr><th>Score</th>{columns.map(([split]) => <th key={split} className="number">{split}</th>)}</tr></thead>
        <tbody>
          {names.map((name) => (
            <tr key={name}>
              <th scope="row">{name}</th>
              {columns.map(([split, scores]) => {
                const score = scores[name];
                return (
                  <td key={split} className="number">
                    {!score ? "–" : score.n === 0 ? compact(score.mean) : <>{number(score.mean)} <span className="muted">± {number(score.se)}</span></>}
                    {score && score.n > 0 && <div className="muted small">{score.n} items{interval(score) && `, ${interval(score)}`}</div>}
                  </td>
                );
              })}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** mergekit cannot say everything that a recipe can: its answer is fetched first, so that an error can be shown. */
function MergekitButton({ run, candidate }: { run: string; candidate: Candidate }) {
  const [error, setError] = useState<ProblemError | null>(null);
  const download = () => {
    getText(`/runs/${run}/candidates/${candidate.number}/recipe?format=mergekit`).then((text) => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([text], { type: "application/yaml" }));
      link.download = `candidate-${candidate.number}.mergekit.yaml`;
      link.click();
      URL.revokeObjectURL(link.href);
      setError(null);
    }, (reason: unknown) => setError(reason instanceof ProblemError ? reason : null));
  };
  return (
    <>
      <button onClick={download}>mergekit</button>
      {error && <Trouble error={error} />}
    </>
  );
}

function RecipeText({ run, candidate }: { run: string; candidate: Candidate }) {
  const [text, setText] = useState("…");
  const settled = JSON.stringify(candidate.verified);
  useEffect(() => {
    const abort = new AbortController();
    getText(`/runs/${run}/candidates/${candidate.number}/recipe?format=yaml`, abort.signal)
      .then(setText, () => undefined); // the buttons above show what is wrong
    return () => abort.abort();
  }, [run, candidate.number, settled]);
  return <pre className="recipe" tabIndex={0} aria-label="recipe as YAML" data-testid="recipe">{text}</pre>;
}
