// The run's main picture. Two objectives or more: one against the other, with the front. One: score by number.

import type { EChartsCoreOption } from "echarts/core";
import type { Objective } from "../api";
import { baselineName } from "../format";
import type { LiveRun } from "../live";
import type { Preview } from "../parts/usePreview";
import type { Colours } from "./colours";
import { axis, errorBars, FONT, shortNumber, tooltip } from "./frame";
import { candidateTip } from "./tooltip";

interface Point { value: number[]; place: number; name?: string }
interface Layers { dominated: Point[]; infeasible: Point[]; front: Point[]; baselines: Point[]; chosen: Point[] }

/** Beyond this many, single points are drawn as one batch. */
const LARGE = 2000;
/** Beyond this many candidates, error bars would be a carpet. */
const MANY_BARS = 400;

export function scatter(live: LiveRun, x: Objective, y: Objective | null, chosen: number | null, colours: Colours, preview: Preview | null = null): EChartsCoreOption {
  const layers = sort(live, x, y, chosen);
  const vertical = y ?? x;
  return {
    animation: false,
    grid: { left: 56, right: 28, top: 18, bottom: 48, containLabel: false },
    xAxis: y
      ? axis(colours, { name: `${x.name} (${x.metric})`, nameGap: 30, axisLabel: label(colours) })
      : axis(colours, { name: "candidate", nameGap: 30, scale: false, min: 0, minInterval: 1, splitLine: { show: false } }),
    yAxis: axis(colours, { name: `${vertical.name} (${vertical.metric})`, nameGap: 42, axisLabel: label(colours) }),
    tooltip: tooltip(colours, ((item: { data?: Point }) => (item.data?.place === undefined ? "" : candidateTip(live, item.data.place))) as never),
    dataZoom: [{ type: "inside", xAxisIndex: 0, filterMode: "none" }, { type: "inside", yAxisIndex: 0, filterMode: "none" }],
    series: [
      ...(y ? [] : [bars(live, x, [...layers.dominated, ...layers.front], colours)]),
      dots("dominated", layers.dominated, { color: colours.point, opacity: 0.55 }, 6),
      dots("infeasible", layers.infeasible, { color: "transparent", borderColor: colours.point, borderWidth: 1, opacity: 0.7 }, 6),
      ...(y ? frontSeries(live, layers.front, x, y, colours) : [bestLine(layers, x, colours)]),
      ...(y && preview ? [predicted(preview, x, y, colours)] : []),
      dots("front", layers.front, { color: colours.front, borderColor: colours.surface, borderWidth: 1 }, 10, 5),
      y ? baselineDots(layers.baselines, colours) : baselineLines(layers.baselines, colours),
      dots("chosen", layers.chosen, { color: "transparent", borderColor: colours.text, borderWidth: 2 }, 16, 7, true),
    ],
  };
}

const label = (colours: Colours) => ({ color: colours.muted, fontFamily: FONT, fontSize: 11, hideOverlap: true, formatter: shortNumber });

function sort(live: LiveRun, x: Objective, y: Objective | null, chosen: number | null): Layers {
  const { points } = live;
  const layers: Layers = { dominated: [], infeasible: [], front: [], baselines: [], chosen: [] };
  const [xs, ys] = [points.scores[x.name] ?? [], y ? (points.scores[y.name] ?? []) : []];
  for (let row = 0; row < points.number.length; row++) {
    const [first, second, place] = [xs[row], ys[row], points.number[row]!];
    if (first == null || (y && second == null)) continue;
    const value = y ? [first, second!] : [place, first];
    if (points.kind[row] === "baseline") layers.baselines.push({ value, place, name: baselineName(points.label[row]!) });
    else if (points.on_front[row]) layers.front.push({ value, place });
    else if ((points.violation[row] ?? 0) > 0) layers.infeasible.push({ value, place });
    else layers.dominated.push({ value, place });
    if (place === chosen) layers.chosen.push({ value, place });
  }
  return layers;
}

function dots(name: string, data: Point[], itemStyle: object, symbolSize: number, z = 3, silent = false) {
  return { id: name, name, type: "scatter", data, itemStyle, symbolSize, z, silent, large: data.length > LARGE, largeThreshold: LARGE, cursor: "pointer" };
}

