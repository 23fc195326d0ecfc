// The front that a run's candidates predict, asked for anew as more of them are scored.

import { useEffect, useState } from "react";
import { get } from "../api";

export interface Preview {
  genes: string[];
  answers: number;
  errors: Record<string, number>;
  points: { genome: number[]; values: Record<string, number> }[];
  reason: string | null;
}

/** So many further candidates before the prediction is made again. */
const EVERY = 10;

export function usePreview(run: string, wanted: boolean, scored: number): Preview | null {
  const [found, setFound] = useState<Preview | null>(null);
  const round = Math.floor(scored / EVERY);
  useEffect(() => {
    if (!wanted) {
      setFound(null);
      return;
    }
    const aborted = new AbortController();
    get<Preview>(`/runs/${run}/preview`, aborted.signal).then(setFound, () => undefined); // the last one stays
    return () => aborted.abort();
  }, [run, wanted, round]);
  return found;
}
