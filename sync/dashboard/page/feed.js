// The events: connects, notices silence, and connects again. What was shown stays, with its age.

const SILENT_AFTER = 5000;
const LONGEST = 5000;
const HIDDEN_AFTER = 60000;

export class Feed {
  constructor(onState, onLink) {
    this.onState = onState;
    this.onLink = onLink;
    this.link = "connecting";
    this.last = null;
    this.tries = 0;
    this.open();
    setInterval(() => this.watch(), 1000);
    addEventListener("online", () => this.now());
    document.addEventListener("visibilitychange", () => this.seen());
  }

  open() {
    clearTimeout(this.timer);
    this.source?.close();
    this.opened = performance.now();
    this.source = new EventSource("events");
    this.source.addEventListener("state", (event) => this.take(event));
    this.source.addEventListener("error", () => this.later());
  }

  take(event) {
    this.last = performance.now();
    this.tries = 0;
    this.onState(JSON.parse(event.data));
    this.set("live");
  }

  // A browser's own reconnecting gives up at the first refusal: a restart of the server would end this page.
  later() {
    this.source.close();
    this.set("lost");
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.open(), Math.min(LONGEST, 500 * 2 ** this.tries));
    this.tries += 1;
  }

  // A browser has six connections to one server: tabs that nobody sees leave theirs to others. Nothing is missing when
  // they come back, as the first event brings the history.
  seen() {
    clearTimeout(this.leaving);
    if (document.hidden) this.leaving = setTimeout(() => this.leave(), HIDDEN_AFTER);
    else if (this.link !== "live") this.now();
  }

  leave() {
    this.source.close();
    clearTimeout(this.timer);
    this.set("connecting");
  }

  now() {
    this.tries = 0;
    this.open();
  }

  watch() {
    const since = performance.now() - Math.max(this.last ?? 0, this.opened);
    if (this.link === "live" && since > SILENT_AFTER) this.later();
    this.onLink(this.link, this.age());
  }

  age() {
    return this.last === null ? null : (performance.now() - this.last) / 1000;
  }

  set(link) {
    if (this.link === link) return;
    this.link = link;
    this.onLink(link, this.age());
  }
}
