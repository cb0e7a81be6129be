// The results of a search on the page: the cards, the summary above them, what moved between the
// coarse and the fine order, and further results as the person scrolls.

import { $ } from "./elements.js";
import { grid } from "./grid.js";
import { dismissNotice, showNotice } from "./notice.js";
import { drawOrder } from "./panel.js";
import { drawTitle, queryName, setOutcome, setQuerySize } from "./query.js";
import { answerInOtherOrder, answerTo, deeper, nextDepth } from "./search.js";
import { state } from "./state.js";
import { nothingFound, showPlaceholder } from "./status.js";
import { count, milliseconds, plural } from "./words.js";

const FEWEST = 500; // pictures of a collection that show what is alike by chance

/** @typedef {import("./api.js").Found} Found */
/** @typedef {import("./card.js").Entry} Entry */
/** @typedef {import("./state.js").Search} Search */
/** @typedef {import("./state.js").Answer} Answer */

/**
 * Search, and show the results unless `signal` has fired meanwhile.
 * @param {Search} search
 * @param {AbortSignal} signal
 * @param {import("./navigation.js").How} how
 */
export async function showResults(search, signal, { travel, deep, back, focus }) {
  const answer = await answerTo(search, signal, { deep, back });
  if (signal.aborted) return;
  if (focus) scrollTo(0, 0); // before anything changes, so that it costs no layout
  dismissNotice();
  const { response } = answer;
  if (response.failed?.length) showNotice(failedText(response.failed));
  const hits = take(search, answer, signal);
  const size = response.query;
  if (size && !search.box) setQuerySize([size.width, size.height]);
  setOutcome("found");
  const { ranking, sure } = state.results;
  grid.show(hits, { travel, ranking, lineAt: sure || null });
  drawSummary();
  showPlaceholder(hits.length ? null : nothingFound(search.radius, search.where));
}

/** Show further results, if there are more and they are not on their way. */
export async function showFurther() {
  const { results, search } = state;
  if (!results || results.loading || results.complete) return;
  results.loading = true;
  const { signal } = results;
  const kept = { ...results, at: performance.now(), depth: results.depth };
  const answer = await deeper(search, kept, signal);
  if (signal.aborted || results !== state.results) return;
  const shown = results.hits.length;
  const hits = take(search, answer, signal);
  grid.append(hits.slice(shown), state.results.sure || null);
  drawSummary();
}

/** Take a picture that was removed off the page. @param {Set<number>} ids */
export function takeOffResults(ids) {
  const { results } = state;
  results.hits = results.hits.filter(({ id }) => !ids.has(id));
  grid.remove(ids);
  drawSummary();
}

/**
 * Make an answer that of the page.
 * @param {Search} search
 * @param {Answer} answer
 * @param {AbortSignal} signal
 */
function take(search, { response, ms, depth }, signal) {
  const coarse = response.fine === "none";
  const other = answerInOtherOrder(search, coarse);
  const isShown = (/** @type {Entry} */ { id }) =>
    id !== search.query && !search.unlike.includes(id);
  const shown = (/** @type {import("./api.js").Hit[]} */ all) => all.filter(isShown);
  const hits = /** @type {Entry[]} */ (shown(response.hits));
  for (const [i, hit] of hits.entries()) hit.rank = i + 1; // without the query itself
  markTies(hits);
  markMoves(hits, coarse, other && shown(other.response.hits));
  for (const hit of hits) {
    hit.right = search.like.includes(hit.id);
    state.known.set(hit.id, { ...state.known.get(hit.id), .../** @type {any} */ (hit) });
  }
  const complete = nextDepth(search, depth) === null || response.hits.length < depth;
  const [ranking, sure] = [rankingOf(response), sureOf(hits, response)];
  state.results = { response, ms, hits, ranking, sure, depth, complete, loading: false, signal };
  state.browsing = null;
  return hits;
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
    tiesCount: fine === "none",
    other: fine === "none" ? "fine" : "coarse",
  };
}

/**
 * How many of the first hits are closer than chance explains, up to the last such one; null where
 * that is not known, and in small collections, where pictures of one kind are too many of all pairs.
 * @param {Entry[]} hits
 * @param {Found} response
 */
function sureOf(hits, { chance_from: limit }) {
  const isKnown = (/** @type {Entry} */ { p_chance }) => typeof p_chance === "number";
  if (!hits.some(isKnown) || state.info.items < FEWEST) return null;
  return hits.findLastIndex((hit) => isKnown(hit) && hit.p_chance <= limit) + 1;
}

/** Write into hits how many are at their distance. @param {Entry[]} hits */
function markTies(hits) {
  /** @type {Map<number, number>} */
  const ties = new Map();
  for (const { distance } of hits) ties.set(distance, (ties.get(distance) ?? 0) + 1);
  const inOrder = hits.every((hit, i) => !i || hits[i - 1].distance <= hit.distance);
  const last = inOrder ? hits.at(-1)?.distance : null;
  for (const hit of hits) {
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
  const ranks = others && new Map(others.map(({ id }, i) => [id, i + 1]));
  for (const hit of hits) {
    if (!ranks) delete hit.move;
    else if (ranks.has(hit.id)) hit.move = ranks.get(hit.id) - hit.rank;
    else hit.move = coarse ? "out" : "new";
  }
}

function drawSummary() {
  const { response, ms, hits, sure, complete } = state.results;
  const coarse = response.fine === "none";
  drawTitle();
  document.title = `${queryName()} · wingbar`;
  const some = complete || !hits.length ? plural(hits.length, "result") : "closest first";
  const unsure = sure === 0 ? ": none is surely alike" : "";
  $("status").textContent = `${some}${unsure}`;
  $("stages").textContent = `in ${milliseconds(ms)} ms: ${stagesText(response, ms)}`;
  const compared = hits.some(({ move }) => move !== undefined);
  $("moves").textContent = compared ? movesText(hits, coarse) : "";
  $("inspection").hidden = false;
  drawOrder(coarse);
}

/**
 * What took how long; the rest of `ms` went into the transfer.
 * @param {Found} response
 * @param {number} ms
 */
function stagesText({ fine, shortlist, cut, milliseconds: { total, ...stages } }, ms) {
  const names = /** @type {Record<string, string>} */ ({ queue: "waiting", fetch: "records" });
  const times = Object.entries(stages)
    .filter(([name, value]) => value > 0 && (name !== "fine" || fine !== "none"))
    .map(([name, value]) => [names[name] ?? name, value]);
  times.push(["transfer", Math.max(0, ms - total)]);
  const text = times.map(([name, value]) => `${name} ${milliseconds(Number(value))}`).join(" · ");
  if (fine === "none") return text;
  return `${text} · shortlist of ${count(shortlist)}${cut ? ", cut within a tie" : ""}`;
}

/** @param {Entry[]} hits @param {boolean} coarse */
function movesText(hits, coarse) {
  const countOf = (/** @type {(move: Entry["move"]) => boolean} */ test) =>
    hits.filter((hit) => test(hit.move)).length;
  const missing = coarse ? "not among its results" : "new";
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
