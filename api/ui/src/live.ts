// One run as it happens: loaded once as columns, then kept up to date by its events.

import { useEffect, useRef, useState } from "react";
import { get, isOver, ROOT, type Best, type History, type Points, ProblemError, type Result, type Run, type RunState, type Scores } from "./api";

const EVENT_TYPES = [
  "run.state", "run.note", "candidate.proposed", "candidate.started", "candidate.scored", "candidate.requeued", "candidate.failed",
  "front.updated", "belief.updated", "candidate.verified", "verification.started", "run.result",
] as const;
/** Events that come faster are drawn together. */
const REDRAW_MS = 150;
const REOPEN_MS = 2000;

interface EventData {
  number: number; kind: string; label: string; generation: number; task?: string; split?: string; violation?: number; scores: Scores;
  front: number[]; hypervolume: number | null; reference: number[]; best: Record<string, Best>; scored: number;
  state: RunState; reason: string | null; text: string;
}

/** A run's live data. Mutable; `version` grows with every change that is worth drawing. */
export class LiveRun {
  version = 0;
  connected = false;
  result: Result | null;
  verified = 0;
  private rows = new Map<number, number>();

  constructor(public run: Run, readonly points: Points, readonly history: History) {
    points.number.forEach((place, row) => this.rows.set(place, row));
    this.result = run.summary.result ?? null;
  }

  get seq() {
    return Math.min(this.points.last_seq, this.history.last_seq);
  }

  apply(type: string, seq: number, data: EventData) {
    if (seq > this.points.last_seq) this.applyToPoints(type, data);
    if (type === "front.updated" && seq > this.history.last_seq) this.applyToHistory(seq, data);
    this.points.last_seq = Math.max(seq, this.points.last_seq);
    this.history.last_seq = Math.max(seq, this.history.last_seq);
    if (type === "run.state") this.run = { ...this.run, state: data.state, reason: data.reason };
    if (type === "run.note") this.run = { ...this.run, summary: { ...this.run.summary, note: data.text } };
    if (type === "run.result") this.result = data as unknown as Result;
    if (type === "candidate.verified") this.verified += 1;
  }

  count(state: string) {
    const { points } = this;
    let found = 0;
    for (let row = 0; row < points.number.length; row++) {
      if (points.kind[row] === "search" && points.state[row] === state) found += 1;
    }
    return found;
  }

  get proposed() {
    return this.points.kind.reduce((sum, kind) => sum + (kind === "search" ? 1 : 0), 0);
  }

  rowOf(place: number) {
    return this.rows.get(place);
  }

  private applyToPoints(type: string, data: EventData) {
    const { points } = this;
    const own = (data.task ?? "subset") === "subset";
    if (type === "candidate.proposed") this.place(data);
    else if (type === "candidate.scored" || (type === "candidate.verified" && data.split === "search" && this.run.state === "running")) {
      const row = this.place(data);
      points.state[row] = "scored";
      points.violation[row] = data.violation ?? 0;
      for (const [name, score] of Object.entries(data.scores)) {
        for (const [columns, value] of [[points.scores, score.mean], [points.se, score.se]] as const) {
          const column = (columns[name] ??= new Array<number | null>(points.number.length).fill(null));
          column[row] = value;
        }
      }
    } else if (type === "candidate.started" && own) points.state[this.place(data)] = "running";
    else if (type === "candidate.requeued" && own) points.state[this.place(data)] = "proposed";
    else if (type === "candidate.failed" && own) points.state[this.place(data)] = "failed";
    else if (type === "belief.updated") this.run = { ...this.run, summary: { ...this.run.summary, believed: data.best } };
    else if (type === "front.updated") {
      const front = new Set(data.front);
      points.on_front = points.number.map((place) => front.has(place));
      const { best, hypervolume, reference } = data;
      this.run = { ...this.run, summary: { ...this.run.summary, front: data.front, best, hypervolume, reference } };
    }
  }

