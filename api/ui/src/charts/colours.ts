// Colours of the charts, read from the style sheet so that light and dark need no second list.

import { useSyncExternalStore } from "react";

export interface Colours {
  text: string; muted: string; line: string; grid: string; surface: string; point: string; accent: string; front: string;
  baseline: string; bad: string;
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");

function read(): Colours {
  const style = getComputedStyle(document.documentElement);
  const of = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: of("text"), muted: of("muted"), line: of("line"), grid: of("grid"), surface: of("surface"), point: of("point"),
    accent: of("accent"), front: of("front"), baseline: of("baseline"), bad: of("bad"),
  };
}

let colours: Colours | null = null;

function subscribe(listener: () => void) {
  const changed = () => {
    colours = read();
    listener();
  };
  dark.addEventListener("change", changed);
  return () => dark.removeEventListener("change", changed);
}

export const useColours = () => useSyncExternalStore(subscribe, () => (colours ??= read()));
