// How the run went: best score per objective, and hypervolume, by the number of scored candidates.

import type { EChartsCoreOption } from "echarts/core";
import type { History } from "../api";
import { number } from "../format";
import type { Colours } from "./colours";
import { axis, shortNumber, tooltip } from "./frame";
import { lineTip } from "./tooltip";

type Line = [string, (number | null)[]];

const DASHES = ["solid", "dashed", "dotted", [8, 3, 2, 3]] as const;

export function bestCourse(history: History, names: string[], scored: number, colours: Colours): EChartsCoreOption {
  return course(names.map((name): Line => [name, history.best[name] ?? []]), history, scored, colours.front, colours);
}

export function hypervolumeCourse(history: History, scored: number, colours: Colours): EChartsCoreOption {
  return course([["hypervolume", history.hypervolume]], history, scored, colours.accent, colours);
}

function course(lines: Line[], history: History, scored: number, colour: string, colours: Colours): EChartsCoreOption {
  const x = history.scored.map((value) => value ?? 0);
  return {
    animation: false,
    grid: { left: 48, right: 14, top: 12, bottom: 40 },
    xAxis: axis(colours, { name: "candidates scored", nameGap: 26, scale: false, min: 0, minInterval: 1, splitLine: { show: false } }),
    yAxis: axis(colours, { axisLabel: { color: colours.muted, fontSize: 11, formatter: shortNumber }, splitNumber: 4 }),
    tooltip: tooltip(colours, ((items: { seriesName: string; value: [number, number] }[]) =>
      lineTip(`after ${items[0]?.value[0] ?? 0} candidates`, items.map((item) => [item.seriesName, number(item.value[1])]))) as never, "axis"),
    series: lines.map(([name, values], index) => ({
      id: name, name, type: "line", step: "end", symbol: "circle", symbolSize: 4, showSymbol: values.length < 2,
      data: stairs(x, values, scored),
      itemStyle: { color: colour },
      lineStyle: { color: colour, width: 1.8, type: DASHES[index % DASHES.length] },
    })),
  };
}

/** The values at their places, held until now. */
function stairs(x: number[], values: (number | null)[], scored: number): [number, number | null][] {
  const points = x.map((place, row): [number, number | null] => [place, values[row] ?? null]);
  const last = points.at(-1);
  return last && last[0] < scored ? [...points, [scored, last[1]]] : points;
}
