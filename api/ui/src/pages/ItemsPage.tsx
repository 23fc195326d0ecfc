import { useEffect } from "react";
import type { Run } from "../api";
import { number, signed } from "../format";
import { Link } from "../parts/Link";
import { Trouble } from "../parts/Trouble";
import { useLoaded } from "../parts/useLoaded";

interface Accuracy { mae: number | null; bias: number | null; tau: number | null; regret: number | null; coverage: number | null }
interface Method { policy: string; estimator: string; n: number; accuracy: Accuracy }
interface Bin { low: number; high: number; count: number; predicted: number | null; observed: number | null }
interface Drift { generation: number; residual: number; z: number; items: number }
interface Gate { open: boolean; method: string; n: number; policy: string; reasons: string[] }
interface Report {
  subjects: number; items: number; constant: string[]; negative: string[]; mean: number; spread: number;
  methods: Method[]; top_quartile: Method[]; reliability: { bins: Bin[]; error: number } | null;
  drift: Drift[]; gates: Gate[]; recommended: { method: string; n: number; reliability: number } | null; stale: boolean;
}
interface RunItems { eval_set: string; metric: string; subjects: number; asked: number | null; report: Report | null; why: string }

/** How well few items tell the full score: what the run's own complete answers say. */
export function ItemsPage({ id }: { id: string }) {
  const { found, error } = useLoaded<{ items: RunItems[] }>(`/runs/${id}/items`);
  const { found: run } = useLoaded<Run>(`/runs/${id}`);
  useEffect(() => {
    document.title = `items of ${run?.name ?? id} · evomerge`;
  }, [run, id]);
  return (
    <section data-testid="items">
      <p className="small"><Link to={`/runs/${id}`}>back to the run</Link></p>
      <h1>Items of {run?.name ?? id}</h1>
      <p className="muted lead">
        Candidates and baselines that answered all search items are a bank: methods that need few items are tried on those that
        were held out of it. Errors are in points of the metric; 100 points are its whole range.
      </p>
      {error && <Trouble error={error} />}
      {!error && !found && <p className="empty" aria-busy="true">Cross-validating…</p>}
      {found?.items.map((one) => <Questions key={`${one.eval_set} ${one.metric}`} one={one} />)}
    </section>
  );
}

function Questions({ one }: { one: RunItems }) {
  const { report } = one;
  return (
    <section className="panel" aria-label={one.eval_set}>
      <h2>{one.eval_set} <span className="muted small">{one.metric}</span></h2>
      <p>
        {one.subjects} subjects answered everything; a candidate answers {one.asked ?? "all"} items.
        {!report && <> No report yet: {one.why}.</>}
      </p>
      {report && <Found report={report} asked={one.asked} />}
    </section>
  );
}

function Found({ report, asked }: { report: Report; asked: number | null }) {
  const gate = report.gates.find((one) => one.n === asked) ?? report.gates[0];
  return (
    <>
      {report.stale && <p className="reason bad">The latest candidates answer unlike the bank: what is learnt from it may mislead.</p>}
      {report.recommended && (
        <p data-testid="recommended">
          Recommended: <strong>{report.recommended.method}</strong> with <strong>{report.recommended.n}</strong> items.
        </p>
      )}
      {gate && (
        <p className="muted small">
          Models {gate.open ? "may" : "may not"} screen candidates with {gate.n} items: {gate.reasons.join("; ")}.
        </p>
      )}
      <Defects what="all subjects answer alike" ids={report.constant} />
      <Defects what="better subjects answer worse (wrong labels?)" ids={report.negative} />
      <div className="pictures">
        <figure className="panel">
          <figcaption><strong>Reliability</strong> <span className="muted small">of predicted chances</span></figcaption>
          {report.reliability ? <Diagram bins={report.reliability.bins} error={report.reliability.error} /> : <p className="muted">none for unbounded metrics</p>}
        </figure>
        <figure className="panel">
          <figcaption><strong>Drift</strong> <span className="muted small">answers against the bank's prediction, in standard errors</span></figcaption>
          {report.drift.length ? <Course drift={report.drift} /> : <p className="muted">no generations yet</p>}
        </figure>
      </div>
      <Methods title="Held out of the bank, fold by fold" methods={report.methods} />
      {report.top_quartile.length > 0 && <Methods title="The best quarter, predicted from the others" methods={report.top_quartile} />}
    </>
  );
}