/** Points of a predicted front: hollow, since nobody tried them. */
function predicted(preview: Preview, x: Objective, y: Objective, colours: Colours) {
  const data = preview.points.map(({ values }) => [values[x.name] ?? Number.NaN, values[y.name] ?? Number.NaN]);
  return { id: "predicted", name: "predicted", type: "scatter", data, symbol: "circle", symbolSize: 6, z: 4, silent: true, itemStyle: { color: "transparent", borderColor: colours.front, borderWidth: 1, opacity: 0.8 } };
}

/** The front's outline as stairs, and its members' standard errors. */
function frontSeries(live: LiveRun, front: Point[], x: Objective, y: Objective, colours: Colours) {
  const ordered = [...front].sort((a, b) => a.value[0]! - b.value[0]!);
  // The edge of what the front dominates: from a member down (or up) first where larger x is better, else along x first.
  const step = x.direction === "maximize" ? "start" : "end";
  return [
    {
      id: "outline", name: "outline", type: "line", data: ordered.map((point) => point.value), step, symbol: "none", silent: true,
      lineStyle: { color: colours.front, width: 1.5, opacity: 0.6 }, z: 2,
    },
    {
      id: "errors", name: "errors", type: "custom", silent: true, z: 4, encode: { x: [0, 2, 3], y: [1, 4, 5] },
      data: front.map(({ value, place }) => {
        const row = live.rowOf(place)!;
        const [ex, ey] = [live.points.se[x.name]?.[row] ?? Number.NaN, live.points.se[y.name]?.[row] ?? Number.NaN];
        return [value[0]!, value[1]!, value[0]! - ex, value[0]! + ex, value[1]! - ey, value[1]! + ey];
      }),
      renderItem: errorBars(colours.front, 0.55),
    },
  ];
}

function bars(live: LiveRun, x: Objective, shown: Point[], colours: Colours) {
  const data = shown.length > MANY_BARS ? [] : shown.map(({ value, place }) => {
    const se = live.points.se[x.name]?.[live.rowOf(place)!] ?? Number.NaN;
    return [value[0]!, value[1]!, Number.NaN, Number.NaN, value[1]! - se, value[1]! + se];
  });
  return { id: "errors", name: "errors", type: "custom", silent: true, z: 1, data, encode: { x: [0], y: [1, 4, 5] }, renderItem: errorBars(colours.point, 0.5) };
}

/** One objective: the best value up to each candidate. */
function bestLine(layers: Layers, x: Objective, colours: Colours) {
  const better = (a: number, b: number) => (x.direction === "maximize" ? a > b : a < b);
  let best: number | null = null;
  const data = [...layers.dominated, ...layers.front].sort((a, b) => a.value[0]! - b.value[0]!).map(({ value }) => {
    if (best === null || better(value[1]!, best)) best = value[1]!;
    return [value[0]!, best];
  });
  return { id: "outline", name: "best so far", type: "line", data, step: "end", symbol: "none", silent: true, z: 2, lineStyle: { color: colours.front, width: 1.5, opacity: 0.7 } };
}

function baselineDots(data: Point[], colours: Colours) {
  return {
    ...dots("baselines", data, { color: colours.baseline, borderColor: colours.surface, borderWidth: 1 }, 11, 6),
    symbol: "diamond",
    label: { show: true, formatter: "{b}", position: "right", distance: 7, color: colours.text, fontFamily: FONT, fontSize: 11, textBorderColor: colours.surface, textBorderWidth: 3 },
    labelLayout: { moveOverlap: "shiftY", hideOverlap: false },
  };
}

function baselineLines(data: Point[], colours: Colours) {
  return {
    ...dots("baselines", data, { color: colours.baseline }, 9, 6),
    symbol: "diamond",
    markLine: {
      symbol: "none", silent: true, animation: false,
      lineStyle: { color: colours.baseline, type: "dashed", width: 1, opacity: 0.7 },
      label: { position: "insideEndTop", formatter: "{b}", color: colours.text, fontFamily: FONT, fontSize: 11, textBorderColor: colours.surface, textBorderWidth: 3 },
      data: data.map(({ value, name }) => ({ yAxis: value[1]!, name })),
    },
  };
}
