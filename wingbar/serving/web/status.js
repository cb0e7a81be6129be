// What stands around the pictures: the summary above them, the busy bar, and a text in their place.

import { $, make, makeButton } from "./elements.js";
import { go, removeFilters } from "./navigation.js";
import { state } from "./state.js";
import { plural } from "./words.js";

const PATIENCE = 150; // ms before the page looks busy

/**
 * A text in the place of pictures.
 * @typedef {object} Placeholder
 * @property {string} title
 * @property {string} text
 * @property {string} [code]  a command
 * @property {import("./notice.js").Action[]} actions
 */

/** Show whether requests are under way. @param {boolean} busy */
export function setBusy(busy) {
  const { timers } = state;
  clearTimeout(timers.busy);
  $("results").setAttribute("aria-busy", String(busy));
  if (busy) timers.busy = setTimeout(() => document.body.classList.add("busy"), PATIENCE);
  else document.body.classList.remove("busy");
}

/** Take away what belongs to results alone: the order and the times of the stages. */
export function clearSummary() {
  $("inspection").hidden = true;
  for (const id of ["stages", "order-note", "moves"]) $(id).textContent = "";
}

/**
 * Show a text in the place of pictures, or with null take it away.
 * @param {Placeholder | null} content
 */
export function showPlaceholder(content) {
  $("blank").hidden = !content;
  $("blank").replaceChildren();
  if (!content) return;
  const { title, text, code, actions } = content;
  $("blank").append(make("h2", {}, title), make("p", {}, text));
  if (code) $("blank").append(make("pre", {}, make("code", {}, code)));
  const buttons = actions.map(([name, action]) => makeButton(name, action));
  $("blank").append(make("div", { className: "buttons" }, ...buttons));
}

/**
 * Why a search or a start page has no pictures, and what would bring some.
 * @param {number | null} radius
 * @param {string[]} where
 * @returns {Placeholder}
 */
export function nothingFound(radius, where) {
  /** @type {import("./notice.js").Action[]} */
  const actions = [];
  const why = [];
  if (radius !== null) {
    why.push(`within ${plural(radius, "bit")}`);
    actions.push(["Any distance", () => go({ ...state.search, radius: null }, { push: false })]);
  }
  if (where.length) {
    why.push("that matches the filters");
    actions.push(["Remove the filters", removeFilters]);
  }
  const text = why.length
    ? `No picture ${why.join(" ")}.`
    : "This index has no other picture to compare with.";
  return { title: "Nothing found", text, actions };
}
