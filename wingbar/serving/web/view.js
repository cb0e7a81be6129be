// How the pictures are shown: their size, and Inspect, which shows what the search measured. This
// browser remembers both.

import { $ } from "./elements.js";
import { grid } from "./grid.js";

const SIZE = "wingbar-size";
const INSPECT = "wingbar-inspect";
const narrow = matchMedia("(max-width: 40rem)");

/** Listen to the slider and to Inspect, and show the pictures as they were shown last. */
export function listenToView() {
  $("size").addEventListener("input", () => resize(Number($("size").value)));
  for (const id of ["inspect", "inspect-phone"]) $(id).addEventListener("click", toggleInspect);
  narrow.addEventListener("change", placeSize);
  placeSize();
  const size = Number(remembered(SIZE));
  $("size").value = size || 200;
  if (size) grid.size = size;
  inspect(remembered(INSPECT) === "true");
}

/** Show what the search measured, or hide it. */
export function toggleInspect() {
  inspect(!grid.inspecting);
  remember(INSPECT, String(grid.inspecting));
}

/** @param {boolean} on */
function inspect(on) {
  grid.inspecting = on;
  document.body.classList.toggle("inspecting", on);
  for (const id of ["inspect", "inspect-phone"]) $(id).setAttribute("aria-pressed", String(on));
  grid.relayout();
}

/** @param {number} size */
function resize(size) {
  grid.size = size;
  remember(SIZE, String(size));
  grid.relayout();
}

/** A phone has the slider in the panel. */
function placeSize() {
  if (narrow.matches) $("size-place").append($("size-field"));
  else $("inspect").before($("size-field"));
}

/** @param {string} key */
function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** @param {string} key @param {string} value */
function remember(key, value) {
  try {
    localStorage.setItem(key, value);
  } catch {
    // a private window
  }
}
