// What all charts share: margins, axes, tooltip.

import { number } from "../format";
import type { Colours } from "./colours";

export const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';

interface AxisExtra { name?: string; [option: string]: unknown }

export function axis(colours: Colours, extra: AxisExtra) {
  return {
    type: "value",
    scale: true,
    nameLocation: "middle",
    nameTextStyle: { color: colours.text, fontFamily: FONT, fontSize: 12 },
    axisLine: { lineStyle: { color: colours.line } },
    axisTick: { show: false },
    axisLabel: { color: colours.muted, fontFamily: FONT, fontSize: 11, hideOverlap: true },
    splitLine: { lineStyle: { color: colours.grid } },
    ...extra,
  };
}

export function tooltip(colours: Colours, formatter: (params: never) => HTMLElement | string, trigger = "item") {
  return {
    trigger,
    confine: true,
    backgroundColor: colours.surface,
    borderColor: colours.line,
    borderWidth: 1,
    padding: 0,
    textStyle: { color: colours.text, fontFamily: FONT, fontSize: 12 },
    transitionDuration: 0,
    axisPointer: { lineStyle: { color: colours.line } },
    formatter,
  };
}

export const shortNumber = (value: number) => (Number.isInteger(value) ? String(value) : number(value, Math.abs(value) < 0.1 ? 3 : 2));

interface Cartesian { coord: (point: [number, number]) => [number, number]; value: (dimension: number) => number }

/** A custom series' item: error bars of one point, `[x, y, xLow, xHigh, yLow, yHigh]`; NaN where there is none. */
export function errorBars(colour: string, opacity: number) {
  return (_: unknown, api: Cartesian) => {
    const [x, y, ...ends] = [0, 1, 2, 3, 4, 5].map((dimension) => api.value(dimension)) as
      [number, number, number, number, number, number];
    const bar = (from: [number, number], to: [number, number]) => {
      const [x1, y1] = api.coord(from);
      const [x2, y2] = api.coord(to);
      return { type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: colour, lineWidth: 1, opacity }, silent: true };
    };
    const children = [];
    if (!Number.isNaN(ends[0])) children.push(bar([ends[0], y], [ends[1], y]));
    if (!Number.isNaN(ends[2])) children.push(bar([x, ends[2]], [x, ends[3]]));
    return { type: "group", children };
  };
}
