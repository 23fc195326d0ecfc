import { useEffect, useMemo, useState } from "react";
import { command, isOver, type Objective, ProblemError, ROOT, type Verb } from "../api";
import { Chart } from "../charts/Chart";
import { useColours } from "../charts/colours";
import { bestCourse, hypervolumeCourse } from "../charts/course";
import { scatter } from "../charts/scatter";
import { ago, baselineName, exactTime, number, withError } from "../format";
import { type LiveRun, useLiveRun } from "../live";
import { CandidateDrawer } from "../parts/CandidateDrawer";
import { CandidateTable } from "../parts/CandidateTable";
import { Link } from "../parts/Link";
import { ResultTable } from "../parts/ResultTable";
import { Progress, State } from "../parts/State";
import { Trouble } from "../parts/Trouble";
import { type Preview, usePreview } from "../parts/usePreview";
import { go, setQuery, useQuery, withQuery } from "../place";
import { useThrottled } from "../throttled";

export function RunPage({ id, candidate }: { id: string; candidate: number | null }) {
  const { live, error, version, refresh } = useLiveRun(id);
  const seq = useThrottled(live?.points.last_seq ?? 0, 1500);

  useEffect(() => {
    if (live) document.title = `${live.run.name} · evomerge`;
  }, [live]);

  if (error) return <section className="narrow"><h1>Run {id}</h1><Trouble error={error} /><Link to="/">All runs</Link></section>;
  if (!live) return <p className="empty" aria-busy="true">Loading the run…</p>;
  const { objectives, constraints = [] } = live.run.spec;
  const names = [...objectives, ...constraints].map((one) => one.name);
  return (
    <div className={candidate === null ? "run" : "run with-drawer"} data-testid="run" data-seq={live.points.last_seq}>
      <div className="run-main">
        <RunHeader live={live} refresh={refresh} />
        {live.result && <ResultTable run={id} result={live.result} objectives={objectives} />}
        <Pictures live={live} version={version} objectives={objectives} candidate={candidate} />
        <CandidateTable run={id} names={names} seq={live.points.last_seq} chosen={candidate} />
      </div>
      {candidate !== null && (
        <CandidateDrawer run={id} place={candidate} last={live.points.number.length - 1} seq={seq} over={isOver(live.run.state)} />
      )}
    </div>
  );
}

function RunHeader({ live, refresh }: { live: LiveRun; refresh: () => void }) {
  const { run } = live;
  const over = isOver(run.state);
  const budget = run.summary.budget ?? run.spec.budget?.candidates ?? 0;
  const [scored, failed, running] = [live.count("scored"), live.count("failed"), live.count("running")];
  return (
    <section aria-label="Run">
      <div className="title-row">
        <h1>{run.name}</h1>
        <State state={run.state} testid="run-state" />
        {run.pending.length > 0 && !over && <span className="muted small">asked to {run.pending.at(-1)}</span>}
        {!over && <Connection connected={live.connected} />}
        <Controls live={live} refresh={refresh} />
      </div>
      <p className="muted small facts-line">
        <span className="mono">{run.id}</span>
        <span title={exactTime(run.created)}>created {ago(run.created)}</span>
        <Link to={`/new?from=${run.id}`}>use as a template</Link>
        <Link to={`/runs/${run.id}/items`}>what its items say</Link>
        {run.spec.objectives.length > 1 && <Link to={`/runs/${run.id}/elites`}>elites</Link>}
      </p>
      {run.summary.note && <p className="muted small">{run.summary.note}</p>}
      {run.reason && <p className={run.state === "failed" ? "reason bad" : "reason"}>{run.reason}</p>}
      <div className="progress-row">
        <Progress done={scored + failed} total={budget} label={`${scored + failed} of ${budget} candidates`} />
        <span className="number" data-testid="progress">
          {scored} scored{failed > 0 && `, ${failed} failed`} of {budget}{!over && running > 0 && `, ${running} running`}
        </span>
        {run.state === "verifying" && <span className="muted">verifying the best on all search and holdout items</span>}
      </div>
      <Figures live={live} />
    </section>
  );
}

