// Tooltips as DOM nodes: no markup from data, and no inline styles that the Content-Security-Policy would refuse.

import { candidateName, number } from "../format";
import type { LiveRun } from "../live";

function element(tag: string, className: string, ...children: (Node | string)[]): HTMLElement {
  const made = document.createElement(tag);
  made.className = className;
  made.append(...children);
  return made;
}

/** A candidate's name, state and every score with its standard error. */
export function candidateTip(live: LiveRun, place: number): HTMLElement {
  const { points } = live;
  const row = live.rowOf(place);
  if (row === undefined) return element("div", "tip");
  const scores = Object.keys(points.scores).map((name) =>
    element("tr", "",
      element("td", "", name),
      element("td", "number", number(points.scores[name]?.[row])),
      element("td", "number muted", `± ${number(points.se[name]?.[row])}`)));
  const notes: string[] = [];
  if (points.on_front[row]) notes.push("on the front");
  if ((points.violation[row] ?? 0) > 0) notes.push(`misses a constraint by ${number(points.violation[row])}`);
  if (points.kind[row] === "search") notes.push(`generation ${points.generation[row]}`);
  return element("div", "tip",
    element("strong", "", candidateName(points.kind[row]!, points.label[row]!, place)),
    element("table", "", ...scores),
    element("div", "muted small", notes.join(" · ")));
}

export function lineTip(title: string, lines: [string, string][]): HTMLElement {
  return element("div", "tip", element("strong", "", title),
    element("table", "", ...lines.map(([name, value]) =>
      element("tr", "", element("td", "", name), element("td", "number", value)))));
}
