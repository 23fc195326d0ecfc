// REST, typed. Every error that the service answers is a ProblemError with its problem document.

export type RunState =
  | "queued" | "starting" | "running" | "paused" | "stopping" | "verifying" | "succeeded" | "failed" | "cancelled";
export type Verb = "pause" | "resume" | "stop" | "cancel";

export interface Score { mean: number; se: number; n: number; low?: number; high?: number }
export type Scores = Record<string, Score>;
export interface Objective { name: string; eval_sets: string[]; metric: string; direction: "maximize" | "minimize" }
export interface Constraint {
  name: string; eval_set?: string | null; metric: string; max_drop?: number | null; max?: number | null;
}
export interface Best extends Score { number: number }

export interface ResultRow { number: number; kind: string; label: string; search: Scores | null; holdout: Scores | null }
export interface Paired {
  against: string; objective: string; difference: number; se: number; low: number; high: number;
  wins: number; losses: number; p_sign: number;
}
export interface Inflation { estimate: number; believed?: number; se?: number; verified: number; difference: number }
export interface Result {
  winner: number; winners?: number[]; table: ResultRow[]; paired: Paired[]; inflation?: Record<string, Inflation>;
}

export interface Summary {
  budget?: number; proposed?: number; scored?: number; failed?: number; generation?: number;
  objectives?: Objective[]; constraints?: Constraint[]; best?: Record<string, Best>; believed?: Record<string, Omit<Best, "n">>; front?: number[];
  hypervolume?: number | null; reference?: number[]; baselines?: Record<string, number>; result?: Result | null;
  note?: string | null;
}
export interface RunListed {
  id: string; name: string; state: RunState; reason: string | null; created: string; updated: string;
  version: number; last_seq: number; summary: Summary;
}
export interface Spec {
  name: string; objectives: Objective[]; constraints?: Constraint[]; budget?: { candidates?: number };
  [field: string]: unknown;
}
export interface Run extends RunListed { spec: Spec; pending: Verb[] }

export interface CandidateListed {
  number: number; kind: string; label: string; state: string; generation: number; digest: string; scores: Scores;
  verified: Record<string, Scores>; violation: number; on_front: boolean; cached: boolean; attempts: number;
  worker: string; seconds: Record<string, number>; failure: { reason: string; message: string } | null;
}
export interface Rule { layers?: [number, number] | null; roles?: string[]; source?: string | null; parameters: Parameters }
export type Parameters = Record<string, boolean | number | string | number[]>;
export interface RecipeData {
  base: { location: string; sha256?: string }; sources: Record<string, { location: string; sha256?: string }>;
  merge: { method: string; parameters?: Parameters; sources?: Record<string, Parameters>; rules?: Rule[] };
  dtype?: string; seed?: number;
}
export interface Candidate extends CandidateListed { genome: number[]; recipe: RecipeData }
export interface Page<T> { items: T[]; next_cursor: string | null }

export interface Points {
  last_seq: number; number: number[]; kind: string[]; label: string[]; generation: number[]; state: string[];
  on_front: boolean[]; violation: (number | null)[];
  scores: Record<string, (number | null)[]>; se: Record<string, (number | null)[]>;
}
export interface History {
  last_seq: number; seq: number[]; scored: (number | null)[]; hypervolume: (number | null)[];
  best: Record<string, (number | null)[]>;
}
export interface Checked {
  dimension: number; genes: string[]; items: Record<string, { search: number; holdout: number }>; warnings: string[];
}
export interface Alias { name: string; available: boolean }
export interface Described { name: string; description: string; parameters: Record<string, unknown> }

export interface FieldError { pointer?: string; parameter?: string; detail: string; value?: unknown; allowed?: string }
export interface Problem { type?: string; title: string; status: number; detail: string; errors?: FieldError[] }

export class ProblemError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

export const ROOT = "/api/v1";

async function answer(path: string, init?: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(ROOT + path, init);
  } catch (error) {
    if (init?.signal?.aborted) throw error;
    throw new ProblemError({ title: "Not reached", status: 0, detail: "The service does not answer. Is it running?" });
  }
  if (response.ok) return response;
  const problem = (await response.json().catch(() => null)) as Problem | null;
  if (response.status === 401) window.dispatchEvent(new Event("evomerge:sign-in"));
  throw new ProblemError(
    problem ?? { title: response.statusText, status: response.status, detail: `HTTP ${response.status}` },
  );
}

export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  const response = await answer(path, { headers: { Accept: "application/json" }, ...(signal && { signal }) });
  return (await response.json()) as T;
}

export async function getText(path: string, signal?: AbortSignal): Promise<string> {
  return (await answer(path, signal ? { signal } : {})).text();
}

export async function command(run: string, verb: Verb): Promise<void> {
  await answer(`/runs/${run}:${verb}`, { method: "POST" });
}

/** Send a search as it was typed: the service reads JSON and YAML. */
async function sendSpec<T>(path: string, text: string, headers: Record<string, string> = {}): Promise<T> {
  const type = text.trimStart().startsWith("{") ? "application/json" : "application/yaml";
  const response = await answer(path, { method: "POST", body: text, headers: { "Content-Type": type, ...headers } });
  return (await response.json()) as T;
}

export const validate = (text: string) => sendSpec<Checked>("/runs:validate", text);
export const submit = (text: string, key: string) => sendSpec<Run>("/runs", text, { "Idempotency-Key": key });

export async function signIn(key: string): Promise<void> {
  await answer("/session", {
    method: "POST", body: JSON.stringify({ key }), headers: { "Content-Type": "application/json" },
  });
}

export const isOver = (state: RunState) => state === "succeeded" || state === "failed" || state === "cancelled";
