// Small words for people: numbers, plurals, names that break at underscores, elements.

const NUMBER = new Intl.NumberFormat("en");

export const count = (n) => NUMBER.format(n);
export const plural = (n, word, many = `${word}s`) => `${count(n)} ${n === 1 ? word : many}`;
export const milliseconds = (ms) => (ms < 10 ? String(Math.round(ms * 10) / 10) : count(Math.round(ms)));

export function bytes(n) {
  if (n < 1e6) return `${Math.max(1, Math.round(n / 1e3))} KB`;
  return `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} MB`;
}

/** Put `text` into `element`, with places to break after underscores, dashes and dots. */
export function named(element, text) {
  element.replaceChildren(...text.split(/(?<=[_\-./])/).flatMap((part, i) => (i ? [document.createElement("wbr"), part] : [part])));
}

/** An element with properties and children: make("button", { type: "button" }, "Go on"). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}
