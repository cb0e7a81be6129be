// The start page: the pictures of the index, more of them as the person scrolls.

import { json } from "./api.js";
import { $ } from "./elements.js";
import { grid } from "./grid.js";
import { refreshInfo } from "./info.js";
import { removableChip } from "./filters.js";
import { go, goHome, showAgain } from "./navigation.js";
import { drawChips } from "./panel.js";
import { report } from "./problems.js";
import { state } from "./state.js";
import { clearSummary, nothingFound, setBusy, showPlaceholder } from "./status.js";
import { count, plural } from "./words.js";

const PAGE = 120; // pictures in one request

/**
 * Show the first pictures that match the filters.
 * @param {AbortSignal} signal
 * @param {number} [least]  how many of them, to come back to where the person was
 * @param {boolean} [travel]  whether pictures move to their new places
 */
export async function showStart(signal, least = PAGE, travel = false) {
  const { info } = state;
  state.results = null;
  clearSummary();
  document.title = `${info.name} · wingbar`;
  $("title").textContent = info.name.replace(/\.wb$/, "");
  $("sort").value = state.search.sort;
  $("sort-field").hidden = !info.items || Boolean(info.shards);
  if (!info.items) {
    showEmptyIndex();
    return;
  }
  setBusy(true);
  const { items, total } = await fetchPage(0, signal, Math.min(1000, Math.max(PAGE, least)));
  if (signal.aborted) return;
  state.browsing = { total, loaded: items.length, loading: false, signal };
  drawTotal();
  grid.show(items, { travel });
  showPlaceholder(items.length ? null : nothingFound(null, state.search.where));
}

/**
 * Show some pictures alone, until the next search.
 * @param {import("./card.js").Entry[]} entries
 */
export async function showSome(entries) {
  await goHome();
  state.browsing = { ...state.browsing, total: entries.length, loaded: entries.length };
  grid.show(entries);
  drawChips([removableChip("Only these", "All pictures", goHome)]);
  $("status").textContent = `${count(entries.length)} of ${plural(state.info.items, "picture")}`;
}

/** Listen to the order of the pictures. */
export function listenToSort() {
  $("sort").addEventListener("change", () =>
    go({ ...state.search, sort: $("sort").value }, { push: false, travel: true }),
  );
}

/** Take pictures that were removed off the page, which stays where it is. @param {Set<number>} ids */
export function takeOff(ids) {
  const { browsing } = state;
  const shown = grid.remove(ids);
  browsing.loaded -= shown;
  browsing.total -= state.search.where.length ? shown : ids.size;
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
  } catch (error) {
    if (!browsing.signal.aborted) report(error, showMore);
  } finally {
    browsing.loading = false;
  }
}

/**
 * @param {number} offset
 * @param {AbortSignal} signal
 * @param {number} [limit]
 * @returns {Promise<{ items: import("./api.js").Item[], total: number }>}
 */
async function fetchPage(offset, signal, limit = PAGE) {
  const params = new URLSearchParams({
    offset: String(offset),
    limit: String(limit),
    sizes: "true",
  });
  const { sort, distinct } = state.search;
  if (sort === "spread" && !distinct) params.set("spread", "true");
  else params.set("sort", sort);
  if (distinct) params.set("distinct", "true");
  for (const condition of state.search.where) params.append("where", condition);
  const page = await json(`/api/items?${params}`, { signal });
  for (const item of page.items) state.known.set(item.id, item);
  return page;
}

/** Write how many pictures there are, or match the filters. */
function drawTotal() {
  const { total } = state.browsing;
  const all = plural(state.info.items, "picture");
  const { where, distinct } = state.search;
  const isPart = where.length > 0 || distinct;
  const text = isPart ? `${count(total)} of ${all}` : plural(total, "picture");
  $("status").textContent = distinct && !where.length ? `${text}, copies stacked` : text;
}

function showEmptyIndex() {
  const { name } = state.info;
  grid.clear();
  $("status").textContent = "No pictures yet";
  const { writable } = state.info;
  /** @type {import("./notice.js").Action[]} */
  const actions = [["Check again", () => refreshInfo().then(showAgain)]];
  if (writable) actions.unshift(["Choose a folder", () => $("folder").click()]);
  if (state.info.index_folders)
    actions.unshift(["Index a folder of this machine", () => $("index-folder").click()]);
  showPlaceholder({
    title: "This index is empty",
    text: writable
      ? "Drop a folder of pictures here, or index one where it is:"
      : "Index a folder of pictures. They appear here without a restart:",
    code: `wingbar index ${name}${name.endsWith(".wb") ? "" : ".wb"} photos/`,
    actions,
  });
}
