// From one search to the next, and back: the URL, the history, and where each page was scrolled to.

import { fromAddress, toAddress } from "./address.js";
import { closeDialogs } from "./dialogs.js";
import { $ } from "./elements.js";
import { grid } from "./grid.js";
import { showNotice } from "./notice.js";
import { likeItem, state } from "./state.js";

/** @typedef {import("./state.js").Search} Search */

/**
 * How a search is shown.
 * @typedef {object} How
 * @property {boolean} [focus]   put the focus on the first result that is not the query
 * @property {boolean} [back]    come back to it: kept answers serve however old they are
 * @property {boolean} [travel]  move cards to their new places
 * @property {boolean} [deep]    ask for as many results as the fine stage may order
 */

/** What the page does to show a search; set by main.js. */
export const navigationHooks = {
  /** @type {(next: Search, how: How) => Promise<void>} */
  show: async () => {},
};

/** Let Back and Forward bring the page to the searches of the history. */
export function listenToHistory() {
  history.scrollRestoration = "manual";
  addEventListener("popstate", (event) => arrive(event.state));
}

/**
 * Go to a search, as a new step of the history or, without `push`, in place of the present one.
 * @param {Search} next
 * @param {How & { push?: boolean }} [options]
 */
export function go(next, { push = true, ...how } = {}) {
  remember();
  const entry = { upload: next.upload };
  if (push) history.pushState(entry, "", toAddress(next));
  else history.replaceState(entry, "", toAddress(next));
  return navigationHooks.show(next, how);
}

/** Search for pictures similar to an entry. @param {{ id: number }} entry */
export const goLike = (entry) => go(likeItem(entry.id), { focus: true });

/** Go to the start page without filters. */
export const goHome = () => go(fromAddress(""));

/** Go to the present search without its filters. */
export const removeFilters = () => go({ ...state.search, where: [] }, { push: false });

/** Show the present search once more. */
export const showAgain = () => navigationHooks.show(state.search, {});

/** Keep in the history where the page is scrolled to and which card has the focus. */
function remember() {
  const place = { scroll: scrollY, focus: grid.focusedId };
  history.replaceState({ ...history.state, ...place }, "");
}

/**
 * Show the search of the URL as its step of the history left it.
 * @param {{ upload?: string, scroll?: number, focus?: number } | null} entry  of history.state
 */
export async function arrive(entry) {
  closeDialogs();
  const next = fromAddress(location.search);
  if (next.id === null) next.upload = entry?.upload ?? null;
  const lost = next.upload !== null && !state.uploads.get(next.upload);
  if (lost) next.upload = next.box = null;
  await navigationHooks.show(next, { back: true });
  if (lost)
    showNotice(
      "The picture of this search was kept only in this tab and is gone. " +
        "Choose it again to repeat the search.",
    );
  const { activeElement } = document;
  const focusIsFree = activeElement === document.body || $("grid").contains(activeElement);
  if (focusIsFree && Number.isInteger(entry?.focus)) grid.focus(entry.focus);
  scrollTo(0, entry?.scroll ?? 0);
}
