import type { Parameters, RecipeData } from "../api";
import { number, signed } from "../format";

/** One parameter of the merge: rows are source × role, columns are groups of layers (or knots over the depth). */
interface Grid { parameter: string; columns: string[]; rows: Map<string, Map<string, number>> }
interface Entry { parameter: string; row: string; column: string; value: number }

/** What the recipe sets, as one heat map per parameter. */
export function Genome({ recipe }: { recipe: RecipeData }) {
  const grids = gridsOf(entriesOf(recipe));
  const constants = constantsOf(recipe);
  return (
    <>
      {grids.map((grid) => <HeatMap key={grid.parameter} grid={grid} />)}
      {constants.length > 0 && (
        <dl className="facts">
          {constants.map(([name, value]) => <div key={name}><dt>{name}</dt><dd>{value}</dd></div>)}
        </dl>
      )}
    </>
  );
}

function entriesOf({ merge }: RecipeData): Entry[] {
  const entries: Entry[] = [];
  const add = (parameters: Parameters, source: string | null, roles: string, layers: string) => {
    for (const [parameter, value] of Object.entries(parameters)) {
      const row = [source, roles].filter(Boolean).join(" · ") || "all sources";
      if (typeof value === "number") entries.push({ parameter, row, column: layers, value });
      if (Array.isArray(value)) {
        value.forEach((knot, place) => entries.push({ parameter, row, column: depth(place, value.length), value: knot }));
      }
    }
  };
  for (const [source, parameters] of Object.entries(merge.sources ?? {})) add(parameters, source, "", "elsewhere");
  for (const { layers, roles, source, parameters } of merge.rules ?? []) {
    const where = layers ? (layers[0] === layers[1] ? `layer ${layers[0]}` : `layers ${layers[0]}–${layers[1]}`) : "elsewhere";
    add(parameters, source ?? null, (roles ?? []).join(", "), where);
  }
  return entries;
}

const depth = (place: number, count: number) =>
  place === 0 ? "first layer" : place === count - 1 ? "last layer" : `depth ${Math.round((100 * place) / (count - 1))} %`;

function gridsOf(entries: Entry[]): Grid[] {
  const grids = new Map<string, Grid>();
  for (const { parameter, row, column, value } of entries) {
    const grid = grids.get(parameter) ?? { parameter, columns: [], rows: new Map<string, Map<string, number>>() };
    grids.set(parameter, grid);
    if (!grid.columns.includes(column)) grid.columns.push(column);
    const cells = grid.rows.get(row) ?? new Map<string, number>();
    grid.rows.set(row, cells);
    cells.set(column, value); // later rules win
  }
  return [...grids.values()].map(tidy).sort((a, b) => Number(b.parameter === "weight") - Number(a.parameter === "weight"));
}

/** One group over the whole model is not "elsewhere"; groups stand in the order of their layers, the rest last. */
function tidy(grid: Grid): Grid {
  const first = (column: string) => Number(/\d+/.exec(column)?.[0] ?? (column.startsWith("first") ? -1 : 1e9));
  const knots = grid.columns.some((column) => column.startsWith("first layer"));
  const columns = knots ? grid.columns : [...grid.columns].sort((a, b) => first(a) - first(b));
  const rows = new Map([...grid.rows].sort(([a], [b]) => a.localeCompare(b)));
  return { ...grid, columns, rows };
}

function HeatMap({ grid }: { grid: Grid }) {
  const values = [...grid.rows.values()].flatMap((cells) => [...cells.values()]);
  const largest = Math.max(...values.map(Math.abs), 1e-9);
  const alone = grid.columns.length === 1 && grid.columns[0] === "elsewhere";
  return (
    <div className="scroll">
      <table className="heat">
        <caption>{grid.parameter}</caption>
        <thead>
          <tr><th /> {grid.columns.map((column) => <th key={column} scope="col">{alone ? "all layers" : column}</th>)}</tr>
        </thead>
        <tbody>
          {[...grid.rows].map(([row, cells]) => (
            <tr key={row}>
              <th scope="row">{row}</th>
              {grid.columns.map((column) => <Cell key={column} value={cells.get(column)} largest={largest} />)}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Cell({ value, largest }: { value: number | undefined; largest: number }) {
  if (value === undefined) return <td />;
  const share = Math.round((80 * Math.abs(value)) / largest);
  const colour = value < 0 ? "var(--heat-negative)" : "var(--heat-positive)";
  return (
    <td className="number" style={{ background: `color-mix(in oklab, ${colour} ${share}%, var(--surface))` }} title={signed(value, 4)}>
      {number(value, 2)}
    </td>
  );
}

/** What is the same everywhere: the method, its shared parameters, dtype and seed. */
function constantsOf({ merge, dtype, seed }: RecipeData): [string, string][] {
  const shown: [string, string][] = [["method", merge.method]];
  for (const [name, value] of Object.entries(merge.parameters ?? {})) shown.push([name, String(value)]);
  if (dtype) shown.push(["dtype", dtype]);
  if (seed) shown.push(["seed", String(seed)]);
  return shown;
}
