import { useEffect } from "react";
import type { Run } from "../api";
import { compact } from "../format";
import { Link } from "../parts/Link";
import { Trouble } from "../parts/Trouble";
import { useLoaded } from "../parts/useLoaded";
import { withQuery } from "../place";

interface Axis { objective: string; low: number; high: number }
interface Cell { bins: number[]; number: number; quality: number }
interface Grid { quality: string; axes: Axis[]; coverage: number; cells: Cell[] }
interface Elites { bins: number; grids: Grid[] }

/** The best candidate at each objective, for each level of the others (a quality-diversity view of what was scored). */
export function ElitesPage({ id }: { id: string }) {
  const { found, error } = useLoaded<Elites>(`/runs/${id}/elites?bins=10`);
  const { found: run } = useLoaded<Run>(`/runs/${id}`);
  useEffect(() => {
    document.title = `elites of ${run?.name ?? id} · evomerge`;
  }, [run, id]);
  return (
    <section data-testid="elites">
      <p className="small"><Link to={`/runs/${id}`}>back to the run</Link></p>
      <h1>Elites of {run?.name ?? id}</h1>
      <p className="muted lead">For each objective, the best feasible candidate at each level of the others.</p>
      {error && <Trouble error={error} />}
      {found?.grids.map((grid) => <Map key={grid.quality} run={id} grid={grid} bins={found.bins} />)}
    </section>
  );
}

const CELL = 46;

function Map({ run, grid, bins }: { run: string; grid: Grid; bins: number }) {
  const [first, second] = grid.axes;
  const values = grid.cells.map((cell) => cell.quality);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const share = (value: number) => (high > low ? (value - low) / (high - low) : 1);
  const rows = second ? bins : 1;
  if (grid.axes.length > 2) return <List run={run} grid={grid} />;
  return (
    <figure className="panel">
      <figcaption>
        <strong>{grid.quality}</strong> <span className="muted small">{Math.round(100 * grid.coverage)} % of the cells have a candidate</span>
      </figcaption>
      <svg viewBox={`0 0 ${bins * CELL} ${rows * CELL}`} className="elites" role="group" aria-label={`best ${grid.quality} by ${grid.axes.map((axis) => axis.objective).join(" and ")}`}>
        {grid.cells.map((cell) => (
          <a key={cell.bins.join()} href={withQuery({}, `/runs/${run}/candidates/${cell.number}`)}>
            <rect x={(cell.bins[0] ?? 0) * CELL + 1} y={(rows - 1 - (cell.bins[1] ?? 0)) * CELL + 1} width={CELL - 2} height={CELL - 2} fillOpacity={0.15 + 0.85 * share(cell.quality)}>
              <title>{`candidate ${cell.number}: ${grid.quality} ${compact(cell.quality)}`}</title>
            </rect>
            <text x={((cell.bins[0] ?? 0) + 0.5) * CELL} y={(rows - 0.5 - (cell.bins[1] ?? 0)) * CELL + 4} textAnchor="middle">{compact(cell.quality)}</text>
          </a>
        ))}
      </svg>
      <p className="muted small">
        {first && <>left to right: {first.objective} {compact(first.low)} to {compact(first.high)}</>}
        {second && <>; bottom to top: {second.objective} {compact(second.low)} to {compact(second.high)}</>}
      </p>
    </figure>
  );
}

function List({ run, grid }: { run: string; grid: Grid }) {
  return (
    <section className="panel">
      <h2>{grid.quality}</h2>
      <ul>
        {grid.cells.map((cell) => (
          <li key={cell.bins.join()}>
            <Link to={withQuery({}, `/runs/${run}/candidates/${cell.number}`)}>candidate {cell.number}</Link>: {compact(cell.quality)}{" "}
            <span className="muted small">{grid.axes.map((axis, k) => `${axis.objective} level ${(cell.bins[k] ?? 0) + 1} of 10`).join(", ")}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}
