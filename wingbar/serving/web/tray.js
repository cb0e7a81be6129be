// The tray: the selected pictures, and what can be done with all of them.

import { request } from "./api.js";
import { $, make } from "./elements.js";
import { copy, save, toCsv } from "./exports.js";
import { grid } from "./grid.js";
import { openLabel } from "./labels.js";
import { go } from "./navigation.js";
import { showNotice } from "./notice.js";
import { removeSoon } from "./removal.js";
import { likePicture, state } from "./state.js";
import { makeThumb } from "./thumbs.js";
import { plural } from "./words.js";
import { zipOf } from "./zip.js";

/** @typedef {import("./card.js").Entry} Entry */

const SHOWN = 5; // thumbnails in the tray
const MOST_QUERIES = 8; // pictures of one query
const MOST_ZIPPED = 500; // pictures, which are in memory meanwhile

/** The picture that a range of the selection begins at. @type {number | null} */
let anchor = null;

/** What the page does for the tray; set by main.js. */
export const trayHooks = {
  /** Show these pictures alone. @type {(entries: Entry[]) => void} */
  only: () => {},
};

/** Listen to the buttons of the tray, and to the switch of selecting. */
export function listenToTray() {
  /** @type {Record<string, () => void>} */
  const actions = {
    search: searchWithThese,
    only: showOnlyThese,
    paths: () =>
      copy(
        chosen()
          .map(({ path }) => path)
          .join("\n"),
        `${plural(state.selected.size, "path")} copied.`,
      ),
    zip: () => saveZip(chosen()),
    csv: () => save("pictures.csv", "text/csv", toCsv(chosen())),
    json: () => save("pictures.json", "application/json", JSON.stringify(chosen(), null, 2)),
    label: () => openLabel(chosen()),
    remove: () => removeSoon(chosen()),
    all: () => select(grid.entries.map(({ id }) => id)),
    clear: clearSelection,
  };
  for (const [name, action] of Object.entries(actions))
    $(`tray-${name}`).addEventListener("click", action);
  $("select-mode").addEventListener("click", toggleSelecting);
}

/** Select pictures besides those that are. @param {number[]} ids */
export function select(ids) {
  for (const id of ids) state.selected.add(id);
  drawTray();
}

/**
 * Select a picture or no longer; with `range`, all from the last one to it.
 * @param {{ id: number }} entry
 * @param {boolean} [range]
 */
export function toggleSelected({ id }, range = false) {
  if (range && anchor !== null) {
    select(grid.between(anchor, id));
  } else {
    if (!state.selected.delete(id)) state.selected.add(id);
    drawTray();
  }
  anchor = id;
}

/** Select nothing. */
export function clearSelection() {
  state.selected.clear();
  anchor = null;
  setSelecting(false);
  drawTray();
}

/** Let clicks select, or no longer. */
export const toggleSelecting = () => setSelecting(!grid.selecting);

/** Whether there is something to clear. */
export const hasSelection = () => state.selected.size > 0 || grid.selecting;

/** Show what is selected. */
export function drawTray() {
  const { size } = state.selected;
  $("tray").hidden = !size && !grid.selecting;
  document.body.classList.toggle("with-tray", !$("tray").hidden);
  $("tray-text").textContent = size
    ? `${plural(size, "picture")} selected`
    : "Click pictures, or drag around them";
  const items = [...state.selected].slice(-SHOWN).map((id) => make("li", {}, makeThumb(id)));
  $("tray-pictures").replaceChildren(...items);
  const entries = chosen();
  $("tray-paths").hidden = !entries.some(({ path }) => path);
  $("tray-label").hidden = $("tray-remove").hidden = !state.info?.writable;
  for (const button of $("tray").querySelectorAll("button:not(#tray-all, #tray-clear)"))
    button.disabled = !size;
  grid.showSelection();
}

/** @param {boolean} on */
function setSelecting(on) {
  grid.selecting = on;
  document.body.classList.toggle("selecting", on);
  $("select-mode").setAttribute("aria-pressed", String(on));
  drawTray();
}

/** The newest records of the selected pictures. @returns {any[]} */
const chosen = () => [...state.selected].map((id) => state.known.get(id)).filter(Boolean);

function showOnlyThese() {
  const entries = chosen();
  clearSelection();
  trayHooks.only(entries);
}

function searchWithThese() {
  const [query, ...like] = [...state.selected].slice(0, MOST_QUERIES);
  const { size } = state.selected;
  clearSelection();
  go({ ...likePicture(query), like }, { focus: true });
  if (size > MOST_QUERIES)
    showNotice(`Searching with the first ${MOST_QUERIES} of ${size} pictures.`, [], "wait");
}

/** @param {Entry[]} entries */
async function saveZip(entries) {
  const some = entries.filter(({ available }) => available).slice(0, MOST_ZIPPED);
  /** @type {{ name: string, data: Uint8Array }[]} */
  const files = [];
  try {
    for (const [i, { name, image }] of some.entries()) {
      $("tray-text").textContent = `Reading picture ${i + 1} of ${some.length}…`;
      const response = await request(image);
      const type = response.headers.get("content-type") ?? "";
      files.push({ name: named(name, type), data: new Uint8Array(await response.arrayBuffer()) });
    }
    save("pictures.zip", "application/zip", /** @type {BlobPart} */ (zipOf(files)));
  } catch (/** @type {any} */ problem) {
    showNotice(`The pictures were not zipped. ${problem.message}`, [
      ["Try again", () => saveZip(entries)],
    ]);
  }
  drawTray();
  if (entries.length > some.length)
    showNotice(
      `${plural(entries.length - some.length, "picture")} left out: a zip holds at most ` +
        `${MOST_ZIPPED}, and only files that are still there.`,
      [],
      "wait",
    );
}

/** The name of a file whose picture may come in another format. @param {string} name @param {string} type */
function named(name, type) {
  const endings = /** @type {Record<string, RegExp>} */ ({
    "image/jpeg": /\.jpe?g$/i,
    "image/png": /\.png$/i,
    "image/webp": /\.webp$/i,
  });
  if (!endings[type] || endings[type].test(name)) return name;
  return `${name.replace(/\.[^.]*$/, "")}.${type.slice(6).replace("jpeg", "jpg")}`;
}