function Defects({ what, ids }: { what: string; ids: string[] }) {
  if (ids.length === 0) return null;
  return <p className="small">{ids.length} items that {what}: <span className="mono">{ids.slice(0, 8).join(", ")}{ids.length > 8 && " …"}</span></p>;
}

const points = (value: number | null) => number(value === null ? null : 100 * value, 1);

function Methods({ title, methods }: { title: string; methods: Method[] }) {
  return (
    <div className="scroll">
      <table data-testid="methods">
        <caption>{title}</caption>
        <thead>
          <tr>
            <th>Estimator</th><th>Items</th><th className="number">n</th><th className="number">mean error</th><th className="number">bias</th>
            <th className="number">Kendall's tau</th><th className="number">regret</th><th className="number">90 % interval covers</th>
          </tr>
        </thead>
        <tbody>
          {methods.map(({ estimator, policy, n, accuracy }) => (
            <tr key={`${estimator} ${policy} ${n}`}>
              <th scope="row">{estimator}</th><td>{policy}</td><td className="number">{n}</td><td className="number">{points(accuracy.mae)}</td>
              <td className="number">{accuracy.bias === null ? "–" : signed(100 * accuracy.bias, 1)}</td><td className="number">{number(accuracy.tau, 2)}</td>
              <td className="number">{points(accuracy.regret)}</td><td className="number">{number(accuracy.coverage, 2)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const SIZE = 180;
const MARGIN = 24;
const at = (value: number) => MARGIN + value * (SIZE - 2 * MARGIN);

function Diagram({ bins, error }: { bins: Bin[]; error: number }) {
  const most = Math.max(...bins.map((bin) => bin.count), 1);
  return (
    <svg viewBox={`0 0 ${SIZE} ${SIZE}`} className="diagram" role="img" aria-label={`observed by predicted chance; expected calibration error ${number(error)}`}>
      <line x1={at(0)} y1={SIZE - at(0)} x2={at(1)} y2={SIZE - at(1)} className="guide" />
      {bins.map((bin) => bin.predicted !== null && bin.observed !== null && (
        <circle key={bin.low} cx={at(bin.predicted)} cy={SIZE - at(bin.observed)} r={2 + 5 * Math.sqrt(bin.count / most)}>
          <title>{`predicted ${number(bin.predicted, 2)}, observed ${number(bin.observed, 2)}, ${bin.count} answers`}</title>
        </circle>
      ))}
      <text x={SIZE / 2} y={SIZE - 4} textAnchor="middle">predicted; calibration error {number(error, 2)}</text>
    </svg>
  );
}

function Course({ drift }: { drift: Drift[] }) {
  const most = Math.max(4, ...drift.map((one) => Math.abs(one.z)));
  const x = (place: number) => at(drift.length < 2 ? 0.5 : place / (drift.length - 1));
  const y = (z: number) => SIZE / 2 - (z / most) * (SIZE / 2 - MARGIN);
  return (
    <svg viewBox={`0 0 ${SIZE} ${SIZE}`} className="diagram" role="img" aria-label={`drift over ${drift.length} generations`}>
      {[-3, 0, 3].map((z) => <line key={z} x1={at(0)} x2={at(1)} y1={y(z)} y2={y(z)} className="guide" />)}
      {drift.map((one, place) => (
        <circle key={one.generation} cx={x(place)} cy={y(one.z)} r="3">
          <title>{`generation ${one.generation}: ${signed(one.residual)}, ${signed(one.z, 1)} standard errors, ${one.items} items`}</title>
        </circle>
      ))}
      <text x={SIZE / 2} y={SIZE - 4} textAnchor="middle">generations; lines at ±3</text>
    </svg>
  );
}
