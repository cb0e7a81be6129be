// Searches: a request to the server, or its answer from a moment ago.

import { toParameters, toRecord } from "./address.js";
import { fileBody, json, jsonBody } from "./api.js";
import { fineOf, queryFile, state, withFine } from "./state.js";
import { setBusy } from "./status.js";

/** @typedef {import("./state.js").Search} Search */
/** @typedef {import("./state.js").Answer} Answer */

const FRESH = 10_000; // ms for which an answer serves again without a request
const KEPT = 40; // answers

/**
 * The answer to a search.
 * @param {Search} search
 * @param {AbortSignal} signal
 * @param {{ deep?: boolean, back?: boolean }} options  `deep` asks for as many results as the fine
 *   stage may order; `back` takes a kept answer however old it is
 * @returns {Promise<Answer>}
 */
export async function answerTo(search, signal, { deep = false, back = false }) {
  const kept = state.answers.get(keyOf(search));
  if (kept && (back || performance.now() - kept.at < FRESH)) return kept;
  setBusy(true);
  const start = performance.now();
  const response = await send(deep ? deepened(search) : search, signal);
  const at = performance.now();
  const answer = { response, ms: at - start, at };
  keep(search, answer);
  return answer;
}

/**
 * The kept answer to the same search in the other order, coarse or fine, if there is one.
 * @param {Search} search
 * @param {boolean} coarse  whether `search` is in coarse order
 * @returns {Answer | undefined}
 */
export const answerInOtherOrder = (search, coarse) =>
  state.answers.get(keyOf(withFine(coarse ? state.stage : "none", search)));

/** Forget all answers, since the index has changed. */
export const forgetAnswers = () => state.answers.clear();

/**
 * @param {Search} search
 * @param {AbortSignal} signal
 * @returns {Promise<import("./api.js").Found>}
 */
function send(search, signal) {
  if (search.id !== null) return json("/api/search", { ...jsonBody(toRecord(search)), signal });
  const params = new URLSearchParams(toParameters(search));
  return json(`/api/search?${params}`, { ...fileBody(queryFile()), signal });
}

/** @param {Search} search */
function deepened(search) {
  const most = state.info.limits?.k ?? 1000;
  return { ...search, k: Math.min(most, Math.max(search.k, search.shortlist)) };
}

/** @param {Search} search @param {Answer} answer */
function keep(search, answer) {
  const { answers } = state;
  answers.delete(keyOf(search)); // so that it becomes the newest
  answers.set(keyOf(search), answer);
  for (const oldest of [...answers.keys()].slice(0, -KEPT)) answers.delete(oldest);
}

/** What the answer depends on. @param {Search} search */
const keyOf = (search) =>
  JSON.stringify([search.id, search.upload, toParameters({ ...search, fine: fineOf(search) })]);
