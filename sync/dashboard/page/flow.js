// The way of a change, as a picture: five stations, four arrows, what waits at each and how fast it moves.

import { $, el, keyed, mark, part, put, show, svg, tell } from "./dom.js";
import { byteRate, bytes, count, known, okOf, rate, SIGN, WORD } from "./format.js";

const ICONS = {
  PostgreSQL: "M4 6c0-4 16-4 16 0v12c0 4-16 4-16 0zM4 6c0 4 16 4 16 0M4 12c0 4 16 4 16 0",
  Connect: "M9 3v5M15 3v5M6 8h12v3a6 6 0 0 1-12 0zM12 17v4",
  Kafka: "M3 6h18M3 12h18M3 18h18M7 4v4M12 10v4M17 16v4",
  consumers: "M12 3v4M12 17v4M3 12h4M17 12h4M12 8a4 4 0 1 1 0 8 4 4 0 0 1 0-8z",
  MongoDB: "M12 2c5 5 6 8 6 11a6 6 0 0 1-12 0c0-3 1-6 6-11zM12 12v10",
};

const STATIONS = [
  { name: "PostgreSQL", title: "PostgreSQL", waits: ({ lag }) => known(lag?.slot?.retained_bytes) && `${bytes(lag.slot.retained_bytes)} of WAL kept` },
  { name: "Connect", title: "Debezium", sub: "Kafka Connect", arrow: "WAL written", waits: ({ lag }) => known(lag?.wal_bytes) && `${bytes(lag.wal_bytes)} to read`,
    flow: (lag) => [lag.rates.wal_bytes_in, byteRate(lag.rates.wal_bytes_in)] },
  { name: "Kafka", title: "Kafka", arrow: "records in", waits: ({ lag }) => known(lag?.records) && `${count(lag.records)} records wait`,
    flow: (lag) => [lag.rates.records_in, rate(lag.rates.records_in)] },
  { name: "consumers", title: "Consumers", arrow: "records read", waits: () => false,
    flow: (lag) => [lag.rates.records_out, rate(lag.rates.records_out)] },
  { name: "MongoDB", title: "MongoDB", arrow: "records applied", waits: ({ lag }) => known(lag?.parked) && lag.parked > 0 && `${count(lag.parked)} rows parked`,
    flow: (lag) => [lag.rates.records_out, rate(lag.rates.records_out)] },
];

function made(station) {
  const parts = [];
  if (station.flow) {
    parts.push(el("div", { class: "arrow" },
      el("span", { class: "rate" }), 
      svg("svg", { class: "line", viewBox: "0 0 100 12", preserveAspectRatio: "none", "aria-hidden": "true" },
        svg("path", { class: "rail", d: "M0 6H100" }), svg("path", { class: "moving", d: "M0 6H100" })),
      svg("svg", { class: "tip", viewBox: "0 0 10 12", "aria-hidden": "true" }, svg("path", { d: "M1 1l8 5-8 5z" })),
      el("span", { class: "what" }, station.arrow)));
  }
  const sub = station.sub ? [el("span", { class: "sub" }, station.sub)] : [];
  parts.push(el("div", { class: "station" },
    el("div", { class: "top" },
      svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, svg("path", { d: ICONS[station.name] })),
      el("span", { class: "title" }, station.title, ...sub)),
    el("span", { class: "health" }, el("span", { class: "sign", "aria-hidden": "true" }), el("span", { class: "word" })),
    el("span", { class: "waits" }), el("span", { class: "said" }), el("span", { class: "remedy" })));
  return el("li", { class: station.flow ? "step" : "step first" }, ...parts);
}

// Faster where more moves, by orders of magnitude: 1/s and 100,000/s both have to look right.
const pace = (value) => (value > 0 ? Math.max(0.25, 1.8 - 0.35 * Math.log10(1 + value)).toFixed(2) : null);

export function drawFlow(state) {
  const components = new Map((state.status?.components ?? []).map((c) => [c.name, c]));
  const everything = components.get("status");
  keyed($("flow"), STATIONS, (s) => s.name, made, (element, station) => {
    const found = components.get(station.name) ?? everything;
    const ok = found ? okOf(found.ok) : "unknown";
    mark(element, "data-ok", ok);
    put(part(element, "sign"), SIGN[ok]);
    put(part(element, "word"), WORD[ok]);
    put(part(element, "waits"), station.waits(state) || "");
    tell(part(element, "said"), found ? found.what : "not asked yet");
    tell(part(element, "remedy"), ok !== "true" && found?.remedy ? found.remedy : "");
    if (!station.flow || !state.lag) return;
    const [value, text] = station.flow(state.lag);
    put(part(element, "rate"), text);
    mark(part(element, "arrow"), "data-flow", known(value) ? (value > 0 ? "moving" : "still") : "unknown");
    const moving = part(element, "moving");
    const wanted = station.name === "Connect" ? pace((value ?? 0) / 100) : pace(value ?? 0);
    if (moving.dataset.pace !== String(wanted)) {
      moving.dataset.pace = wanted;
      moving.style.animationDuration = wanted ? `${wanted}s` : "";
    }
  });
  const others = [...components.values()].filter((c) => !STATIONS.some((s) => s.name === c.name) && c !== everything);
  keyed($("others"), others, (c) => c.name,
    () => el("li", {}, el("span", { class: "sign", "aria-hidden": "true" }), el("strong", { class: "name" }), el("span", { class: "sr word" }), el("span", { class: "told-of" })),
    (item, c) => {
      const ok = okOf(c.ok);
      mark(item, "data-ok", ok);
      put(part(item, "sign"), SIGN[ok]);
      put(part(item, "name"), c.name);
      put(part(item, "word"), WORD[ok]);
      tell(part(item, "told-of"), `${c.what}${ok !== "true" && c.remedy ? ` → ${c.remedy}` : ""}`);
    });
  drawBypass(state);
}

// How far the snapshot is: chunks of all collections that are not loaded to their end. Null: nothing is loading.
export function loading(state) {
  const all = (state.status?.collections ?? []).filter((c) => ["unloaded", "loading", "reloading"].includes(c.phase));
  if (!all.length) return null;
  const chunks = all.reduce((n, c) => n + c.chunks, 0), done = all.reduce((n, c) => n + c.chunks_done, 0);
  return { collections: all.length, chunks, done, begun: all.some((c) => c.phase !== "unloaded") };
}

function drawBypass(state) {
  const found = loading(state);
  show($("bypass"), found !== null);
  if (!found) return;
  put($("bypass-words"), found.chunks ? `reads PostgreSQL into MongoDB: ${count(found.done)} of ${count(found.chunks)} chunks of ${count(found.collections)} ${found.collections === 1 ? "collection" : "collections"}` : "has not begun");
  $("bypass-bar").value = found.chunks ? found.done / found.chunks : 0;
  put($("bypass-percent"), found.chunks ? `${Math.floor((100 * found.done) / found.chunks)}%` : "");
}
