// From one search to the next, and back: the URL, the history, and where each page was scrolled to.

import { fromAddress, toAddress } from "./address.js";
import { closeDialogs } from "./dialogs.js";
import { $ } from "./elements.js";
import { grid } from "./grid.js";
import { showNotice } from "./notice.js";
import { isText, likePicture, NOTHING, state } from "./state.js";

/** @typedef {import("./state.js").Search} Search */

/**
 * How a search is shown.
 * @typedef {object} How
 * @property {boolean} [focus]   put the focus on the first result
 * @property {boolean} [back]    come back to it: kept answers serve however old they are
 * @property {boolean} [travel]  move cards to their new places
 * @property {boolean} [deep]    ask for as many results as the fine stage may order
 * @property {number} [least]    pictures that are wanted at least
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
  if (push) history.pushState({}, "", toAddress(next));
  else history.replaceState({}, "", toAddress(next));
  return navigationHooks.show(next, how);
}

/** Search for pictures similar to an entry. @param {{ id: number }} entry */
export const goLike = (entry) => go(likePicture(entry.id), { focus: true });

/** Go to the start page without filters. */
export const goHome = () => go({ ...NOTHING, encoder: state.search.encoder });

/** Go to the present search without its filters. */
export const removeFilters = () => go({ ...state.search, where: [] }, { push: false });

/** Show the present search once more. */
export const showAgain = () => navigationHooks.show(state.search, {});

/** Keep in the history where the page is scrolled to and which card has the focus. */
function remember() {
  const place = { scroll: scrollY, focus: grid.focusedId, least: grid.entries.length };
  history.replaceState({ ...history.state, ...place }, "");
}

/**
 * Show the search of the URL as its step of the history left it.
 * @param {{ scroll?: number, focus?: number, least?: number } | null} entry  of history.state
 */
export async function arrive(entry) {
  closeDialogs();
  const next = fromAddress(location.search);
  const lost = await loadPictures(next);
  await navigationHooks.show(next, { back: true, least: entry?.least });
  if (lost)
    showNotice(
      "A picture of this search was kept only in the browser that searched with it, and is gone. " +
        "Choose it again to repeat the search.",
      [],
      "wait",
    );
  const { activeElement } = document;
  const focusIsFree = activeElement === document.body || $("grid").contains(activeElement);
  if (focusIsFree && Number.isInteger(entry?.focus)) grid.focus(entry.focus);
  scrollTo(0, entry?.scroll ?? 0);
}

/**
 * Load the pictures of this browser that a search needs, and take those that are gone out of it.
 * @param {Search} search
 * @returns {Promise<boolean>}  whether some are gone
 */
async function loadPictures(search) {
  const isThere = async (/** @type {import("./state.js").Picture} */ one) =>
    typeof one !== "string" || isText(one) || Boolean(await state.uploads.load(one));
  const before = [search.query, ...search.like, ...search.unlike];
  const there = await Promise.all(before.map(isThere));
  const gone = new Set(before.filter((_, i) => !there[i]));
  if (!gone.size) return false;
  search.like = search.like.filter((one) => !gone.has(one));
  search.unlike = search.unlike.filter((one) => !gone.has(one));
  if (gone.has(search.query)) {
    search.box = null;
    search.query = search.like.shift() ?? null;
    if (search.query === null) search.unlike = [];
  }
  return true;
}
