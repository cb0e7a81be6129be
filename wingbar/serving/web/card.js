// One picture of the grid with its caption: name and closeness, and with Inspect bits, ties, score
// and move.

import { bitPaths } from "./bits.js";
import { $, make } from "./elements.js";
import { showPicture } from "./pictures.js";
import { plural, shownName, withSpaces } from "./words.js";

/** @typedef {import("./state.js").Ranking} Ranking */

/**
 * What a card shows: an item of the API, or a hit and what the page adds to it.
 * @typedef {import("./api.js").Item & Partial<import("./api.js").HitPart> & Added} Entry
 * @typedef {object} Added
 * @property {number} [ties]       how many of the results are at the same distance
 * @property {boolean} [tiesGoOn]  whether more such may follow after the last result
 * @property {number | "new" | "out"} [move]  places gained against the other order, "new" if
 *   the coarse order's results lack it, "out" if the fine order's do
 * @property {boolean} [right]     whether the person marked it as right
 */

const SIZES = [256, 512, 1024]; // longer sides of thumbnails, in pixels

/**
 * A new card of an entry.
 * @param {Entry} entry
 * @returns {HTMLElement}
 */
export function makeCard(entry) {
  const first = $("card").content.firstElementChild;
  const item = /** @type {HTMLElement} */ (first.cloneNode(true));
  item.dataset.id = String(entry.id);
  const img = item.querySelector("img");
  const gap = make("span", { className: "gone" });
  const showGap = (/** @type {string} */ text) => {
    item.classList.add("missing");
    gap.textContent = text;
    img.after(gap);
  };
  img.addEventListener("load", () => item.classList.remove("missing"));
  img.addEventListener("missing", () => showGap("This picture cannot be shown"));
  img.addEventListener("delayed", () => showGap("The server does not respond"));
  if (entry.available === false) showGap("The file is no longer there");
  const name = /** @type {HTMLElement} */ (item.querySelector(".name"));
  // where it is too long, it is cut off before the ending of a file
  const [, stem, ending] = /^(.*?)(\.\w{1,5})?$/s.exec(shownName(entry));
  name.append(make("span", { className: "stem" }, stem));
  if (ending) name.append(make("span", { className: "ending" }, ending));
  return item;
}

/**
 * Load the picture of a card in the size that it is shown in.
 * @param {HTMLElement} item
 * @param {Entry} entry
 * @param {number} longer  pixels of its longer side on the screen
 */
export function loadCard(item, entry, longer) {
  if (entry.available === false) return;
  const wanted = longer * Math.min(devicePixelRatio, 2);
  const size = SIZES.find((side) => side >= wanted * 0.85) ?? SIZES.at(-1);
  showPicture(item.querySelector("img"), `${entry.thumb}?size=${size}`);
}

/**
 * Write what changes on a card from one ranking to the next.
 * @param {HTMLElement} item
 * @param {Entry} entry
 * @param {string} href
 * @param {Ranking | null} ranking
 * @param {boolean} selected
 * @param {boolean} inspecting  whether to show what was measured
 */
export function fillCard(item, entry, href, ranking, selected, inspecting) {
  const link = hitOf(item);
  link.href = href;
  link.setAttribute("aria-label", spokenText(entry, ranking));
  const name = shownName(entry);
  for (const [part, text] of Object.entries({
    ".detail": `Look at ${name}`,
    ".pick": `Select ${name}`,
    ".right": `${name} is right`,
    ".wrong": `${name} is wrong`,
  }))
    item.querySelector(part).setAttribute("aria-label", text);
  setSelected(item, selected);
  item.querySelector(".right").setAttribute("aria-pressed", String(Boolean(entry.right)));
  item.querySelector(".marks").toggleAttribute("hidden", !ranking);
  item.classList.toggle("is-right", Boolean(entry.right));
  const copies = entry.copies?.length ?? 0;
  put(item, ".copies", copies ? `+${copies}` : "");
  item.classList.toggle("stack", copies > 0);
  const bar = /** @type {HTMLElement} */ (item.querySelector(".close"));
  bar.hidden = !ranking;
  bar.style.setProperty("--share", ranking ? String(closeness(entry, ranking)) : "0");
  put(item, ".rank", ranking ? String(entry.rank) : "");
  for (const part of item.querySelectorAll(".measures, .strip")) part.remove();
  if (!inspecting || !ranking) return;
  bar.after($("measures").content.cloneNode(true));
  fillMeasures(item, entry, ranking);
  fillStrip(item.querySelector(".strip"), entry, ranking);
}

