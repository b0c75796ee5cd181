// Four small charts over one time axis. Where a number was unknown there is a gap, hatched, and never a zero.

import { $, el, mark, part, put, svg } from "./dom.js";
import { byteRate, bytes, clock, count, known, rate, seconds } from "./format.js";

const SPAN = 900, W = 600, H = 150, TOP = 8, BOTTOM = 4;
// points come once a second; after so long without one it was not looked
const APART = 4;

const CHARTS = [
  { key: "seconds", title: "Seconds behind", lines: ["seconds"], tell: (v) => (known(v) ? `${seconds(v)} s` : "unknown"), least: 5, limit: (about) => about?.lag_below_s },
  { key: "records", title: "Records not applied", lines: ["records"], tell: count, least: 10 },
  { key: "wal_bytes", title: "WAL not in Kafka", lines: ["wal_bytes"], tell: bytes, least: 10_000 },
  { key: "rates", title: "Records per second", lines: ["records_out", "records_in"], names: { records_in: "in", records_out: "applied" }, tell: (v) => rate(v), least: 10 },
];

let points = [];
let about = null;
let looked = null;

export function remember(state) {
  about = state.server;
  if (state.history) {
    const known = new Map(points.map((p) => [p.t, p]));
    for (const p of state.history) known.set(p.t, p);
    points = [...known.values()].sort((a, b) => a.t - b.t);
  } else if (state.point && !(state.point.t <= points.at(-1)?.t)) points.push(state.point);
  const newest = points.at(-1)?.t ?? 0;
  while (points.length && points[0].t < newest - SPAN - 5) points.shift();
}

