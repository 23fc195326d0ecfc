import type { MouseEvent, ReactNode } from "react";
import { go } from "../place";

interface Props { to: string; children: ReactNode; className?: string; current?: boolean; title?: string; label?: string }

/** A link that changes the page without loading it anew; with a modifier key the browser does as always. */
export function Link({ to, children, className, current, title, label }: Props) {
  const click = (event: MouseEvent) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.altKey || event.button !== 0) return;
    event.preventDefault();
    go(to);
  };
  return (
    <a href={to} onClick={click} className={className} title={title} aria-label={label} aria-current={current ? "page" : undefined}>
      {children}
    </a>
  );
}
