// The page for one search: the query, the panel, and its results or the start page.

import { $, afterFrame } from "./elements.js";
import { grid } from "./grid.js";
import { goHome } from "./navigation.js";
import { stopWaiting } from "./outage.js";
import { drawPanel } from "./panel.js";
import { report } from "./problems.js";
import { drawQuery, suggestRegions } from "./query.js";
import { showResults } from "./results.js";
import { markSearch, rememberSearch } from "./searches.js";
import { showStart } from "./start.js";
import { fineOf, hasQuery, state } from "./state.js";
import { setBusy } from "./status.js";

/** Listen to the skip link and to the link to the start page. */
export function listenToLinks() {
  $("skip").addEventListener("click", (/** @type {MouseEvent} */ event) => {
    event.preventDefault(); // an address with # would be a step in the history
    if (grid.entries.length) grid.focus();
    else $("results").focus();
  });
  $("home").addEventListener("click", (/** @type {MouseEvent} */ event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || !state.info) return;
    event.preventDefault();
    goHome();
    scrollTo(0, 0);
  });
}

/**
 * Bring the page to a search; what was under way ends.
 * @param {import("./state.js").Search} next
 * @param {import("./navigation.js").How} how
 */
export async function show(next, how) {
  state.running?.abort();
  stopWaiting("view");
  state.running = new AbortController();
  const { signal } = state.running;
  const isThere = next.encoder === null || next.encoder in state.info.by_encoder;
  drawFrame(isThere ? next : { ...next, encoder: null });
  try {
    if (hasQuery()) await showResults(state.search, signal, how);
    else await showStart(signal, how.least, how.travel);
    if (signal.aborted) return;
    if (how.focus) grid.focusFirst();
    if (hasQuery()) afterFrame(() => signal.aborted || afterResults());
  } catch (error) {
    if (!signal.aborted) report(error, () => show(next, { ...how, back: false }));
  } finally {
    if (!signal.aborted) setBusy(false);
  }
}

/** What can wait until the results are on the screen. */
function afterResults() {
  rememberSearch();
  suggestRegions();
}

/** Show all that needs no answer of the server. @param {import("./state.js").Search} next */
function drawFrame(next) {
  const before = state.search;
  const sameQuery = next.query === before.query && document.body.dataset.view === "results";
  const sameBox = sameQuery && String(next.box) === String(before.box);
  const sameSight = sameBox && next.encoder === before.encoder;
  state.search = next;
  const fine = fineOf();
  if (fine !== "none") state.stage = fine;
  document.body.dataset.view = hasQuery() ? "results" : "start";
  drawQuery(sameQuery, sameSight);
  drawPanel();
  markSearch();
}