function Connection({ connected }: { connected: boolean }) {
  return <span className={connected ? "connection on" : "connection"} role="status" data-testid="connection">{connected ? "live" : "reconnecting…"}</span>;
}

const LABELS: Record<Verb, [string, string]> = {
  pause: ["Pause", "No new candidates; those that run are finished"],
  resume: ["Resume", "Go on"],
  stop: ["Stop", "End the search now, verify the best and keep the result"],
  cancel: ["Cancel", "End at once; nothing is verified"],
};

function Controls({ live, refresh }: { live: LiveRun; refresh: () => void }) {
  const { run } = live;
  const [error, setError] = useState<ProblemError | null>(null);
  const verbs: Verb[] = isOver(run.state) ? []
    : [run.state === "paused" ? "resume" : "pause", "stop", "cancel"];
  const usable = (verb: Verb) => !run.pending.includes(verb)
    && !(verb === "pause" && !["starting", "running"].includes(run.state))
    && !(verb === "stop" && !["starting", "running", "paused"].includes(run.state));
  const ask = (verb: Verb) => {
    if (verb === "cancel" && !window.confirm("Cancel this run? What runs now is dropped and nothing is verified.")) return;
    command(run.id, verb).then(() => {
      setError(null);
      refresh();
    }, (reason: unknown) => setError(reason instanceof ProblemError ? reason : null));
  };
  const best = Object.keys(run.summary.best ?? {}).length > 0 || live.result;
  return (
    <div className="actions push" role="group" aria-label="Control">
      {verbs.map((verb) => (
        <button key={verb} title={LABELS[verb][1]} disabled={!usable(verb)} onClick={() => ask(verb)}>{LABELS[verb][0]}</button>
      ))}
      {best && (
        <a className="button primary" href={`${ROOT}/runs/${run.id}/best/recipe?format=yaml`} download data-testid="download-best">
          {live.result ? "Download winner" : "Download best so far"}
        </a>
      )}
      {error && <Trouble error={error} />}
    </div>
  );
}

const BELIEVED = "The best of many scores is partly luck. This is the most that is believed of any candidate in the light of all the others.";

/** The few numbers that one looks for first. */
function Figures({ live }: { live: LiveRun }) {
  const { best = {}, believed = {}, hypervolume, front = [] } = live.run.summary;
  const { objectives } = live.run.spec;
  return (
    <dl className="figures">
      {objectives.map(({ name, direction }) => (
        <div key={name}>
          <dt>best {name}{direction === "minimize" && " (smaller is better)"}</dt>
          <dd data-testid={`best-${name}`}>
            {withError(best[name])}
            {best[name] && <Link to={withQuery({}, `/runs/${live.run.id}/candidates/${best[name].number}`)} className="small">candidate {best[name].number}</Link>}
            {believed[name] && <span className="small muted" title={BELIEVED} data-testid={`believed-${name}`}>believed {number(believed[name].mean)} ± {number(believed[name].se)}</span>}
          </dd>
        </div>
      ))}
      <Baseline live={live} objectives={objectives} />
      {objectives.length > 1 && <div><dt>on the front</dt><dd>{front.length}</dd></div>}
      {objectives.length > 1 && <div><dt>hypervolume</dt><dd>{number(hypervolume)}</dd></div>}
    </dl>
  );
}

/** The strongest baseline in the first objective: what has to be beaten. */
function Baseline({ live, objectives }: { live: LiveRun; objectives: Objective[] }) {
  const { points } = live;
  const { name, direction } = objectives[0]!;
  const sign = direction === "maximize" ? 1 : -1;
  let strongest: number | null = null;
  points.kind.forEach((kind, row) => {
    const score = points.scores[name]?.[row];
    if (kind !== "baseline" || score == null) return;
    if (strongest === null || sign * score > sign * points.scores[name]![strongest]!) strongest = row;
  });
  if (strongest === null) return null;
  return <div><dt>best baseline, {name}</dt><dd>{number(points.scores[name]?.[strongest])} <span className="small muted">{baselineName(points.label[strongest]!)}</span></dd></div>;
}

