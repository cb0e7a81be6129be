// Earlier searches: thumbnails of their queries, which survive a reload in this browser.

import { fromAddress, toAddress } from "./address.js";
import { $, make, makeButton } from "./elements.js";
import { go } from "./navigation.js";
import { hasQuery, isText, state } from "./state.js";
import { makeThumb, nameOf } from "./thumbs.js";

/**
 * An earlier search.
 * @typedef {object} Earlier
 * @property {string} index    fingerprint and name of the index that it was made in
 * @property {string} address
 * @property {string} name
 * @property {import("./state.js").Picture} query
 */

const KEY = "wingbar-searches";
const KEPT = 16; // searches of one index
const MOST = 64; // of all

/** Listen to the button that forgets them. */
export function listenToSearches() {
  $("forget").addEventListener("click", () => {
    write([]);
    state.uploads.forgetAllBut(uploadsInUse()).catch(() => {}); // a private window kept none
    drawSearches();
    $("results").focus({ preventScroll: true });
  });
}

/** Keep the present search, which takes the place of an earlier one of the same picture. */
export function rememberSearch() {
  if (!hasQuery()) return;
  const { query } = state.search;
  const index = indexKey();
  const others = read().filter((one) => one.index !== index || one.query !== query);
  const now = { index, address: toAddress(state.search), name: nameOf(query), query };
  const own = [now, ...others.filter((one) => one.index === index)].slice(0, KEPT);
  write([...own, ...others.filter((one) => one.index !== index)].slice(0, MOST));
  drawSearches();
}

/** Show the searches of this index. */
export function drawSearches() {
  const index = indexKey();
  const searches = read().filter((one) => one.index === index);
  $("history").hidden = !searches.length;
  const items = searches.map(({ address, name, query }) => {
    const button = makeButton("", () => open(address), {
      className: "earlier",
      "aria-label": `Search again: like ${name}`,
    });
    button.dataset.query = String(query);
    button.append(isText(query) ? make("span", { className: "said" }, name) : makeThumb(query));
    return make("li", {}, button);
  });
  $("searches").replaceChildren(...items);
  markSearch();
}

/** Mark which of them is the present search. */
export function markSearch() {
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (
    $("searches").querySelectorAll("button")
  ))
    button.ariaCurrent = String(button.dataset.query === String(state.search.query));
}

/** @param {string} address */
async function open(address) {
  const search = fromAddress(address.slice(1));
  for (const one of [search.query, ...search.like, ...search.unlike])
    if (typeof one === "string") await state.uploads.load(one);
  if (typeof search.query === "string" && !state.uploads.get(search.query)) return;
  await go(search, { focus: true });
}

const indexKey = () => `${state.info.name} ${state.info.fingerprint}`;

/** Keys of the person's pictures that the present search needs. */
const uploadsInUse = () =>
  [state.search.query, ...state.search.like, ...state.search.unlike]
    .filter((one) => typeof one === "string" && !isText(one))
    .map(String);

/** @returns {Earlier[]} */
function read() {
  try {
    const all = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(all) ? all : [];
  } catch {
    return [];
  }
}

/** @param {Earlier[]} searches */
function write(searches) {
  try {
    localStorage.setItem(KEY, JSON.stringify(searches));
  } catch {
    // a private window, or no room: they are kept as long as the page is
  }
}
