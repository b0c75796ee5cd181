// The token: asked for once, checked at once, kept until this tab is closed; and the requests that need it.

import { $, put, show } from "./dom.js";

const KEY = "tandem-token";
let kept = null;
try { kept = sessionStorage.getItem(KEY); } catch { /* a browser that keeps nothing asks again after a reload */ }
const listeners = [];

export const unlocked = () => kept !== null;
export const onChange = (listener) => listeners.push(listener);

function keep(token) {
  kept = token;
  try {
    if (token === null) sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, token);
  } catch { /* as above */ }
  for (const listener of listeners) listener();
}

export const forget = () => keep(null);

async function sent(path, body, token) {
  let answer;
  try {
    answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", Authorization: `Bearer ${token}` },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("the server does not answer");
  }
  const told = answer.status === 204 ? {} : await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const what = told.what ?? `refused (${answer.status})`;
    throw Object.assign(new Error(told.remedy ? `${what}: ${told.remedy}` : what), { status: answer.status });
  }
  return told;
}

// Returns what the server answered, or null where the token was not given.
export async function post(path, body) {
  if (kept === null && !(await ask())) return null;
  try {
    return await sent(path, body, kept);
  } catch (error) {
    if (error.status !== 401) throw error;
    forget();
    return (await ask("That token is no longer taken.")) ? sent(path, body, kept) : null;
  }
}

let answered = null;

export function ask(why = "") {
  put($("ask-wrong"), why);
  $("token").value = "";
  $("ask").showModal();
  return new Promise((resolve) => { answered = resolve; });
}

export function wire() {
  $("ask-cancel").addEventListener("click", () => $("ask").close());
  $("ask").addEventListener("close", () => { answered?.(unlocked()); answered = null; });
  $("ask-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const token = $("token").value.trim();
    try {
      if (!/^[\x21-\x7e]+$/.test(token)) throw Object.assign(new Error(), { status: 401 });
      await sent("api/token", {}, token);
      keep(token);
      $("ask").close();
    } catch (error) {
      put($("ask-wrong"), error.status === 401 ? "This is not the token." : error.message);
      $("token").select();
    }
  });
  const button = $("unlock");
  button.addEventListener("click", () => (unlocked() ? forget() : ask()));
}

export function drawLock(writes) {
  show($("unlock"), writes);
  put($("unlock"), unlocked() ? "Lock" : "Unlock");
  $("unlock").title = unlocked() ? "Forget the token in this tab" : "Read-only until the token is given";
}
