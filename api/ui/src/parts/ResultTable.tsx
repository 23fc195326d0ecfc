import type { Inflation, Objective, Result, ResultRow, Score } from "../api";
import { candidateName, number, signed } from "../format";
import { withQuery } from "../place";
import { Link } from "./Link";

interface Props { run: string; result: Result; objectives: Objective[] }

/** What the search found, on items that it never saw, beside every model it started from. */
export function ResultTable({ run, result, objectives }: Props) {
  const shown = scoresOf(result, objectives);
  return (
    <section aria-labelledby="result-title" data-testid="result">
      <h2 id="result-title">Result</h2>
      <p className="muted lead">
        Scores with 95 % intervals on holdout items, which the search never saw. The difference is the winner minus that model,
        paired item by item.
      </p>
      {shown.map(({ name, larger }) => <ScoreResult key={name} run={run} result={result} name={name} larger={larger} titled={shown.length > 1} />)}
      <Inflated result={result} objectives={objectives} />
    </section>
  );
}

/** The objectives, then what was only reported beside them (`objective.metric`, larger is better). */
function scoresOf(result: Result, objectives: Objective[]): { name: string; larger: boolean }[] {
  const own = objectives.map(({ name, direction }) => ({ name, larger: direction === "maximize" }));
  const all = new Set(result.table.flatMap((row) => Object.keys(row.holdout ?? row.search ?? {})));
  return [...own, ...[...all].filter((name) => !own.some((one) => one.name === name)).map((name) => ({ name, larger: true }))];
}

/** The best of many noisy scores is too good: by how much. */
function Inflated({ result, objectives }: { result: Result; objectives: Objective[] }) {
  const known = objectives.flatMap(({ name }) => (result.inflation?.[name] ? [[name, result.inflation[name]] as const] : []));
  if (known.length === 0) return null;
  return (
    <p className="muted small">
      What the search had believed of the winner, and what all search items say:{" "}
      {known.map(([name, one]) => `${name} ${believed(one)}, ${number(one.verified)} (${signed(-one.difference)})`).join("; ")}.
    </p>
  );
}

/** Runs from before there were beliefs have the estimate alone. */
const believed = ({ estimate, believed: mean, se }: Inflation) =>
  mean === undefined ? number(estimate) : `${number(mean)} ± ${number(se)} (the score on its own few items was ${number(estimate)})`;

interface ScoreProps { run: string; result: Result; name: string; larger: boolean; titled: boolean }

function ScoreResult({ run, result, name, larger, titled }: ScoreProps) {
  const shown = result.table.map((row) => ({ row, score: row.holdout?.[name] ?? row.search?.[name] ?? null }));
  const range = spread(shown.flatMap(({ score }) => (score ? [score.low ?? score.mean, score.high ?? score.mean] : [])));
  const paired = new Map(result.paired.filter((one) => one.objective === name).map((one) => [one.against, one]));
  const winner = (row: ResultRow) => (result.winners ?? [result.winner]).includes(row.number);
  return (
    <div className="scroll">
      <table className="result">
        {titled && <caption>{name}</caption>}
        <thead>
          <tr>
            <th>Model</th><th className="number">search items</th><th className="number">holdout</th>
            <th className="interval"><Axis range={range} /></th><th className="number">difference</th>
          </tr>
        </thead>
        <tbody>
          {[...shown].sort((a, b) => order(larger, a.score) - order(larger, b.score)).map(({ row, score }) => {
            const difference = paired.get(row.label);
            return (
              <tr key={row.number} className={winner(row) ? "winner" : undefined}>
                <th scope="row">
                  <Link to={withQuery({}, `/runs/${run}/candidates/${row.number}`)} className="name">{candidateName(row.kind, row.label, row.number)}</Link>
                  {winner(row) && <span className="badge">{row.number === result.winner ? "winner" : "front"}</span>}
                </th>
                <td className="number">{number(row.search?.[name]?.mean)}</td>
                <td className="number">{number(row.holdout?.[name]?.mean)}</td>
                <td className="interval">{score && <Interval score={score} range={range} strong={winner(row)} />}</td>
                <td className="number">
                  {difference && <>{signed(difference.difference)} <span className="muted small">{signed(difference.low)} to {signed(difference.high)}</span></>}
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

const order = (larger: boolean, score: Score | null) => (score === null ? Infinity : larger ? -score.mean : score.mean);

type Range = [number, number];
const WIDTH = 220;

function spread(values: number[]): Range {
  if (values.length === 0) return [0, 1];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = (high - low) * 0.06 || 0.05;
  return [low - margin, high + margin];
}

const at = (value: number, [low, high]: Range) => ((value - low) / (high - low)) * WIDTH;

function Axis({ range }: { range: Range }) {
  return (
    <span className="axis"><span>{number(range[0], 2)}</span><span>{number(range[1], 2)}</span></span>
  );
}

function Interval({ score, range, strong }: { score: Score; range: Range; strong: boolean }) {
  const [low, high] = [score.low ?? score.mean, score.high ?? score.mean];
  return (
    <svg viewBox={`0 0 ${WIDTH} 16`} className={strong ? "strong" : undefined} role="img" aria-label={`${number(score.mean)}, ${number(low)} to ${number(high)}`}>
      <title>{`${number(score.mean)} (${number(low)} to ${number(high)}), ${score.n} items`}</title>
      <line x1={at(low, range)} x2={at(high, range)} y1="8" y2="8" />
      <circle cx={at(score.mean, range)} cy="8" r="4" />
    </svg>
  );
}
