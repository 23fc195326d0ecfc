import type { EChartsCoreOption, EChartsType } from "echarts/core";
import { useEffect, useRef, useState } from "react";

interface Props {
  /** What to draw; a new object redraws the series that changed. */
  option: EChartsCoreOption;
  /** What the picture shows, in words. */
  label: string;
  className: string;
  testid?: string;
  /** Called with the number of the candidate whose point was clicked. */
  onPick?: (place: number) => void;
}

interface Picked { data?: { place?: number } | undefined }

/** An ECharts canvas that follows its box. The library is loaded with the first chart. */
const RETRY_MS = 2000;

export function Chart({ option, label, className, testid, onPick }: Props) {
  const box = useRef<HTMLDivElement>(null);
  const [chart, setChart] = useState<EChartsType | null>(null);
  const pick = useRef(onPick);
  pick.current = onPick;

  useEffect(() => {
    const element = box.current!;
    let made: EChartsType | null = null;
    let gone = false;
    const observer = new ResizeObserver(() => made?.resize());
    let again: ReturnType<typeof setTimeout> | undefined;
    const load = () => void import("./echarts").then(draw, () => {
      again = setTimeout(load, RETRY_MS); // the service went away while the page was loading
    });
    const draw = ({ init }: typeof import("./echarts")) => {
      if (gone) return;
      made = init(element, null, { renderer: "canvas" });
      made.on("click", (event) => {
        const place = (event as Picked).data?.place;
        if (place !== undefined) pick.current?.(place);
      });
      observer.observe(element);
      setChart(made);
    };
    load();
    return () => {
      gone = true;
      clearTimeout(again);
      observer.disconnect();
      made?.dispose();
      setChart(null);
    };
  }, []);

  useEffect(() => {
    chart?.setOption(option, { replaceMerge: ["series"] });
  }, [chart, option]);

  return <div ref={box} className={`chart ${className}`} role="img" aria-label={label} data-testid={testid} />;
}
