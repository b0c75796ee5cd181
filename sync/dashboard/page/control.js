// Pause, resume, throttle: shown where the pipeline can be steered.

import { $, put, show } from "./dom.js";
import { count, known } from "./format.js";

export function drawControl(state) {
  const control = state.control;
  show($("control"), Boolean(control));
  if (!control) return;
  const told = [];
  if (control.paused?.length) told.push(`Paused: ${control.paused.join(", ")}`);
  if (known(control.max_ops)) told.push(`At most ${count(control.max_ops)} rows a second`);
  if (known(control.max_lag_s)) told.push(`The snapshot waits while the stream is ${control.max_lag_s} s behind`);
  for (const one of control.throttled ?? []) told.push(`${one.who} waits: ${one.why}`);
  if (!told.length) told.push("Everything runs at full speed");
  const who = control.by ? ` (${control.by}${control.at ? `, ${new Date(control.at).toLocaleString()}` : ""})` : "";
  put($("control-state"), `${told.join(". ")}${who}.`);
  const may = state.server.writes && state.server.control;
  for (const id of ["control-buttons", "throttle"]) show($(id), may);
}

export function wireControl(act) {
  $("pause").addEventListener("click", (event) => act({ action: "pause" }, event.currentTarget, "Paused."));
  $("resume").addEventListener("click", (event) => act({ action: "resume" }, event.currentTarget, "Resumed."));
  $("throttle").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("max-ops").value.trim();
    const limit = text === "" ? null : Number(text);
    act({ action: "throttle", max_ops: limit }, event.submitter, limit === null ? "No limit." : `At most ${count(limit)} rows a second.`);
  });
}
