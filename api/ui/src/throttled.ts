import { useEffect, useRef, useState } from "react";

/** `value`, but changing at most once in `ms`: for what costs a request. */
export function useThrottled<T>(value: T, ms: number): T {
  const [shown, setShown] = useState(value);
  const latest = useRef(value);
  const timer = useRef<ReturnType<typeof setTimeout> | undefined>(undefined);
  latest.current = value;

  useEffect(() => {
    if (Object.is(value, shown)) return;
    timer.current ??= setTimeout(() => {
      timer.current = undefined;
      setShown(latest.current);
    }, ms);
  }, [value, shown, ms]);

  useEffect(() => () => {
    clearTimeout(timer.current);
    timer.current = undefined;
  }, []);
  return shown;
}
