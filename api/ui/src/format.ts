// Numbers, times and names for people.

import type { Score } from "./api";

export const number = (value: number | null | undefined, digits = 3) =>
  value === null || value === undefined || !Number.isFinite(value) ? "–" : value.toFixed(digits).replace(/^-/, "−");

export const signed = (value: number, digits = 3) => (value > 0 ? "+" : "") + number(value, digits);

const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });

/** Scores as they are; counts in the millions in short. */
export const compact = (value: number) => (Math.abs(value) < 1000 ? number(value, Number.isInteger(value) ? 0 : 3) : short.format(value));

/** A cost rests on no items: it is known. */
export const withError = (score: Score | undefined | null) =>
  score ? (score.n === 0 ? compact(score.mean) : `${number(score.mean)} ± ${number(score.se)}`) : "–";

export const interval = (score: { low?: number; high?: number }) =>
  score.low === undefined || score.high === undefined ? "" : `${number(score.low)} to ${number(score.high)}`;

const UNITS: [Intl.RelativeTimeFormatUnit, number][] = [["day", 86400], ["hour", 3600], ["minute", 60]];
const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });

export function ago(time: string, now = Date.now()): string {
  const seconds = (new Date(time).getTime() - now) / 1000;
  for (const [unit, length] of UNITS) {
    if (Math.abs(seconds) >= length) return relative.format(Math.round(seconds / length), unit);
  }
  return "just now";
}

export const exactTime = (time: string) => new Date(time).toLocaleString();

export const duration = (seconds: number) =>
  seconds < 1 ? `${Math.round(seconds * 1000)} ms` : seconds < 60 ? `${seconds.toFixed(1)} s`
    : `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;

/** What a candidate is called: a baseline by its label, another by its number. */
export const candidateName = (kind: string, label: string, place: number) =>
  kind === "baseline" ? baselineName(label) : `candidate ${place}`;

export const baselineName = (label: string) =>
  label === "average" ? "plain average" : label === "base" ? "base model" : label.replace(/^source:/, "source ");
