// Puts it together: each event is drawn once, by each part of the page.

import { drawCharts, remember } from "./charts.js";
import { drawControl, wireControl } from "./control.js";
import { $, mark, part, put, show } from "./dom.js";
import { Feed } from "./feed.js";
import { drawFlow } from "./flow.js";
import { duration } from "./format.js";
import { drawLag } from "./lag.js";
import { drawLock, onChange, post, wire } from "./session.js";
import { drawCollections, drawCutover, drawGate, drawParked, drawSlot } from "./tables.js";

let state = null;
let build = null;

function draw(found) {
  state = found;
  build ??= found.server.build;
  if (found.server.build !== build) {
    location.reload(); // the server was replaced by a newer one: its page goes with it
    return;
  }
  put($("pipeline"), found.server.pipeline);
  document.title = `${found.gate.ready ? "✓" : found.gate.conditions.some((c) => c.ok === false) ? "✕" : "?"} ${found.server.pipeline} · tandem`;
  remember(found);
  for (const drawn of [drawLag, drawFlow, drawGate, drawSlot, drawCutover, drawCollections, drawControl]) drawn(found);
  drawParked(found, retry);
  drawLock(found.server.writes);
  if (!document.hidden) drawCharts();
  const old = Object.entries(found.ages).filter(([, age]) => age !== null && age > 10).map(([what, age]) => `the ${what} is ${duration(age)} old`);
  mark(document.body, "data-old", old.length ? "yes" : null);
  put($("asked"), `${old.length ? `${old.join(", ")}; ` : ""}last look ${new Date(found.lag?.at ?? found.at).toLocaleTimeString([], { hour12: false })}`);
  mark(document.body, "data-at", found.at);
}

const LINKS = { connecting: "connecting", live: "live", lost: "connection lost" };
let said = "";

function drawLink(link, age) {
  mark(document.body, "data-link", link);
  put(part($("link"), "text"), link === "live" && state && !state.server.writes ? "live, read-only" : LINKS[link]);
  show($("lost"), link === "lost");
  put($("lost-what"), age === null ? "The server does not answer." : "Connection lost.");
  put($("lost-age"), age === null ? "Nothing was seen yet. Trying again." : `These numbers are ${duration(age)} old. Trying again.`);
  const now = link === "lost" ? "Connection lost, the numbers are old" : link === "live" && said.startsWith("Connection lost") ? "Connected again" : said;
  if (now !== said) put($("say"), (said = now));
}

// -- what may be changed ------------------------------------------------------------------------------------------------

async function acted(path, body, button, told, words) {
  button.setAttribute("aria-disabled", "true");
  put(told, "");
  try {
    const answer = await post(path, body);
    if (answer) put(told, words(answer));
    mark(told, "data-ok", answer && answer.ok === false ? "false" : null);
  } catch (error) {
    put(told, error.message);
    mark(told, "data-ok", "false");
  } finally {
    button.removeAttribute("aria-disabled");
    if (told.textContent) put($("say"), (said = told.textContent));
  }
}

const OUTCOMES = { healed: "healed", gone: "gone, with their document", failing: "still failing", busy: "busy, try again" };

function outcome(answer) {
  const counts = Object.entries(answer.counts ?? {}).filter(([, n]) => n > 0).map(([fate, n]) => `${n} ${OUTCOMES[fate] ?? fate}`);
  const why = (answer.rows ?? []).find((r) => r.reason);
  return `${counts.join(", ") || "nothing is parked"}${why ? `: ${why.key}: ${why.reason}` : ""}`;
}

function retry(keys, button) {
  if (button.getAttribute("aria-disabled")) return;
  const rows = $("parked");
  const place = [...rows.children].indexOf(button.closest("li"));
  acted("api/retry", keys ? { keys } : { all: true }, button, $("parked-told"), outcome).then(() => {
    if (place >= 0 && document.activeElement === document.body) (rows.children[place] ?? rows.lastElementChild)?.querySelector("button")?.focus();
  });
}

$("retry-all").addEventListener("click", (event) => retry(null, event.currentTarget));
wireControl((body, button, words) => acted("api/control", body, button, $("control-told"), () => words));
wire();
onChange(() => { if (state) drawLock(state.server.writes); });

// -- the theme ---------------------------------------------------------------------------------------------------------

const THEMES = [["", "◐", "as the system has it"], ["light", "☀", "light"], ["dark", "☾", "dark"]];

function drawTheme() {
  const [, sign, name] = THEMES.find(([theme]) => theme === (document.documentElement.dataset.theme ?? ""));
  put($("theme"), sign);
  mark($("theme"), "aria-label", `Theme: ${name}`);
  mark($("theme"), "title", `Theme: ${name}`);
}

$("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "";
  const next = THEMES[(THEMES.findIndex(([theme]) => theme === now) + 1) % THEMES.length][0];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  try { localStorage.setItem("tandem-theme", next); } catch { /* a browser that keeps nothing */ }
  drawTheme();
});
drawTheme();

// -- go -----------------------------------------------------------------------------------------------------------------

const feed = new Feed(draw, drawLink);
$("again").addEventListener("click", () => feed.now());
document.addEventListener("visibilitychange", () => { if (!document.hidden && state) drawCharts(); });