/** Show whether a card is selected. @param {HTMLElement} item @param {boolean} selected */
export function setSelected(item, selected) {
  item.classList.toggle("selected", selected);
  item.querySelector(".pick").setAttribute("aria-checked", String(selected));
}

/** The link of a card, which takes the focus. @param {Element} item @returns {any} */
export const hitOf = (item) => item.querySelector(".hit");

/**
 * How close a hit is to the query, in [0, 1]: the score of the fine stage, or the share of bits
 * that agree beyond chance.
 * @param {Entry} entry
 * @param {Ranking} ranking
 */
export function closeness({ score, distance }, { bits }) {
  const value = score ?? 1 - (2 * distance) / bits;
  return Math.max(0, Math.min(1, value));
}

/**
 * Distance, score, tie, move, and the file's name where the card has another one.
 * @param {HTMLElement} item
 * @param {Entry} entry
 * @param {Ranking} ranking
 */
function fillMeasures(item, entry, ranking) {
  const { distance, score, ties, label, name } = entry;
  put(item, ".bits", `${distance}/${ranking.bits} bits`);
  put(item, ".score", score !== null ? `${ranking.score} ${score.toFixed(2)}` : "");
  const isTied = ranking.tiesCount && ties > 1;
  put(item, ".tie", isTied ? `tie ×${ties}${entry.tiesGoOn ? "+" : ""}` : "");
  const move = put(item, ".move", moveText(entry.move));
  move.dataset.way = entry.move === "new" || Number(entry.move) > 0 ? "up" : "down";
  put(item, ".file", label !== null && label !== name ? name : "");
}

/**
 * The bits of both codes.
 * @param {SVGElement} strip
 * @param {Entry} entry
 * @param {Ranking} ranking
 */
function fillStrip(strip, entry, ranking) {
  if (!ranking.code) return;
  const { width, agree, differ } = bitPaths(ranking.code, entry.code);
  strip.setAttribute("viewBox", `0 0 ${width} 8`);
  strip.style.maxWidth = `${8 * width}px`; // short codes need no broad marks
  strip.querySelector(".agree").setAttribute("d", agree);
  strip.querySelector(".differ").setAttribute("d", differ);
}

/**
 * Fill a part of a card, or hide it.
 * @param {Element} item
 * @param {string} part
 * @param {string} text
 */
function put(item, part, text) {
  const element = /** @type {HTMLElement} */ (item.querySelector(part));
  element.textContent = text;
  element.hidden = !text;
  return element;
}

/** @param {Entry["move"]} move */
function moveText(move) {
  if (!move) return "";
  if (typeof move === "string") return move;
  return move > 0 ? `+${move}` : `−${-move}`;
}

/** The card for screen readers. @param {Entry} entry @param {Ranking | null} ranking */
function spokenText(entry, ranking) {
  const { label, rank, distance, score, move } = entry;
  const name = label && label !== entry.name ? `${withSpaces(label)}, ${entry.name}` : entry.name;
  const parts = [rank ? `${rank}: ${name}` : name];
  if (entry.right) parts.push("marked as right");
  if (ranking) {
    parts.push(`${distance} of ${ranking.bits} bits differ`);
    if (score !== null) parts.push(`${ranking.scoreName} ${score.toFixed(2)}`);
  }
  if (ranking?.tiesCount && entry.ties > 1) parts.push(`tie of ${entry.ties}`);
  if (move === "new") parts.push("not among the results of the coarse order");
  else if (move === "out") parts.push("not among the results of the fine order");
  else if (move) {
    const way = move > 0 ? "higher" : "lower";
    parts.push(`${plural(Math.abs(move), "place")} ${way} than in the ${ranking.other} order`);
  }
  if (entry.copies?.length) parts.push(plural(entry.copies.length, "copy", "copies"));
  if (entry.available === false) parts.push("the file is no longer there");
  return parts.join(", ");
}
