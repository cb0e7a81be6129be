// The results of a search on the page: the cards, the summary above them, and what moved between
// the coarse and the fine order.

import { $ } from "./elements.js";
import { grid } from "./grid.js";
import { dismissNotice, showNotice } from "./notice.js";
import { drawOrder } from "./panel.js";
import { drawTitle, queryName, setOutcome, setQuerySize } from "./query.js";
import { answerInOtherOrder, answerTo } from "./search.js";
import { state } from "./state.js";
import { nothingFound, showPlaceholder } from "./status.js";
import { count, milliseconds, plural } from "./words.js";

/** @typedef {import("./api.js").Found} Found */
/** @typedef {import("./grid.js").Entry} Entry */
/** @typedef {import("./state.js").Search} Search */

/**
 * Search, and show the results unless `signal` has fired meanwhile.
 * @param {Search} search
 * @param {AbortSignal} signal
 * @param {import("./navigation.js").How} how
 */
export async function showResults(search, signal, { travel, deep, back }) {
  const { response, ms } = await answerTo(search, signal, { deep, back });
  if (signal.aborted) return;
  dismissNotice();
  if (response.failed?.length) showNotice(failedText(response.failed));
  const coarse = response.fine === "none";
  const other = answerInOtherOrder(search, coarse);
  const hits = /** @type {Entry[]} */ (response.hits.slice(0, search.k));
  markQueryAndTies(hits, search);
  const unlike = hits.find(({ p_chance: p }) => p !== null && p > response.chance_from);
  for (const hit of hits) hit.byChance = hit === unlike;
  markMoves(hits, coarse, other?.response.hits);
  for (const hit of hits) state.known.set(hit.id, /** @type {import("./api.js").Hit} */ (hit));
  const ranking = rankingOf(response);
  state.results = { response, ms, hits, ranking };
  state.browsing = null;
  const size = response.query;
  if (size && !search.box) setQuerySize([size.width, size.height]);
  setOutcome("found");
  grid.show(hits, { travel, ranking });
  drawSummary(Boolean(other));
  $("more").hidden = true;
  $("bar-tools").hidden = false;
  showPlaceholder(hits.length ? null : nothingFound(search.radius, search.where));
}

/** What is missing, and why. @param {{ name: string, reason: string }[]} failed */
const failedText = (failed) =>
  `Results are missing: ${failed.map(({ name, reason }) => `${name} does not answer (${reason})`).join("; ")}`;

/** @param {Found} response @returns {import("./state.js").Ranking} */
function rankingOf({ bits, code, fine }) {
  const isAgreement = fine === "asymmetric";
  return {
    bits,
    code,
    score: isAgreement ? "agr" : "cos",
    scoreName: isAgreement ? "agreement" : "cosine",
    other: fine === "none" ? "fine" : "coarse",
  };
}

/**
 * Write into hits which one is the query, and how many are at their distance.
 * @param {Entry[]} hits
 * @param {Search} search
 */
function markQueryAndTies(hits, search) {
  /** @type {Map<number, number>} */
  const ties = new Map();
  for (const { distance } of hits) ties.set(distance, (ties.get(distance) ?? 0) + 1);
  const inOrder = hits.every((hit, i) => !i || hits[i - 1].distance <= hit.distance);
  const last = inOrder && hits.length === search.k ? hits.at(-1)?.distance : null;
  for (const hit of hits) {
    hit.self = hit.id === search.id;
    hit.ties = ties.get(hit.distance);
    hit.tiesGoOn = hit.distance === last;
  }
}

/**
 * Write into hits how far they moved against the other order, if that is known.
 * @param {Entry[]} hits
 * @param {boolean} coarse  whether `hits` are in coarse order
 * @param {import("./api.js").Hit[]} [others]  the hits in the other order
 */
function markMoves(hits, coarse, others) {
  const ranks = others && new Map(others.map((hit) => [hit.id, hit.rank]));
  for (const hit of hits) {
    if (!ranks) delete hit.move;
    else if (ranks.has(hit.id)) hit.move = ranks.get(hit.id) - hit.rank;
    else hit.move = coarse ? "out" : "new";
  }
}

/** @param {boolean} compared  whether the moves are known */
function drawSummary(compared) {
  const { response, ms, hits } = state.results;
  const coarse = response.fine === "none";
  drawTitle();
  document.title = `${queryName()} · wingbar`;
  $("status").textContent = `${plural(hits.length, "result")} in ${milliseconds(ms)} ms`;
  $("stages").textContent = stagesText(response, ms);
  $("moves").textContent = compared ? movesText(hits, coarse) : "";
  drawOrder(coarse);
}

/**
 * What took how long; the rest of `ms` went into the transfer.
 * @param {Found} response
 * @param {number} ms
 */
function stagesText({ fine, shortlist, cut, milliseconds: { total, ...stages } }, ms) {
  const times = Object.entries(stages).filter(([name, value]) => value > 0 || name === "coarse");
  times.push(["transfer", Math.max(0, ms - total)]);
  const text = times.map(([name, value]) => `${name} ${milliseconds(value)}`).join(" · ");
  if (fine === "none") return `${text} ms`;
  return `shortlist of ${count(shortlist)}${cut ? ", cut within a tie" : ""} · ${text} ms`;
}

/** @param {Entry[]} hits @param {boolean} coarse */
function movesText(hits, coarse) {
  const countOf = (/** @type {(move: Entry["move"]) => boolean} */ test) =>
    hits.filter((hit) => test(hit.move)).length;
  const missing = coarse ? `not among its first ${count(state.search.k)}` : "new";
  /** @type {[number, string][]} */
  const parts = [
    [countOf((move) => Number(move) > 0), "higher"],
    [countOf((move) => Number(move) < 0), "lower"],
    [countOf((move) => move === 0), "unchanged"],
    [countOf((move) => typeof move === "string"), missing],
  ];
  const text = parts.filter(([n]) => n).map(([n, what]) => `${count(n)} ${what}`);
  if (!text.length) return "";
  return `Compared with the ${coarse ? "fine" : "coarse"} order: ${text.join(", ")}`;
}
