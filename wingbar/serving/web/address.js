// The search as the URL of the page and as the parameters of the API. Defaults are left out of the
// URL.

import { DEFAULTS, isText, likePicture, NOTHING, queryOfText, textOf } from "./state.js";

/** @typedef {import("./state.js").Search} Search */
/** @typedef {import("./state.js").Picture} Picture */

/** @type {readonly string[]} */
const SORTS = ["spread", "name", "label", "date", "novelty"];
/** @type {readonly string[]} */
const FINE = ["none", "ties", "pool", "asymmetric"];
const KEY = /^u[0-9a-z]{1,30}$/; // of a picture of this browser

/**
 * The search of a URL's query string. Invalid values count as absent.
 * @param {string} query  such as location.search
 * @returns {Search}
 */
export function fromAddress(query) {
  const params = new URLSearchParams(query);
  const fine = params.get("fine");
  const text = params.get("text")?.trim();
  const first = text ? queryOfText(text) : picture(params.get("id") ?? params.get("upload"));
  return {
    ...NOTHING,
    query: first,
    box: first === null ? null : boxOf(params.get("box") ?? ""),
    like: first === null ? [] : pictures(params.getAll("like")),
    unlike: first === null ? [] : pictures(params.getAll("unlike")),
    radius: integer(params.get("radius"), 0),
    fine: FINE.includes(fine) ? /** @type {import("./state.js").Fine} */ (fine) : null,
    shortlist: integer(params.get("shortlist"), 1) ?? DEFAULTS.shortlist,
    distinct: params.get("distinct") === "true",
    where: params.getAll("where").filter(Boolean),
    encoder: params.get("encoder") || null,
    sort: SORTS.includes(params.get("sort"))
      ? /** @type {import("./state.js").Sort} */ (params.get("sort"))
      : NOTHING.sort,
  };
}

/** The URL of a search, from the slash on. @param {Search} search @returns {string} */
export function toAddress(search) {
  const params = new URLSearchParams();
  const { query, like, unlike } = search;
  if (isText(query)) params.set("text", textOf(query));
  else if (query !== null) params.set(typeof query === "number" ? "id" : "upload", String(query));
  for (const one of like) params.append("like", String(one));
  for (const one of unlike) params.append("unlike", String(one));
  for (const [name, value] of toParameters({ ...search, like: [], unlike: [] })) {
    const isDefault = name === "shortlist" && String(DEFAULTS.shortlist) === value;
    if (!isDefault) params.append(name, value);
  }
  if (search.sort !== NOTHING.sort) params.set("sort", search.sort);
  const text = params.toString().replaceAll("%2C", ",").replaceAll("%3D", "=");
  return text ? `/?${text}` : "/";
}

/**
 * The URL of the search for pictures similar to an entry.
 * @param {{ id: number }} entry
 * @returns {string}
 */
export const linkTo = (entry) => toAddress(likePicture(entry.id));

/**
 * What the API takes beside pictures that are sent, as [name, value] pairs.
 * @param {Search} search
 * @returns {[string, string][]}
 */
export function toParameters(search) {
  const { like, unlike, radius, fine, shortlist, distinct, where, box, encoder } = search;
  /** @type {[string, string][]} */
  const pairs = [];
  for (const id of like) if (typeof id === "number") pairs.push(["like", String(id)]);
  for (const id of unlike) if (typeof id === "number") pairs.push(["unlike", String(id)]);
  if (radius !== null) pairs.push(["radius", String(radius)]);
  if (fine !== null) pairs.push(["fine", fine]);
  if (fine !== "none") pairs.push(["shortlist", String(shortlist)]);
  if (distinct) pairs.push(["distinct", "true"]);
  for (const condition of where) pairs.push(["where", condition]);
  if (box) pairs.push(["box", box.join(",")]);
  if (encoder) pairs.push(["encoder", encoder]);
  return pairs;
}

/**
 * The same as the API's JSON, for indexed pictures and for texts, which go to the encoder that
 * knows them.
 * @param {Search} search
 */
export function toRecord(search) {
  const { query, like, unlike, radius, fine, shortlist, distinct, where, box, encoder } = search;
  if (isText(query)) return { text: textOf(query), ...(where.length && { where }) };
  /** @type {Record<string, unknown>} */
  const record = { id: query };
  if (like.length) record.like = like;
  if (unlike.length) record.unlike = unlike;
  if (radius !== null) record.radius = radius;
  if (fine !== null) record.fine = fine;
  if (fine !== "none") record.shortlist = shortlist;
  if (distinct) record.distinct = true;
  if (where.length) record.where = where;
  if (box) record.box = box;
  if (encoder) record.encoder = encoder;
  return record;
}

/** An id or a key, or null. @param {string | null} text @returns {Picture | null} */
function picture(text) {
  return text !== null && KEY.test(text) ? text : integer(text, 0);
}

/** Those of several that are an id or a key. @param {string[]} texts @returns {Picture[]} */
const pictures = (texts) => texts.map(picture).filter((one) => one !== null);

/**
 * A whole number of at least `least`, or null.
 * @param {string | null} text
 * @param {number} least
 */
function integer(text, least) {
  if (text === null || !/^\d{1,15}$/.test(text)) return null;
  const number = Number(text);
  return number >= least ? number : null;
}

/** @param {string} text  x,y,width,height */
function boxOf(text) {
  const box = text.split(",").map(Number);
  return box.length === 4 && box.every(Number.isFinite) && box[2] > 0 && box[3] > 0 ? box : null;
}
