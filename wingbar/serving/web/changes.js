// Changes of the index: the dialog that adds the query, and what follows a removal or a label.

import { json, Problem } from "./api.js";
import { $, make } from "./elements.js";
import { grid } from "./grid.js";
import { refreshInfo } from "./info.js";
import { go, goLike, showAgain } from "./navigation.js";
import { showNotice } from "./notice.js";
import { takeOffResults } from "./results.js";
import { forgetAnswers } from "./search.js";
import { takeOff } from "./start.js";
import { queryFile, state, withoutPicture } from "./state.js";
import { drawTray } from "./tray.js";
import { plural } from "./words.js";

/** Listen to the button and the dialog that add the query. */
export function listenToAdd() {
  $("keep").addEventListener("click", openAdd);
  $("add-form").addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await addQuery();
    } catch (/** @type {any} */ problem) {
      $("add-note").textContent = problem.message;
    }
  });
}

/** Bring the page up to date after pictures were removed. @param {import("./api.js").Item[]} items */
export async function afterRemoval(items) {
  forgetAnswers();
  const ids = new Set(items.map(({ id }) => id));
  for (const id of ids) {
    state.known.delete(id);
    state.selected.delete(id);
  }
  drawTray();
  await refreshInfo();
  const { query } = state.search;
  if (ids.has(Number(query))) await go(withoutPicture(query));
  else if (state.results && state.results.hits.length > ids.size) takeOffResults(ids);
  else if (state.browsing && state.browsing.loaded > ids.size) takeOff(ids);
  else await showAgain();
  const what = items.length === 1 ? `${items[0].name} was` : `${plural(ids.size, "picture")} were`;
  showNotice(`${what} removed from the index.`, [], "good");
}

/** Write a new label on the cards. @param {number[]} ids @param {string | null} label */
export function afterLabel(ids, label) {
  forgetAnswers();
  const changed = new Set(ids);
  for (const entry of grid.entries) if (changed.has(entry.id)) entry.label = label;
  grid.rename(changed);
}

function openAdd() {
  const labels = Object.keys(state.info.label_counts ?? {});
  $("add-labels").replaceChildren(...labels.map((value) => make("option", { value })));
  $("add-note").textContent = "";
  $("add").showModal();
}

async function addQuery() {
  const file = queryFile();
  const label = $("add-label").value.trim();
  const form = new FormData();
  form.append("image", file, file.name);
  if (label) form.append("label", label);
  const { items, failed } = await json("/api/items", { method: "POST", body: form });
  if (failed?.length)
    throw new Problem("refused", `${failed[0].name} was not added: ${failed[0].reason}.`);
  $("add").close();
  forgetAnswers();
  await refreshInfo();
  if (!state.results?.hits.length) await showAgain(); // now there is one picture to find
  const showSimilar = () => goLike(items[0]);
  showNotice(
    `${file.name} was added to the index.`,
    [["Show similar pictures", showSimilar]],
    "good",
  );
}