function made(chart) {
  const lines = chart.lines.map((line) => svg("path", { class: `line ${line}`, fill: "none" }));
  const area = chart.lines.length === 1 ? [svg("path", { class: "area" })] : [];
  const picture = svg("svg", { class: "plot", viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    hatch(chart.key), svg("g", { class: "gaps", fill: `url(#hatch-${chart.key})` }), svg("path", { class: "gridlines" }), ...area, svg("path", { class: "limit" }), ...lines, svg("path", { class: "cursor" }));
  const key = chart.names ? el("span", { class: "legend" }, ...chart.lines.map((l) => el("span", { class: `k ${l}` }, el("i"), `${chart.names[l]} `, el("b", { class: `v-${l}` })))) : "";
  return el("figure", { class: "panel chart", id: `chart-${chart.key}` },
    el("figcaption", {}, el("span", { class: "title" }, chart.title), key, el("span", { class: "now" })),
    el("div", { class: "frame", role: "img" }, picture, el("span", { class: "y top" }), el("span", { class: "y mid" }), el("span", { class: "limit-label" })),
    el("div", { class: "x", "aria-hidden": "true" }, el("span", {}, "15 min ago"), el("span", {}, "10"), el("span", {}, "5"), el("span", {}, "now")));
}

function hatch(key) {
  return svg("defs", {}, svg("pattern", { id: `hatch-${key}`, width: 7, height: 7, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
    svg("rect", { class: "hatch", width: 3, height: 7 })));
}

function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  for (const step of [1, 2, 5, 10]) if (value <= step * power) return step * power;
  return value;
}

// Runs of points that follow each other and are known.
function runs(line) {
  const found = [];
  let run = null, before = null;
  for (const p of points) {
    const v = p[line];
    if (!known(v) || (before && p.t - before.t > APART)) run = null;
    if (known(v)) {
      if (!run) found.push((run = []));
      run.push(p);
    }
    before = p;
  }
  return found;
}

const fixed = (n) => n.toFixed(1);

function draw(chart, element, now) {
  const values = points.flatMap((p) => chart.lines.map((l) => p[l])).filter(known);
  const limit = chart.limit?.(about);
  const most = nice(Math.max(chart.least, ...values));
  const x = (t) => W * (1 - (now - t) / SPAN);
  const y = (v) => TOP + (H - TOP - BOTTOM) * (1 - v / most);
  for (const line of chart.lines) {
    const found = runs(line);
    const paths = found.map((run) => `M${run.map((p) => `${fixed(x(p.t))} ${fixed(y(p[line]))}`).join("L")}${run.length === 1 ? "h.1" : ""}`);
    mark(element.querySelector(`path.line.${line}`), "d", paths.join(""));
    if (chart.lines.length > 1) continue;
    const base = fixed(y(0));
    mark(part(element, "area"), "d", found.map((run, i) => `${paths[i]}L${fixed(x(run.at(-1).t))} ${base}L${fixed(x(run[0].t))} ${base}Z`).join(""));
    gaps(part(element, "gaps"), found, x);
  }
  mark(part(element, "gridlines"), "d", `M0 ${fixed(y(most))}H${W}M0 ${fixed(y(most / 2))}H${W}M0 ${fixed(y(0))}H${W}`);
  const within = known(limit) && limit <= most;
  mark(part(element, "limit"), "d", within ? `M0 ${fixed(y(limit))}H${W}` : "");
  put(part(element, "limit-label"), within ? `ready below ${limit} s` : "");
  if (within) {
    part(element, "limit-label").style.top = `${(100 * y(limit)) / H}%`;
    mark(part(element, "limit-label"), "data-high", limit > most * 0.85 ? "yes" : null);
  }
  put(part(element, "top"), chart.tell(most));
  put(part(element, "mid"), chart.tell(most / 2));
  readout(chart, element, now);
  const last = points.at(-1);
  const told = chart.lines.map((l) => `${chart.names?.[l] ?? "now"} ${chart.tell(last?.[l])}`).join(", ");
  if (!looked) mark(part(element, "frame"), "aria-label", `${chart.title}: ${told}; at most ${values.length ? chart.tell(Math.max(...values)) : "unknown"} in the last 15 minutes`);
}

// What lies between the runs, from the first point on.
function gaps(group, found, x) {
  if (!points.length) return;
  const holes = [];
  let from = points[0].t;
  for (const run of found) {
    if (run[0].t - from > 1.5) holes.push([from, run[0].t]);
    from = run.at(-1).t;
  }
  const end = points.at(-1).t;
  if (end - from > 1.5) holes.push([from, end]);
  while (group.children.length > holes.length) group.lastElementChild.remove();
  while (group.children.length < holes.length) group.append(svg("rect", { class: "gap", y: TOP, height: H - TOP - BOTTOM }));
  holes.forEach(([a, b], i) => {
    mark(group.children[i], "x", fixed(x(a)));
    mark(group.children[i], "width", fixed(Math.max(1, x(b) - x(a))));
  });
}

function nearest(t) {
  let best = null;
  for (const p of points) if (!best || Math.abs(p.t - t) < Math.abs(best.t - t)) best = p;
  return best && Math.abs(best.t - t) < 10 ? best : null;
}

function readout(chart, element, now) {
  const at = looked === null ? points.at(-1) : nearest(now - SPAN * (1 - looked));
  const time = looked === null ? "" : at ? clock(at.t) : "not looked";
  if (chart.names) for (const l of chart.lines) put(part(element, `v-${l}`), chart.tell(at?.[l]));
  put(part(element, "now"), chart.names ? time : [time, chart.tell(at?.[chart.key])].filter(Boolean).join("  "));
  mark(part(element, "cursor"), "d", looked === null ? "" : `M${fixed(W * looked)} 0V${H}`);
}

const figures = new Map();

export function drawCharts() {
  if (!figures.size) {
    for (const chart of CHARTS) {
      const figure = made(chart);
      figures.set(chart, figure);
      const frame = part(figure, "frame");
      frame.addEventListener("pointermove", (event) => {
        const box = frame.getBoundingClientRect();
        looked = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
        drawCharts();
      });
      frame.addEventListener("pointerleave", () => { looked = null; drawCharts(); });
    }
    $("charts").append(...figures.values());
  }
  const now = points.at(-1)?.t ?? Date.now() / 1000;
  for (const [chart, figure] of figures) draw(chart, figure, now);
}
