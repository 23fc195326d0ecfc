import type { RunState } from "../api";

/** A run's or candidate's state as a word with a coloured dot. */
export function State({ state, testid }: { state: RunState | string; testid?: string }) {
  return <span className={`state state-${state}`} data-testid={testid}>{state}</span>;
}

export function Progress({ done, total, label }: { done: number; total: number; label: string }) {
  return <progress value={done} max={Math.max(total, 1)} aria-label={label} />;
}
