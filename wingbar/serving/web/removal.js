// Removal of pictures from the index, which can be undone for some seconds. Nothing is sent before
// they are over: a page that is closed meanwhile has removed nothing.

import { request } from "./api.js";
import { $, make, makeButton } from "./elements.js";
import { showNotice } from "./notice.js";
import { state } from "./state.js";
import { plural } from "./words.js";

/** @typedef {import("./api.js").Item} Item */

const SECONDS = 10; // in which a removal can be undone
const MOST = 500; // pictures of one request

/** What the page does once pictures are removed; set by main.js. */
export const removalHooks = {
  /** @type {(items: Item[]) => void} */
  removed: () => {},
};

/** Let the time stand still while the person is at the message. */
export function listenToRemoval() {
  const message = $("removal");
  for (const type of ["pointerenter", "focusin"]) message.addEventListener(type, stopClock);
  for (const type of ["pointerleave", "focusout"]) message.addEventListener(type, startClock);
  addEventListener("pagehide", forget);
}

/** Remove pictures in some seconds. Others that wait for it are removed now. @param {Item[]} items */
export function removeSoon(items) {
  const ids = new Set(items.map(({ id }) => id));
  if (state.removal.some(({ id }) => !ids.has(id))) remove();
  state.removal = items;
  const text =
    `${whatOf(items)} will be removed from the index in ${SECONDS} seconds. ` +
    "Files that were uploaded here are deleted too, others stay.";
  const undo = () => {
    forget();
    $("results").focus({ preventScroll: true });
  };
  $("removal").replaceChildren(make("p", {}, text), makeButton("Undo", undo));
  $("removal").hidden = false;
  startClock();
}

/** @param {Item[]} items */
const whatOf = (items) => (items.length === 1 ? items[0].name : plural(items.length, "picture"));

function startClock() {
  stopClock();
  if (state.removal.length) state.timers.removal = setTimeout(remove, SECONDS * 1000);
}

function stopClock() {
  clearTimeout(state.timers.removal);
}

function forget() {
  stopClock();
  state.removal = [];
  $("removal").hidden = true;
}

async function remove() {
  const items = state.removal;
  forget();
  try {
    for (let i = 0; i < items.length; i += MOST) {
      const ids = items.slice(i, i + MOST).map(({ id }) => `id=${id}`);
      await request(`/api/items?${ids.join("&")}`, { method: "DELETE" });
    }
  } catch (/** @type {any} */ problem) {
    const again = () => removeSoon(items);
    const verb = items.length === 1 ? "was" : "were";
    showNotice(`${whatOf(items)} ${verb} not removed. ${problem.message}`, [["Try again", again]]);
    return;
  }
  removalHooks.removed(items);
}
