// Changes of the index: the dialog that adds the query, and what follows a removal.

import { json, Problem } from "./api.js";
import { $, make } from "./elements.js";
import { refreshInfo } from "./info.js";
import { go, goLike, showAgain } from "./navigation.js";
import { showNotice } from "./notice.js";
import { forgetAnswers } from "./search.js";
import { takeOff } from "./start.js";
import { queryFile, state } from "./state.js";

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

/** Bring the page up to date after a picture was removed. @param {import("./api.js").Item} entry */
export async function afterRemoval(entry) {
  forgetAnswers();
  state.known.delete(entry.id);
  await refreshInfo();
  if (state.search.id === entry.id) await go({ ...state.search, id: null, box: null });
  else if (state.browsing && state.browsing.loaded > 1) takeOff(entry.id);
  else await showAgain();
  showNotice(`${entry.name} was removed from the index.`, [], "good");
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
