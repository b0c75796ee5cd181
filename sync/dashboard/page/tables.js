// Collections, parked rows, the gate's conditions, the slot, the cutover.

import { $, el, keyed, mark, part, put, show, tell } from "./dom.js";
import { byteRate, bytes, count, duration, known, okOf, rate, seconds, SIGN, WORD } from "./format.js";

const PHASES = { streaming: "✓", loading: "↓", reloading: "↻", unloaded: "–", unknown: "?" };
const COLUMNS = [
  ["documents", "Documents", (c) => count(c.documents)],
  ["records", "Records behind", (c) => count(c.records)],
  ["seconds", "Seconds behind", (c) => (known(c.seconds) ? `${seconds(c.seconds)} s` : "unknown")],
  ["in", "In, per s", (c) => rate(c.records_in)],
  ["out", "Applied, per s", (c) => rate(c.records_out)],
  ["parked", "Parked", (c) => count(c.parked)],
];

// Both looks together: the lag's is the newer one.
function merged(state) {
  const found = new Map();
  for (const c of state.status?.collections ?? []) found.set(c.name, { ...c, records: c.behind });
  for (const c of state.lag?.collections ?? []) {
    const phase = c.phase && c.phase !== "unknown" ? c.phase : found.get(c.name)?.phase ?? "unknown";
    found.set(c.name, { ...found.get(c.name), ...c, phase });
  }
  return [...found.values()];
}

function madeCollection() {
  return el("tr", {},
    el("th", { scope: "row" }, el("span", { class: "name" }), el("span", { class: "table" })),
    el("td", { class: "phase", "data-label": "Phase" },
      el("span", { class: "chip" }, el("span", { class: "sign", "aria-hidden": "true" }), el("span", { class: "word" })),
      el("progress", { class: "loaded", max: "1", hidden: "" }), el("span", { class: "chunks" })),
    ...COLUMNS.map(([key, label]) => el("td", { class: `n c-${key}`, "data-label": label })));
}

export function drawCollections(state) {
  const all = merged(state);
  show($("collections-empty"), all.length === 0);
  keyed($("collections"), all, (c) => c.name, madeCollection, (row, c) => {
    put(part(row, "name"), c.name);
    put(part(row, "table"), c.table ?? "");
    mark(row, "data-phase", c.phase);
    put(part(row, "sign"), PHASES[c.phase] ?? "?");
    put(part(row, "word"), c.phase);
    const loading = c.chunks > 0 && (c.phase === "loading" || c.phase === "reloading" || c.phase === "unloaded");
    const bar = part(row, "loaded");
    show(bar, loading);
    put(part(row, "chunks"), loading ? `${count(c.chunks_done)} of ${count(c.chunks)} chunks` : "");
    if (loading) {
      bar.value = c.chunks_done / c.chunks;
      mark(bar, "aria-label", `${c.name}: ${c.chunks_done} of ${c.chunks} chunks loaded`);
    }
    for (const [key, , text] of COLUMNS) {
      const cell = part(row, `c-${key}`);
      const value = text(c);
      put(cell, value);
      mark(cell, "data-ok", value.startsWith("unknown") ? "unknown" : key === "parked" && c.parked > 0 ? "false" : null);
    }
  });
}

export function drawGate(state) {
  const gate = state.gate;
  if (!gate) return;
  const unknown = gate.conditions.some((c) => c.ok === null);
  const failing = gate.conditions.filter((c) => c.ok === false).length;
  const ready = $("ready");
  mark(ready, "data-ok", gate.ready ? "true" : failing ? "false" : "unknown");
  put(part(ready, "sign"), gate.ready ? SIGN.true : failing ? SIGN.false : SIGN.unknown);
  put(part(ready, "text"), gate.ready ? "ready for a cutover" : failing ? `not ready: ${failing} of ${gate.conditions.length}` : unknown ? "readiness unknown" : "not ready");
  keyed($("conditions"), gate.conditions, (c) => c.name,
    () => el("li", {}, el("span", { class: "sign", "aria-hidden": "true" }), el("span", { class: "name" }), el("span", { class: "sr word" }), el("span", { class: "why" })),
    (row, c) => {
      const ok = okOf(c.ok);
      mark(row, "data-ok", ok);
      put(part(row, "sign"), SIGN[ok]);
      put(part(row, "name"), c.name);
      put(part(row, "word"), ok === "true" ? ": met" : ok === "false" ? ": not met" : ": unknown");
      tell(part(row, "why"), c.why);
    });
}

