// Making and changing elements. Text is only ever text; nothing is touched that has not changed, so that a screen
// reader, a selection and the focus stay where they are.

const SVG = "http://www.w3.org/2000/svg";

export const $ = (id) => document.getElementById(id);

export function el(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Text of the server's in which `commands` stand between backticks.
export function tell(element, text) {
  if (element.dataset.told === text) return;
  element.dataset.told = text;
  element.replaceChildren(...text.split("`").map((piece, n) => (n % 2 ? el("code", {}, piece) : piece)).filter((piece) => piece !== ""));
}

export function mark(element, name, value) {
  if (value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function show(element, shown) {
  if (element.hidden === shown) element.hidden = !shown;
}

// One child per item, made once per key and then only changed: a button keeps its focus while the numbers beside it move.
export function keyed(parent, items, keyOf, make, change) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = known.get(key);
    known.delete(key);
    if (!child) {
      child = make(item);
      child.dataset.key = key;
    }
    if (child === before) before = before.nextElementSibling;
    else parent.insertBefore(child, before);
    change(child, item);
  }
  for (const child of known.values()) child.remove();
}

// An element by its class inside another, looked for once.
const parts = new WeakMap();
export function part(within, name) {
  if (!parts.has(within)) parts.set(within, new Map());
  const found = parts.get(within);
  if (!found.has(name)) found.set(name, within.querySelector(`.${name}`));
  return found.get(name);
}
