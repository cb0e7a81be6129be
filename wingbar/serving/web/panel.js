// The panel of options and filters, and the switch between coarse and fine order.

import { $ } from "./elements.js";
import { Filters } from "./filters.js";
import { go } from "./navigation.js";
import { fineOf, hasQuery, state, withFine } from "./state.js";
import { count, plural } from "./words.js";

/** @typedef {import("./state.js").Search} Search */

const K_STOPS = [6, 12, 24, 48, 96, 200, 500, 1000];
const SHORTLIST_STOPS = [50, 100, 200, 500, 1000, 2000, 5000, 10000];
const MOST_BITS = 64; // of a radius, while the index is empty
const PAUSE = 180; // ms after the last move of a slider before it counts
const STAGES = {
  ties: "Pictures at the same distance are ordered by the cosine of their features.",
  pool: "The nearest pictures by code are re-ranked by the cosine of their features.",
  asymmetric:
    "The nearest pictures by code are re-ranked by how well their bits match the query's logits.",
};

const wide = matchMedia("(min-width: 60rem)");

const filters = new Filters($("filters"), $("chosen"), (where) =>
  go({ ...state.search, where }, { push: false }),
);

/**
 * Listen to the sliders, the fine stage and the order; unfold the panel where there is room for it.
 */
export function listenToPanel() {
  listenToSlider("k", kText, () => ({ k: kStops()[$("k").value] }));
  listenToSlider("radius", radiusText, () => {
    const { value, max } = $("radius");
    return { radius: value === max ? null : Number(value) };
  });
  listenToSlider("shortlist", shortlistText, () => ({
    shortlist: SHORTLIST_STOPS[$("shortlist").value],
  }));
  $("stage").addEventListener("change", () =>
    go(withFine($("stage").value), { push: false, travel: true }),
  );
  for (const input of orderInputs()) input.addEventListener("change", toggleOrder);
  wide.addEventListener("change", unfold);
  unfold();
}

/** Offer the filters of the index. */
export const offerFilters = () => filters.offer(state.info);

/** Show the options and filters of the present search. */
export function drawPanel() {
  $("options").hidden = !hasQuery();
  $("panel").hidden = !hasQuery() && !state.info.items;
  $("panel-name").textContent = hasQuery() ? "Options and filters" : "Filters";
  drawSliders();
  $("stage").value = state.stage;
  $("stage-note").textContent = STAGES[state.stage];
  $("shortlist-field").hidden = fineOf() === "none";
  filters.show(state.search.where);
}

/** Check the order that the results are in. @param {boolean} coarse */
export function drawOrder(coarse) {
  for (const input of orderInputs()) input.checked = (input.value === "coarse") === coarse;
  $("order-note").textContent = coarse
    ? "Coarse: by the number of differing bits alone"
    : "Fine: by bits first, then by the fine stage";
}

/**
 * Coarse to fine and back. The coarse order is asked for as deep as the shortlist, so that all
 * moves are known.
 */
export function toggleOrder() {
  if (!hasQuery()) return;
  const toCoarse = fineOf() !== "none";
  const next = withFine(toCoarse ? "none" : state.stage);
  go(next, { push: false, travel: true, deep: toCoarse });
}

const orderInputs = () =>
  /** @type {NodeListOf<HTMLInputElement>} */ (document.getElementsByName("order"));

function unfold() {
  $("panel").open = wide.matches;
}

function drawSliders() {
  const { search, info } = state;
  $("k").max = kStops().length - 1;
  $("k").value = nearestStop(kStops(), search.k);
  $("radius").max = info.bits ?? MOST_BITS;
  $("radius").value = search.radius ?? $("radius").max;
  $("shortlist").max = SHORTLIST_STOPS.length - 1;
  $("shortlist").value = nearestStop(SHORTLIST_STOPS, search.shortlist);
  drawValue("k", kText(search));
  drawValue("radius", radiusText(search));
  drawValue("shortlist", shortlistText(search));
}

/**
 * Search again once a slider has come to rest.
 * @param {string} id
 * @param {(search: Search) => string} textOf  its value in words
 * @param {() => Partial<Search>} valueOf
 */
function listenToSlider(id, textOf, valueOf) {
  $(id).addEventListener("input", () => {
    const next = { ...state.search, ...valueOf() };
    drawValue(id, textOf(next));
    clearTimeout(state.timers.slider);
    state.timers.slider = setTimeout(() => go(next, { push: false }), PAUSE);
  });
}

/** @param {string} id @param {string} text */
function drawValue(id, text) {
  $(`${id}-out`).textContent = text;
  $(id).setAttribute("aria-valuetext", text);
}

const kStops = () => K_STOPS.filter((k) => k <= (state.info.limits?.k ?? 1000));

/** Position of the stop nearest to a value. @param {number[]} stops @param {number} value */
function nearestStop(stops, value) {
  const away = stops.map((stop) => Math.abs(stop - value));
  return away.indexOf(Math.min(...away));
}

/** @param {Search} search */
const kText = ({ k }) => count(k);

/** @param {Search} search */
const radiusText = ({ radius }) =>
  radius === null ? "any distance" : `up to ${plural(radius, "bit")}`;

/** @param {Search} search */
const shortlistText = ({ shortlist }) => count(shortlist);