function facts(list, found) {
  keyed(list, found, ([name]) => name, ([name]) => el("div", {}, el("dt", {}, name), el("dd", { class: "value" })),
    (row, [, text, ok]) => { put(part(row, "value"), text); mark(row, "data-ok", ok ?? null); });
}

const LIMITS = { disk: "the disk" };

export function drawSlot(state) {
  const slot = state.lag?.slot;
  if (!slot) {
    facts($("slot"), [["State", state.lag ? `unknown: ${state.lag.unknown.slot ?? state.lag.unknown.wal_bytes ?? "it could not be found out"}` : "not asked yet", "unknown"]]);
    return;
  }
  const kept = slot.wal_status === "reserved" || slot.wal_status === "extended";
  const growth = !known(slot.growth) ? "unknown" : slot.growth <= 0 ? "not growing" : byteRate(slot.growth);
  let full = "unknown", bad = null;
  if (known(slot.full_in_seconds)) {
    full = duration(slot.full_in_seconds);
    if (slot.full_in_seconds < 3600) bad = "false";
  } else if (known(slot.growth) && slot.growth <= 0) full = "never, at this rate";
  else if (slot.limit === null) full = "unknown: no limit is known";
  facts($("slot"), [
    ["State", `${slot.active ? "streams" : "nobody streams from it"}, WAL ${slot.wal_status}`, String(kept && slot.active)],
    ["WAL retained", bytes(slot.retained_bytes)],
    ["Growth", growth],
    ["Room left", bytes(slot.left_bytes)],
    ["Limited by", slot.limit === null ? "unknown" : LIMITS[slot.limit] ?? slot.limit],
    ["Full in", full, bad],
  ]);
}

export function drawCutover(state) {
  const cutover = state.cutover;
  show($("cutover"), Boolean(cutover));
  if (!cutover) return;
  facts($("cutover-facts"), Object.entries(cutover).map(([name, value]) => [name.replaceAll("_", " "),
    value === null ? "unknown" : typeof value === "object" ? JSON.stringify(value) : String(value)]));
}

function madeParked(row, retry) {
  const button = el("button", { type: "button", class: "retry" }, "Retry");
  button.addEventListener("click", () => retry([row.key], button));
  return el("li", {}, el("span", { class: "key" }), el("span", { class: "class chip" }), el("span", { class: "age" }),
    el("span", { class: "reason" }), button);
}

export function drawParked(state, retry) {
  const rows = state.parked_rows, all = state.lag?.parked ?? state.status?.parked?.rows;
  const listed = rows ?? [];
  const empty = !known(rows) ? `unknown: ${state.lag?.unknown?.parked ?? "not asked yet"}` : "Nothing is parked.";
  show($("parked-empty"), listed.length === 0);
  put($("parked-empty"), empty);
  put($("parked-count"), known(all) && all > 0 ? (all > listed.length ? `the oldest ${count(listed.length)} of ${count(all)}` : count(all)) : "");
  show($("retry-all"), state.server.writes && listed.length > 0);
  mark($("parked-panel"), "data-ok", listed.length ? "false" : null);
  keyed($("parked"), listed, (r) => r.key, (r) => madeParked(r, retry), (row, r) => {
    put(part(row, "key"), r.key);
    put(part(row, "class"), r.class);
    put(part(row, "reason"), r.reason);
    const since = r.since ? (Date.parse(state.at) - Date.parse(r.since)) / 1000 : null;
    put(part(row, "age"), known(since) ? `${duration(since)} ago` : "");
    mark(part(row, "age"), "title", r.since ?? null);
    const button = part(row, "retry");
    show(button, state.server.writes);
    mark(button, "aria-label", `Retry ${r.key}`);
  });
}