  private applyToHistory(seq: number, data: EventData) {
    const { history } = this;
    history.seq.push(seq);
    history.scored.push(data.scored);
    history.hypervolume.push(data.hypervolume);
    for (const [name, best] of Object.entries(data.best)) {
      const column = (history.best[name] ??= new Array<number | null>(history.seq.length - 1).fill(null));
      column.push(best.mean);
    }
  }

  private place(data: EventData): number {
    const known = this.rows.get(data.number);
    if (known !== undefined) return known;
    const { points } = this;
    const row = points.number.length;
    this.rows.set(data.number, row);
    points.number.push(data.number);
    points.kind.push(data.kind ?? "search");
    points.label.push(data.label ?? "");
    points.generation.push(data.generation ?? 0);
    points.state.push("proposed");
    points.on_front.push(false);
    points.violation.push(null);
    for (const columns of [points.scores, points.se]) Object.values(columns).forEach((column) => column.push(null));
    return row;
  }
}

async function load(id: string, signal: AbortSignal): Promise<LiveRun> {
  const [run, points, history] = await Promise.all([
    get<Run>(`/runs/${id}`, signal), get<Points>(`/runs/${id}/points`, signal), get<History>(`/runs/${id}/history`, signal),
  ]);
  return new LiveRun(run, points, history);
}

/** Follow a run from its newest known event until it is over; returns how to stop. */
function follow(live: LiveRun, redraw: () => void): () => void {
  let source: EventSource | null = null;
  let timer: ReturnType<typeof setTimeout> | undefined;

  const refreshRun = () =>
    get<Run>(`/runs/${live.run.id}`).then((run) => {
      live.run = run;
      live.result = run.summary.result ?? live.result;
      redraw();
    }).catch(() => undefined); // the stream brings the news as well

  const open = () => {
    source = new EventSource(`${ROOT}/runs/${live.run.id}/events?after=${live.seq}`);
    source.onopen = () => {
      live.connected = true;
      redraw();
    };
    source.onerror = () => {
      live.connected = false;
      redraw();
      // A refused connection comes back by itself with Last-Event-ID; an HTTP error ends the EventSource.
      if (source?.readyState === EventSource.CLOSED && !isOver(live.run.state)) timer = setTimeout(open, REOPEN_MS);
    };
    for (const type of EVENT_TYPES) {
      source.addEventListener(type, (event: MessageEvent<string>) => {
        live.apply(type, Number(event.lastEventId), JSON.parse(event.data) as EventData);
        redraw();
        if (type !== "run.state") return;
        void refreshRun();
        if (isOver(live.run.state)) source?.close();
      });
    }
  };
  if (!isOver(live.run.state)) open();
  return () => {
    source?.close();
    clearTimeout(timer);
  };
}

export interface Following { live: LiveRun | null; error: ProblemError | null; version: number; refresh: () => void }

export function useLiveRun(id: string): Following {
  const [live, setLive] = useState<LiveRun | null>(null);
  const [error, setError] = useState<ProblemError | null>(null);
  const [version, setVersion] = useState(0);
  const refresh = useRef<() => void>(() => undefined);

  useEffect(() => {
    const abort = new AbortController();
    let stop = () => undefined as void;
    let timer: ReturnType<typeof setTimeout> | undefined;
    setLive(null);
    setError(null);
    load(id, abort.signal).then((loaded) => {
      const redraw = () => {
        timer ??= setTimeout(() => {
          timer = undefined;
          loaded.version += 1;
          setVersion((before) => before + 1);
        }, REDRAW_MS);
      };
      refresh.current = () => void get<Run>(`/runs/${id}`).then((run) => {
        loaded.run = run;
        redraw();
      }).catch(() => undefined); // the stream brings the news as well
      setLive(loaded);
      stop = follow(loaded, redraw);
    }).catch((reason: unknown) => {
      if (!abort.signal.aborted) setError(reason instanceof ProblemError ? reason : null);
    });
    return () => {
      abort.abort();
      stop();
      clearTimeout(timer);
    };
  }, [id]);

  return { live, error, version, refresh: () => refresh.current() };
}
