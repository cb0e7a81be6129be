// The dialog that shows how far it is with adding pictures, and what could not be used.

import { $, make } from "./elements.js";
import { showNotice } from "./notice.js";
import { count, plural } from "./words.js";

/** @typedef {{ name: string, reason: string }} Failed */

const SHOWN = 200; // reasons

/** Ends what is under way; null when nothing is. @type {(() => void) | null} */
let stop = null;

/** Listen to the button that stops, and then closes. */
export function listenToAdding() {
  $("adding-stop").addEventListener("click", () => {
    if (stop) stop();
    else $("adding").close();
  });
}

/** Open the dialog. @param {string} note @param {() => void} onStop */
export function openAdding(note, onStop) {
  stop = onStop;
  $("adding-note").textContent = note;
  $("adding-stop").textContent = "Stop";
  drawFailed([], 0);
  $("adding").showModal();
}

/**
 * Show how far it is.
 * @param {string} text
 * @param {number} done
 * @param {number} total  0 if that is not known yet
 */
export function drawAdding(text, done, total) {
  const bar = $("adding-bar");
  if (total) bar.max = total;
  if (total) bar.value = done;
  else bar.removeAttribute("value");
  $("adding-text").textContent = text;
}

/** List what could not be used. @param {Failed[]} failed @param {number} [failures]  all of them */
export function drawFailed(failed, failures = failed.length) {
  const items = failed
    .slice(0, SHOWN)
    .map(({ name, reason }) => make("li", {}, make("b", {}, name), ` ${reason}`));
  const more = failures - items.length;
  if (more > 0) items.push(make("li", {}, `and ${plural(more, "other")}`));
  $("adding-failed").replaceChildren(...items);
  $("adding-failed").hidden = !items.length;
}

/**
 * Say what came of it. The dialog closes unless something could not be used.
 * @param {string} text
 * @param {Failed[]} failed
 * @param {number} [failures]  all of them
 */
export function finishAdding(text, failed, failures = failed.length) {
  stop = null;
  if (!failures) {
    $("adding").close();
    showNotice(text, [], "good");
    return;
  }
  drawFailed(failed, failures);
  drawAdding(`${text} ${plural(failures, "picture")} could not be used:`, 1, 1);
  $("adding-stop").textContent = "Close";
  if (!$("adding").open) $("adding").showModal();
}

/** "3 of 1,234 pictures". @param {number} done @param {number} total */
export const ofPictures = (done, total) => `${count(done)} of ${plural(total, "picture")}`;
