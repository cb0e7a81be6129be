// The dialog that gives pictures a label.

import { json } from "./api.js";
import { $, make } from "./elements.js";
import { refreshInfo } from "./info.js";
import { showNotice } from "./notice.js";
import { state } from "./state.js";
import { plural } from "./words.js";

/** @typedef {import("./api.js").Item} Item */

const MOST = 1000; // pictures of one request

/** What the page does once pictures are labelled; set by main.js. */
export const labelHooks = {
  /** @type {(ids: number[], label: string | null) => void} */
  labelled: () => {},
};

/** The pictures that the dialog is about, and what comes after. */
const asked = { items: /** @type {Item[]} */ ([]), then: () => {} };

/** Listen to the dialog. */
export function listenToLabels() {
  $("label-form").addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await label();
    } catch (/** @type {any} */ problem) {
      $("label-note").textContent = problem.message;
    }
  });
}

/** Ask for the label of pictures. @param {Item[]} items @param {() => void} [then] */
export function openLabel(items, then = () => {}) {
  Object.assign(asked, { items, then });
  const labels = Object.keys(state.info.label_counts ?? {});
  $("label-values").replaceChildren(...labels.map((value) => make("option", { value })));
  $("label-title").textContent =
    items.length === 1 ? `Label ${items[0].name}` : `Label ${plural(items.length, "picture")}`;
  const own = new Set(items.map((item) => item.label ?? ""));
  $("label-input").value = own.size === 1 ? [...own][0] : "";
  $("label-note").textContent = "";
  $("label").showModal();
}

async function label() {
  const ids = asked.items.map(({ id }) => id);
  const value = $("label-input").value.trim() || null;
  for (let i = 0; i < ids.length; i += MOST) {
    const body = JSON.stringify({ ids: ids.slice(i, i + MOST), label: value });
    await json("/api/items", { method: "PATCH", type: "application/json", body });
  }
  for (const id of ids) {
    const before = state.known.get(id);
    if (before) state.known.set(id, { ...before, label: value });
  }
  $("label").close();
  labelHooks.labelled(ids, value);
  await refreshInfo();
  asked.then();
  const what = plural(ids.length, "picture");
  showNotice(value ? `${what} labelled ${value}.` : `${what} without a label now.`, [], "good");
}
