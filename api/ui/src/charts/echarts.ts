// The parts of ECharts that we draw with; everything else stays out of the bundle. Imported lazily by Chart.

import { CustomChart, LineChart, ScatterChart } from "echarts/charts";
import { AriaComponent, DataZoomInsideComponent, GridComponent, MarkLineComponent, TooltipComponent } from "echarts/components";
import * as core from "echarts/core";
import { CanvasRenderer } from "echarts/renderers";

core.use([
  AriaComponent, CanvasRenderer, CustomChart, DataZoomInsideComponent, GridComponent, LineChart, MarkLineComponent,
  ScatterChart, TooltipComponent,
]);

export const init = core.init;
