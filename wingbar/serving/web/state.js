// What is asked for, as a record and as the URL of the page. What is at its default is left out of the URL.

export const FINE = ["none", "ties", "pool", "asymmetric"];
export const DEFAULTS = { k: 24, shortlist: 200 };

/**
 * @typedef {object} Ask
 * @property {number|null} id       an indexed picture, or
 * @property {string|null} upload   the key of a picture in this tab, which no URL can hold
 * @property {number} k
 * @property {number|null} radius   null: any distance
 * @property {string|null} fine     null: the model's own choice
 * @property {number} shortlist
 * @property {string[]} where
 * @property {number[]|null} box    x, y, width, height in pixels of the upright picture
 */

/** The record of a URL's query string. Nonsense in it counts as absent. @returns {Ask} */
export function read(search) {
  const params = new URLSearchParams(search);
  const box = (params.get("box") ?? "").split(",").map(Number);
  const fine = params.get("fine");
  return {
    id: whole(params.get("id"), 0),
    upload: null,
    k: whole(params.get("k"), 1) ?? DEFAULTS.k,
    radius: whole(params.get("radius"), 0),
    fine: FINE.includes(fine) ? fine : null,
    shortlist: whole(params.get("shortlist"), 1) ?? DEFAULTS.shortlist,
    where: params.getAll("where").filter(Boolean),
    box: box.length === 4 && box.every(Number.isFinite) && box[2] > 0 && box[3] > 0 ? box : null,
  };
}

/** The URL of a record, from the slash on. @param {Ask} ask */
export function write(ask) {
  const params = new URLSearchParams();
  if (ask.id !== null) params.set("id", ask.id);
  for (const [name, value] of parameters(ask)) {
    if (name in DEFAULTS && DEFAULTS[name] === value) continue;
    params.append(name, value);
  }
  const text = params.toString().replaceAll("%2C", ",").replaceAll("%3D", "=");
  return text ? `/?${text}` : "/";
}

/** What the API takes beside the picture, as [name, value] pairs. @param {Ask} ask */
export function parameters(ask) {
  const pairs = [["k", ask.k]];
  if (ask.radius !== null) pairs.push(["radius", ask.radius]);
  if (ask.fine !== null) pairs.push(["fine", ask.fine]);
  if (ask.fine !== "none") pairs.push(["shortlist", ask.shortlist]);
  for (const condition of ask.where) pairs.push(["where", condition]);
  if (ask.box) pairs.push(["box", ask.box.join(",")]);
  return pairs;
}

/** The same as a JSON body, for a picture of the index. @param {Ask} ask */
export function body(ask) {
  const record = { id: ask.id, k: ask.k };
  if (ask.radius !== null) record.radius = ask.radius;
  if (ask.fine !== null) record.fine = ask.fine;
  if (ask.fine !== "none") record.shortlist = ask.shortlist;
  if (ask.where.length) record.where = ask.where;
  if (ask.box) record.box = ask.box;
  return record;
}

function whole(text, least) {
  if (text === null || !/^\d{1,15}$/.test(text)) return null;
  const number = Number(text);
  return number >= least ? number : null;
}
