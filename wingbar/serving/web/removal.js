// Removal of a picture from the index, which can be undone for some seconds. Nothing is sent before
// they are over: a page that is closed meanwhile has removed nothing.

import { request } from "./api.js";
import { $, make, makeButton } from "./elements.js";
import { showNotice } from "./notice.js";
import { state } from "./state.js";

const SECONDS = 10; // in which a removal can be undone

/** What the page does once a picture is removed; set by main.js. */
export const removalHooks = {
  /** @type {(entry: import("./api.js").Item) => void} */
  removed: () => {},
};

/** Let the time stand still while the person is at the message. */
export function listenToRemoval() {
  const message = $("removal");
  for (const type of ["pointerenter", "focusin"]) message.addEventListener(type, stopClock);
  for (const type of ["pointerleave", "focusout"]) message.addEventListener(type, startClock);
  addEventListener("pagehide", forget);
}

/**
 * Remove a picture in some seconds. One that waits for its removal already is removed now.
 * @param {import("./api.js").Item} entry
 */
export function removeSoon(entry) {
  if (state.removal && state.removal.id !== entry.id) remove();
  state.removal = entry;
  const text =
    `${entry.name} will be removed from the index in ${SECONDS} seconds. ` +
    "If the file was uploaded here, it is deleted too.";
  const undo = () => {
    forget();
    $("results").focus({ preventScroll: true });
  };
  $("removal").replaceChildren(make("p", {}, text), makeButton("Undo", undo));
  $("removal").hidden = false;
  startClock();
}

function startClock() {
  stopClock();
  if (state.removal) state.timers.removal = setTimeout(remove, SECONDS * 1000);
}

function stopClock() {
  clearTimeout(state.timers.removal);
}

function forget() {
  stopClock();
  state.removal = null;
  $("removal").hidden = true;
}

async function remove() {
  const entry = state.removal;
  forget();
  try {
    await request(`/api/items/${entry.id}`, { method: "DELETE" });
  } catch (/** @type {any} */ problem) {
    const again = () => removeSoon(entry);
    showNotice(`${entry.name} was not removed. ${problem.message}`, [["Try again", again]]);
    return;
  }
  removalHooks.removed(entry);
}
