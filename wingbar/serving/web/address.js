// The search as the URL of the page and as the parameters of the API. Defaults are left out of the
// URL.

import { DEFAULTS, likeItem } from "./state.js";

/** @typedef {import("./state.js").Search} Search */

/** @type {readonly string[]} */
const FINE = ["none", "ties", "pool", "asymmetric"];

/**
 * The search of a URL's query string. Invalid values count as absent.
 * @param {string} query  such as location.search
 * @returns {Search}
 */
export function fromAddress(query) {
  const params = new URLSearchParams(query);
  const fine = params.get("fine");
  return {
    id: integer(params.get("id"), 0),
    upload: null,
    k: integer(params.get("k"), 1) ?? DEFAULTS.k,
    radius: integer(params.get("radius"), 0),
    fine: FINE.includes(fine) ? /** @type {import("./state.js").Fine} */ (fine) : null,
    shortlist: integer(params.get("shortlist"), 1) ?? DEFAULTS.shortlist,
    where: params.getAll("where").filter(Boolean),
    box: boxOf(params.get("box") ?? ""),
  };
}

/** The URL of a search, from the slash on. @param {Search} search @returns {string} */
export function toAddress(search) {
  const params = new URLSearchParams();
  if (search.id !== null) params.set("id", String(search.id));
  for (const [name, value] of toParameters(search)) {
    const isDefault = name in DEFAULTS && String(DEFAULTS[/** @type {"k"} */ (name)]) === value;
    if (!isDefault) params.append(name, value);
  }
  const text = params.toString().replaceAll("%2C", ",").replaceAll("%3D", "=");
  return text ? `/?${text}` : "/";
}

/**
 * The URL of the search for pictures similar to an entry.
 * @param {{ id: number }} entry
 * @returns {string}
 */
export const linkTo = (entry) => toAddress(likeItem(entry.id));

/**
 * What the API takes beside a picture that is sent, as [name, value] pairs.
 * @param {Search} search
 * @returns {[string, string][]}
 */
export function toParameters({ k, radius, fine, shortlist, where, box }) {
  /** @type {[string, string][]} */
  const pairs = [["k", String(k)]];
  if (radius !== null) pairs.push(["radius", String(radius)]);
  if (fine !== null) pairs.push(["fine", fine]);
  if (fine !== "none") pairs.push(["shortlist", String(shortlist)]);
  for (const condition of where) pairs.push(["where", condition]);
  if (box) pairs.push(["box", box.join(",")]);
  return pairs;
}

/** The same as the API's JSON, for an indexed picture. @param {Search} search @returns {object} */
export function toRecord({ id, k, radius, fine, shortlist, where, box }) {
  /** @type {Partial<Search>} */
  const record = { id, k };
  if (radius !== null) record.radius = radius;
  if (fine !== null) record.fine = fine;
  if (fine !== "none") record.shortlist = shortlist;
  if (where.length) record.where = where;
  if (box) record.box = box;
  return record;
}

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
