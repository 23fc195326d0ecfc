// Something that is loaded once from the service, or why not.

import { useEffect, useState } from "react";
import { get, ProblemError } from "../api";

export function useLoaded<T>(path: string): { found: T | null; error: ProblemError | null } {
  const [state, setState] = useState<{ found: T | null; error: ProblemError | null }>({ found: null, error: null });
  useEffect(() => {
    const aborted = new AbortController();
    setState({ found: null, error: null });
    get<T>(path, aborted.signal).then(
      (found) => setState({ found, error: null }),
      (reason: unknown) => {
        if (!aborted.signal.aborted && reason instanceof ProblemError) setState({ found: null, error: reason });
      },
    );
    return () => aborted.abort();
  }, [path]);
  return state;
}
