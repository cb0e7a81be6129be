// The start page: the pictures of the index, more of them as the person scrolls.

import { json } from "./api.js";
import { $ } from "./elements.js";
import { grid } from "./grid.js";
import { refreshInfo } from "./info.js";
import { showAgain } from "./navigation.js";
import { report } from "./problems.js";
import { state } from "./state.js";
import { clearSummary, nothingFound, setBusy, showPlaceholder } from "./status.js";
import { count, plural } from "./words.js";

const PAGE = 60; // pictures in one request
const AHEAD = "600px"; // from the screen to the end of the pictures when the next are asked for

/** Show more pictures by the button, or once it comes near. */
export function listenToMore() {
  const showIfNear = (/** @type {IntersectionObserverEntry[]} */ entries) => {
    if (entries.some((entry) => entry.isIntersecting)) showMore();
  };
  $("more").addEventListener("click", showMore);
  new IntersectionObserver(showIfNear, { rootMargin: AHEAD }).observe($("more"));
}

/** Show the first pictures that match the filters. @param {AbortSignal} signal */
export async function showStart(signal) {
  const { info, search } = state;
  state.results = null;
  clearSummary();
  document.title = `${info.name} · wingbar`;
  if (!info.items) {
    showEmptyIndex();
    return;
  }
  setBusy(true);
  const { items, total } = await fetchPage(0, signal);
  state.browsing = { total, loaded: items.length, loading: false, signal };
  $("title").hidden = false;
  $("title").textContent = search.where.length
    ? "Pictures that match the filters"
    : "Or start from one of these";
  drawTotal();
  grid.show(items);
  $("more").hidden = items.length >= total;
  showPlaceholder(items.length ? null : nothingFound(null, search.where));
}

/** Take a picture that was removed off the page, which stays where it is. @param {number} id */
export function takeOff(id) {
  const { browsing } = state;
  const wasShown = grid.remove(id);
  if (wasShown) browsing.loaded--;
  if (wasShown || !state.search.where.length) browsing.total--;
  drawTotal();
}

/** Show the next pictures, if there are more and they are not on their way. */
export async function showMore() {
  const { browsing } = state;
  if (!browsing || browsing.loading || browsing.loaded >= browsing.total) return;
  browsing.loading = true;
  try {
    const { items, total } = await fetchPage(browsing.loaded, browsing.signal);
    if (browsing !== state.browsing) return;
    browsing.total = total;
    browsing.loaded = items.length ? browsing.loaded + items.length : total;
    grid.append(items);
    $("more").hidden = browsing.loaded >= total;
  } catch (error) {
    if (!browsing.signal.aborted) report(error, showMore);
  } finally {
    browsing.loading = false;
  }
}

/**
 * @param {number} offset
 * @param {AbortSignal} signal
 * @returns {Promise<{ items: import("./api.js").Item[], total: number }>}
 */
async function fetchPage(offset, signal) {
  const params = new URLSearchParams({
    offset: String(offset),
    limit: String(PAGE),
    spread: "true",
  });
  for (const condition of state.search.where) params.append("where", condition);
  const page = await json(`/api/items?${params}`, { signal });
  for (const item of page.items) state.known.set(item.id, item);
  return page;
}

/** Write how many pictures there are, or match the filters. */
function drawTotal() {
  const { total } = state.browsing;
  const all = plural(state.info.items, "picture");
  const isFiltered = state.search.where.length > 0;
  $("status").textContent = isFiltered ? `${count(total)} of ${all}` : plural(total, "picture");
}

function showEmptyIndex() {
  const { name } = state.info;
  grid.clear();
  $("status").textContent = "No pictures yet";
  $("title").hidden = $("more").hidden = true;
  showPlaceholder({
    title: "This index is empty",
    text: "Index a folder of pictures. They appear here without a restart:",
    code: `wingbar index ${name}${name.endsWith(".wb") ? "" : ".wb"} photos/`,
    actions: [["Check again", () => refreshInfo().then(showAgain)]],
  });
}