interface PicturesProps { live: LiveRun; version: number; objectives: Objective[]; candidate: number | null }

function Pictures({ live, version, objectives, candidate }: PicturesProps) {
  const query = useQuery();
  const colours = useColours();
  const x = objectives.find((one) => one.name === query.get("x")) ?? objectives[0]!;
  const y = objectives.length < 2 ? null : (objectives.find((one) => one.name === query.get("y") && one !== x) ?? objectives.find((one) => one !== x)!);
  const scored = live.count("scored");
  const predicting = y !== null && query.get("predicted") === "1";
  const preview = usePreview(live.run.id, predicting, scored);
  const main = useMemo(() => scatter(live, x, y, candidate, colours, preview), [live, x.name, y?.name, candidate, colours, version, preview]);
  const best = useMemo(() => bestCourse(live.history, objectives.map((one) => one.name), scored, colours), [live, colours, version]);
  const volume = useMemo(() => hypervolumeCourse(live.history, scored, colours), [live, colours, version]);
  const open = (place: number) => go(withQuery({}, `/runs/${live.run.id}/candidates/${place}`));
  return (
    <div className="pictures">
      <figure className="panel main-picture">
        <figcaption>
          <strong>{y ? `${y.name} against ${x.name}` : `${x.name} of every candidate`}</strong>
          <Legend two={y !== null} />
          {y && (
            <label className="inline">
              <input type="checkbox" checked={predicting} onChange={(event) => setQuery({ predicted: event.target.checked ? "1" : null })} /> predicted front
            </label>
          )}
          {objectives.length > 2 && <AxisChoice objectives={objectives} x={x} y={y!} />}
        </figcaption>
        <Chart option={main} label={`${scored} scored candidates, ${live.run.summary.front?.length ?? 0} on the front; the table below has the same numbers`} className="tall" testid="scatter" onPick={open} />
        {preview && <Prediction preview={preview} />}
      </figure>
      <figure className="panel">
        <figcaption><strong>Best so far</strong>{objectives.length > 1 && <LineLegend names={objectives.map((one) => one.name)} />}</figcaption>
        <Chart option={best} label="best score of each objective by candidates scored" className="low" testid="best-course" />
      </figure>
      <figure className="panel">
        <figcaption><strong>Hypervolume</strong></figcaption>
        <Chart option={volume} label={`hypervolume by candidates scored, now ${number(live.run.summary.hypervolume)}`} className="low" testid="hypervolume-course" />
      </figure>
    </div>
  );
}

/** What the predicted front rests on, or why there is none. */
function Prediction({ preview }: { preview: Preview }) {
  const errors = Object.entries(preview.errors).map(([name, error]) => `${name} by ${number(error)}`).join(", ");
  return (
    <p className="muted small" data-testid="prediction">
      {preview.reason === null
        ? `${preview.points.length} mixtures that quadratics of the genes, fitted to ${preview.answers} candidates, predict to be the front. None of them was tried; good candidates are missed ${errors}, on average.`
        : `No predicted front: ${preview.reason}.`}
    </p>
  );
}

function Legend({ two }: { two: boolean }) {
  return (
    <span className="legend small muted">
      <span className="key key-front">{two ? "front" : "best"}</span>
      <span className="key key-point">other candidates</span>
      <span className="key key-baseline">baselines</span>
    </span>
  );
}

function LineLegend({ names }: { names: string[] }) {
  return <span className="legend small muted">{names.map((name, index) => <span key={name} className={`dash dash-${index % 4}`}>{name}</span>)}</span>;
}

function AxisChoice({ objectives, x, y }: { objectives: Objective[]; x: Objective; y: Objective }) {
  const choice = (key: "x" | "y", value: Objective, other: Objective) => (
    <label className="inline">{key}
      <select value={value.name} onChange={(event) => setQuery({ [key]: event.target.value })}>
        {objectives.filter((one) => one !== other).map((one) => <option key={one.name}>{one.name}</option>)}
      </select>
    </label>
  );
  return <span className="push">{choice("x", x, y)} {choice("y", y, x)}</span>;
}
