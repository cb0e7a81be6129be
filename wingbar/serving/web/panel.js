// The panel of filters and search settings, and the switch between coarse and fine order.

import { $, make } from "./elements.js";
import { Filters, removableChip } from "./filters.js";
import { go } from "./navigation.js";
import { encoderOf, fineOf, hasQuery, isText, state, withFine } from "./state.js";
import { nameOf } from "./thumbs.js";
import { count, plural } from "./words.js";

/** @typedef {import("./state.js").Search} Search */

const SHORTLIST_STOPS = [50, 100, 200, 500, 1000, 2000, 5000, 10000];
const MOST_BITS = 64; // of a radius, while the index is empty
const PAUSE = 180; // ms after the last move of a slider before it counts
const STAGES = {
  ties: "Pictures at the same distance are ordered by the cosine of their features.",
  pool: "The nearest pictures by code are re-ranked by the cosine of their features.",
  asymmetric:
    "The nearest pictures by code are re-ranked by how well their bits match the query's logits.",
};
const NOTES = {
  none: "By the number of differing bits alone.",
  ties: "By the number of differing bits, ties by the cosine of features.",
  pool: "The nearest by code, re-ranked by the cosine of features.",
  asymmetric: "The nearest by code, re-ranked by bits against the query's logits.",
};

const filters = new Filters($("filters"), $("chosen"), (where) =>
  go({ ...state.search, where }, { push: false }),
);

/** Listen to the panel's button, its sliders, the fine stage and the order. */
export function listenToPanel() {
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
  $("distinct").addEventListener("change", () =>
    go({ ...state.search, distinct: $("distinct").checked }, { push: false, travel: true }),
  );
  $("encoder").addEventListener("change", () => {
    const [first] = state.info.encoders;
    const encoder = $("encoder").value === first ? null : $("encoder").value;
    // radius and fine stage are of the other's codes
    go({ ...state.search, encoder, radius: null, fine: null }, { travel: true });
  });
  for (const input of orderInputs()) input.addEventListener("change", toggleOrder);
  $("panel-button").addEventListener("click", () => openPanel($("panel").hidden));
  $("panel-close").addEventListener("click", () => openPanel(false));
}

/** Open the panel, or close it. @param {boolean} open */
export function openPanel(open) {
  $("panel").hidden = !open;
  document.body.classList.toggle("with-panel", open);
  $("panel-button").setAttribute("aria-expanded", String(open));
  if (open) $("panel").focus();
  else $("panel-button").focus({ preventScroll: true });
}

/** Offer the filters of the index. */
export const offerFilters = () => filters.offer(state.info);

/** Offer the encoders of the index, where there are several. */
export function offerEncoders() {
  const names = state.info.encoders;
  $("encoder").replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  drawEncoder();
}

/** Show which encoder answers; a text goes to the one that knows texts. */
function drawEncoder() {
  const { encoders } = state.info;
  $("encoder-field").hidden = encoders.length < 2 || isText(state.search.query);
  $("encoder").value = state.search.encoder ?? encoders[0];
}

/** Show the filters in use behind other chips. @param {HTMLElement[]} others */
export const drawChips = (others) => filters.show(state.search.where, others);

/** Show the filters and settings of the present search. */
export function drawPanel() {
  const { where, distinct, shortlist, radius } = state.search;
  drawEncoder();
  $("settings").hidden = !hasQuery();
  $("distinct").closest("label").hidden = !hasQuery() && Boolean(state.info.shards);
  $("distinct").checked = distinct;
  const inUse = where.length + Number(distinct);
  $("panel-count").hidden = !inUse;
  $("panel-count").textContent = String(inUse);
  drawSliders();
  $("stage").value = state.stage;
  $("stage-note").textContent = STAGES[state.stage];
  $("shortlist-field").hidden = fineOf() === "none";
  const others = partChip();
  if (hasQuery() && radius !== null) {
    const text = radiusText({ ...state.search, shortlist });
    const any = () => go({ ...state.search, radius: null }, { push: false });
    others.push(removableChip(text, "Any distance", any));
  }
  filters.show(where, others);
}

/** "Part of shoe.jpg ×", where a part of the query is searched. @returns {HTMLElement[]} */
function partChip() {
  const { query, box } = state.search;
  if (!box || query === null) return [];
  const text = `Part of ${nameOf(query)}`;
  const whole = () => go({ ...state.search, box: null });
  return [removableChip(text, "Search for the whole picture", whole)];
}

/** Check the order that the results are in. @param {boolean} coarse */
export function drawOrder(coarse) {
  for (const input of orderInputs()) input.checked = (input.value === "coarse") === coarse;
  $("order-note").textContent = NOTES[coarse ? "none" : fineOf()];
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

function drawSliders() {
  const { search } = state;
  $("radius").max = encoderOf().bits ?? MOST_BITS;
  $("radius").value = search.radius ?? $("radius").max;
  $("shortlist").max = SHORTLIST_STOPS.length - 1;
  $("shortlist").value = nearestStop(SHORTLIST_STOPS, search.shortlist);
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

/** Position of the stop nearest to a value. @param {number[]} stops @param {number} value */
function nearestStop(stops, value) {
  const away = stops.map((stop) => Math.abs(stop - value));
  return away.indexOf(Math.min(...away));
}

/** @param {Search} search */
const radiusText = ({ radius }) =>
  radius === null ? "any distance" : `up to ${plural(radius, "bit")}`;

/** @param {Search} search */
const shortlistText = ({ shortlist }) => count(shortlist);
