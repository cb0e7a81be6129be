// Short ways to find, make and fill elements of the page.

/**
 * The element with this id. Every id used is in index.html (a test checks it), and the caller knows
 * what kind of element it is.
 * @type {(id: string) => any}
 */
export const $ = (id) => document.getElementById(id);

/**
 * An element with properties, attributes (names with a dash) and children:
 * make("button", { type: "button", "aria-label": "Close" }, "×").
 * @param {string} tag
 * @param {Record<string, any>} [properties]
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function make(tag, properties = {}, ...children) {
  /** @type {any} */
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

/**
 * A button that calls `action` when it is clicked.
 * @param {string} text
 * @param {() => void} action
 * @param {Record<string, any>} [properties]
 * @returns {HTMLButtonElement}
 */
export function makeButton(text, action, properties = {}) {
  const button = make("button", { type: "button", ...properties }, text);
  button.addEventListener("click", action);
  return button;
}

/**
 * Fill `element` with a name that may break into lines after underscores, dashes and slashes, and
 * before the endings of files, never inside of those.
 * @param {Element} element
 * @param {string} name
 */
export function setName(element, name) {
  const parts = name.split(/(\.\w{1,5}\b|[_\-/])/).flatMap((part, i) => {
    if (i % 2 === 0) return [part];
    if (part.length === 1) return [part, make("wbr")];
    return [make("wbr"), make("span", { className: "ending" }, part)];
  });
  element.replaceChildren(...parts.filter((part) => part !== ""));
}

/** Do something once the next frame is on the screen. @param {() => void} work */
export const afterFrame = (work) => requestAnimationFrame(() => setTimeout(work));
