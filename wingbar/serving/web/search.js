// Searches: a request to the server, or its answer from a moment ago; and further results, each time
// several times as many.

import { toParameters, toRecord } from "./address.js";
import { fileBody, json, jsonBody, request } from "./api.js";
import { fileOf, fineOf, isText, state, withFine } from "./state.js";
import { setBusy } from "./status.js";

/** @typedef {import("./state.js").Search} Search */
/** @typedef {import("./state.js").Answer} Answer */
/** @typedef {import("./api.js").Found} Found */

const FRESH = 10_000; // ms for which an answer serves again without a request
const KEPT = 40; // answers
const FIRST = 60; // results of the first request
const FURTHER = [1000, 4000, 10_000]; // results of later ones; the first later one has a shortlist's

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
  const depth = deep ? Math.max(FIRST, search.shortlist) : FIRST;
  return keep(search, await timed(search, depth, signal));
}

/**
 * The same answer with more results behind those that it has; itself, if there are no more. Where
 * more are wanted than the shortlist holds, the fine stage looks at all of them: what is new of its
 * order comes behind what is there.
 * @param {Search} search
 * @param {Answer} answer
 * @param {AbortSignal} signal
 * @returns {Promise<Answer>}
 */
export async function deeper(search, answer, signal) {
  const depth = nextDepth(search, answer.depth);
  if (depth === null) return answer;
  const wider = { ...search, shortlist: Math.max(search.shortlist, depth) };
  const isWithin = depth <= search.shortlist;
  const more = await timed(isWithin ? search : wider, depth, signal);
  const ids = new Set(answer.response.hits.map(({ id }) => id));
  const hits = more.response.hits.filter(({ id }) => !ids.has(id));
  const all = [...answer.response.hits, ...hits].map((hit, i) => ({ ...hit, rank: i + 1 }));
  const response = { ...answer.response, hits: all };
  return keep(search, { ...answer, response, depth });
}

/**
 * How many results the next request asks for, or null.
 * @param {Search} search
 * @param {number} depth
 */
export function nextDepth(search, depth) {
  const most = Math.min(state.info.limits?.k ?? 1000, state.info.items);
  if (depth >= most) return null;
  const next = [search.shortlist, ...FURTHER].find((step) => step > depth);
  return next === undefined ? null : Math.min(next, state.info.limits?.k ?? 1000);
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
 * The ids of the copies of a picture.
 * @param {number} id
 * @param {AbortSignal} [signal]
 * @returns {Promise<number[]>}
 */
export async function copiesOf(id, signal) {
  const record = { id, k: 1, distinct: true, fine: "pool" };
  const { hits } = await json("/api/search", { ...jsonBody(record), signal });
  const ids = hits.slice(0, 1).flatMap((/** @type {any} */ hit) => [hit.id, ...hit.copies]);
  return ids.filter((/** @type {number} */ one) => one !== id);
}

/**
 * @param {Search} search
 * @param {number} depth
 * @param {AbortSignal} signal
 * @returns {Promise<Answer>}
 */
async function timed(search, depth, signal) {
  const start = performance.now();
  const response = await send(search, depth, signal);
  const at = performance.now();
  return { response, ms: at - start, at, depth };
}

/**
 * @param {Search} search
 * @param {number} k
 * @param {AbortSignal} signal
 * @returns {Promise<Found>}
 */
async function send(search, k, signal) {
  const pictures = [search.query, ...search.like, ...search.unlike];
  const files = pictures.filter((one) => typeof one === "string" && !isText(one));
  if (!files.length)
    return json("/api/search", { ...jsonBody({ ...toRecord(search), k, sizes: true }), signal });
  const first = fileOf(search.query);
  const params = new URLSearchParams([
    ["k", String(k)],
    ["sizes", "true"],
    ...toParameters(search),
  ]);
  if (first && files.length === 1)
    return json(`/api/search?${params}`, { ...fileBody(first), signal });
  const body = await formOf(search);
  return json(`/api/search?${params}`, { method: "POST", body, signal });
}

/**
 * Several pictures as a form, in which the query is always a file.
 * @param {Search} search
 */
async function formOf({ query, like, unlike }) {
  const form = new FormData();
  const add = (/** @type {string} */ name, /** @type {import("./state.js").Picture} */ one) => {
    const file = fileOf(one);
    if (file) form.append(name, file, file.name);
  };
  if (typeof query === "number")
    form.append("image", await (await request(`/api/images/${query}`)).blob(), "query");
  else add("image", query);
  for (const one of like) add("like", one);
  for (const one of unlike) add("unlike", one);
  return form;
}

/** @param {Search} search @param {Answer} answer */
function keep(search, answer) {
  const { answers } = state;
  answers.delete(keyOf(search)); // so that it becomes the newest
  answers.set(keyOf(search), answer);
  for (const oldest of [...answers.keys()].slice(0, -KEPT)) answers.delete(oldest);
  return answer;
}

/** What the answer depends on. @param {Search} search */
const keyOf = (search) =>
  JSON.stringify([
    search.query,
    search.like,
    search.unlike,
    toParameters({ ...search, fine: fineOf(search) }),
  ]);
