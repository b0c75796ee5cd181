// The verdict in words, and the four numbers.

import { $, el, keyed, mark, part, put } from "./dom.js";
import { loading } from "./flow.js";
import { byteRate, bytes, count, duration, known, rate, seconds } from "./format.js";

const VERDICTS = {
  caught_up: ["✓", "Caught up"],
  catching_up: ["↗", "Catching up"],
  falling_behind: ["↘", "Falling behind"],
  stalled: ["✕", "Stalled: nothing is being applied"],
  unknown: ["?", "Whether it keeps up is unknown"],
};

// A number for the eye (big, unit) and, under it, what explains it.
const TILES = [
  { key: "seconds", name: "Seconds behind", text: (v) => [seconds(v), "s"],
    more: (lag, about) => `ready below ${about.lag_below_s} s`, bad: (v, about) => v >= about.lag_below_s },
  { key: "records", name: "Records not applied", text: (v) => [count(v), ""],
    more: (lag) => `${rate(lag.rates.records_in)} in, ${rate(lag.rates.records_out)} applied` },
  { key: "wal_bytes", name: "WAL not in Kafka", text: (v) => bytes(v).split(" "),
    more: (lag) => `${byteRate(lag.rates.wal_bytes_in)} written` },
  { key: "parked", name: "Rows parked", text: (v) => [count(v), ""],
    more: (lag) => (lag.parked ? "need a person" : "nothing waits for a person"), bad: (v) => v > 0 },
];

function made(tile) {
  return el("div", { class: "tile" },
    el("dt", {}, tile.name),
    el("dd", {}, el("span", { class: "big", id: `n-${tile.key}` }, el("span", { class: "value" }), el("span", { class: "unit" })),
      el("span", { class: "more" })));
}

export function drawLag(state) {
  const lag = state.lag;
  if (!lag) return;
  drawVerdict(state, lag);
  keyed($("tiles"), TILES, (tile) => tile.key, made, (element, tile) => {
    const value = lag[tile.key];
    const [text, unit] = known(value) ? tile.text(value) : ["unknown", ""];
    put(part(element, "value"), text);
    put(part(element, "unit"), unit);
    mark(part(element, "big"), "data-value", known(value) ? value : "unknown");
    mark(element, "data-long", text.length > 7 ? "yes" : null);
    mark(element, "data-ok", known(value) ? String(!tile.bad?.(value, state.server)) : "unknown");
    const why = known(value) ? tile.more(lag, state.server) : lag.unknown[tile.key] ?? "it could not be found out";
    put(part(element, "more"), why);
  });
}

function drawVerdict(state, lag) {
  const { state: trend, seconds: left } = lag.catch_up;
  let [sign, words] = VERDICTS[trend] ?? VERDICTS.unknown;
  let more = trend === "catching_up" && known(left) ? `about ${duration(left)} to go` : trend === "unknown" ? lag.unknown.seconds ?? "" : "";
  let shown = trend;
  const load = loading(state);
  if (load && trend === "caught_up") { // of a stream that has nothing to do yet, that would be half the truth
    [sign, words, shown] = load.begun ? ["↓", "Loading", "catching_up"] : ["–", "Not loaded yet", "unknown"];
    more = `the stream is caught up; ${load.collections} ${load.collections === 1 ? "collection" : "collections"} to load`;
  }
  const verdict = $("verdict");
  mark(verdict, "data-state", shown);
  put(part(verdict, "sign"), sign);
  put(part(verdict, "text"), words);
  put(part(verdict, "more"), more);
}
