// Numbers and times for people. What is not known is never a number.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

export const known = (value) => value !== null && value !== undefined;

export const count = (value) => (known(value) ? whole.format(value) : "unknown");

export function bytes(value) {
  if (!known(value)) return "unknown";
  if (Math.abs(value) < 1000) return `${whole.format(value)} B`;
  const units = ["kB", "MB", "GB", "TB", "PB"];
  let n = value / 1000, unit = 0;
  while (Math.abs(n) >= 999.5 && unit < units.length - 1) { n /= 1000; unit += 1; }
  return `${n.toFixed(Math.abs(n) < 10 ? 2 : Math.abs(n) < 100 ? 1 : 0)} ${units[unit]}`;
}

export function seconds(value) {
  if (!known(value)) return "unknown";
  return value < 100 ? value.toFixed(1) : whole.format(value);
}

export function duration(value) {
  if (!known(value)) return "unknown";
  const s = Math.max(0, Math.round(value));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60 && s < 600 ? `${s % 60} s` : ""}`.trim();
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  if (s < 86400 * 365) return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
  return "over a year";
}

export function rate(value, unit = "") {
  if (!known(value)) return "unknown";
  const text = value > 0 && value < 9.95 ? value.toFixed(1) : whole.format(value);
  return `${text}${unit}/s`;
}

export const byteRate = (value) => (known(value) ? `${bytes(Math.round(value))}/s` : "unknown");

export const clock = (epoch) => new Date(epoch * 1000).toLocaleTimeString([], { hour12: false });

export const SIGN = { true: "✓", false: "✕", unknown: "?" };
export const okOf = (value) => (value === true ? "true" : value === false ? "false" : "unknown");
export const WORD = { true: "in order", false: "not in order", unknown: "unknown" };
