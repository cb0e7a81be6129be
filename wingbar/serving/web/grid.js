// The grid of pictures: cards, one tab stop with arrow keys, and cards that travel when the order
// changes.

import { bitPaths } from "./bits.js";
import { $, setName } from "./elements.js";
import { showPicture } from "./pictures.js";
import { plural, shownName, withSpaces } from "./words.js";

/** @typedef {import("./state.js").Ranking} Ranking */

/**
 * What a card shows: an item of the API, or a hit and what the page adds to it.
 * @typedef {import("./api.js").Item & Partial<import("./api.js").HitPart> & Added} Entry
 * @typedef {object} Added
 * @property {boolean} [self]      whether it is the query
 * @property {number} [ties]       how many of the results are at the same distance
 * @property {boolean} [byChance]  whether this is the first hit that is as unlike as random pairs
 * @property {boolean} [tiesGoOn]  whether more such may follow after the last result
 * @property {number | "new" | "out"} [move]  places gained against the other order, "new" if
 *   the coarse order's results lack it, "out" if the fine order's do
 */

const NEAR = 400; // pixels above and below the screen within which cards travel
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** The list of cards. */
export class Grid {
  /**
   * @param {HTMLElement} list
   * @param {HTMLTemplateElement} template  of a card
   */
  constructor(list, template) {
    this.list = list;
    this.template = template;
    /** @type {Map<number, { item: HTMLElement, entry: Entry }>} */
    this.cards = new Map(); // by id
    /** The card with the tab stop. @type {HTMLElement | null} */
    this.current = null;
    /** What the page does for the grid; set by main.js. */
    this.on = {
      /** URL of the search for pictures similar to an entry. @type {(entry: Entry) => string} */
      href: () => "/",
      /** Search for pictures similar to an entry. @type {(entry: Entry) => void} */
      open: () => {},
      /** Show its details. @type {(entry: Entry) => void} */
      details: () => {},
      /** The arrow keys have come to the end. @type {() => void} */
      end: () => {},
    };
    list.addEventListener("click", (event) => this.#click(event));
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("focusin", ({ target }) => {
      const element = /** @type {Element} */ (target);
      if (element.matches(".hit")) this.#select(element.closest(".card"));
    });
  }

  /**
   * Show `entries` in their order. Cards that stay are kept, and with `travel` they move to their
   * new places.
   * @param {Entry[]} entries
   * @param {{ ranking?: Ranking | null, travel?: boolean }} [options]
   */
  show(entries, { ranking = null, travel = false } = {}) {
    const from = travel && !calm.matches ? this.#places() : null;
    const items = entries.map((entry) => this.#card(entry, ranking));
    const ids = new Set(entries.map((entry) => entry.id));
    for (const id of this.cards.keys()) if (!ids.has(id)) this.cards.delete(id);
    const focused = /** @type {HTMLElement} */ (this.#hasFocus() ? document.activeElement : null);
    this.list.replaceChildren(...items);
    if (focused?.isConnected) focused.focus({ preventScroll: true });
    this.#select(this.current?.isConnected ? this.current : (items[0] ?? null));
    if (from) this.#travel(from);
  }

  /** Add unranked `entries` behind the others. @param {Entry[]} entries */
  append(entries) {
    this.list.append(...entries.map((entry) => this.#card(entry, null)));
    if (!this.current) this.#select(/** @type {HTMLElement} */ (this.list.firstElementChild));
  }

  /** Remove the card of `id`; whether there was one. @param {number} id */
  remove(id) {
    const item = this.cards.get(id)?.item;
    if (!item) return false;
    const next = item.nextElementSibling ?? item.previousElementSibling;
    const hadFocus = item.contains(document.activeElement);
    if (item === this.current) this.#select(/** @type {HTMLElement | null} */ (next));
    if (hadFocus && next) hitOf(next).focus({ preventScroll: true });
    item.remove();
    return this.cards.delete(id);
  }

  /** Remove all cards. */
  clear() {
    this.cards.clear();
    this.list.replaceChildren();
    this.current = null;
  }

  /** Put the focus on the card of `id`, or on the first one. @param {number} [id] */
  focus(id) {
    const item = this.cards.get(id)?.item ?? this.list.firstElementChild;
    if (item) hitOf(item).focus({ preventScroll: false });
  }

  /**
   * The entry before (-1) or after (1) that of `id`, or null.
   * @param {number} step
   * @param {number} id
   */
  beside(step, id) {
    const item = this.cards.get(id)?.item;
    const next = step > 0 ? item?.nextElementSibling : item?.previousElementSibling;
    return next ? this.#entry(next) : null;
  }

  /** The id of the card that has the focus, or null. */
  get focusedId() {
    return this.#hasFocus() && this.current ? Number(this.current.dataset.id) : null;
  }

  #hasFocus() {
    return this.list.contains(document.activeElement);
  }

  /** The card of an entry, filled. @param {Entry} entry @param {Ranking | null} ranking */
  #card(entry, ranking) {
    const item = this.cards.get(entry.id)?.item ?? this.#newCard(entry);
    this.cards.set(entry.id, { item, entry });
    fillCard(item, entry, this.on.href(entry), ranking);
    return item;
  }

  /** @param {Entry} entry */
  #newCard(entry) {
    const first = this.template.content.firstElementChild;
    const item = /** @type {HTMLElement} */ (first.cloneNode(true));
    item.dataset.id = String(entry.id);
    const img = item.querySelector("img");
    const showGap = (/** @type {string} */ text) => {
      item.classList.add("missing");
      item.querySelector(".gone").textContent = text;
    };
    img.addEventListener("load", () => item.classList.remove("missing"));
    img.addEventListener("missing", () => showGap("This picture cannot be shown"));
    img.addEventListener("delayed", () => showGap("The server does not respond"));
    item.classList.toggle("missing", entry.available === false);
    if (entry.available !== false) showPicture(img, entry.thumb, true);
    setName(item.querySelector(".name"), shownName(entry));
    const hasOtherName = entry.label !== null && entry.label !== entry.name;
    setName(item.querySelector(".file"), hasOtherName ? entry.name : "");
    return item;
  }

  /** Move the tab stop. @param {HTMLElement | null} item */
  #select(item) {
    if (this.current && this.current !== item) hitOf(this.current).tabIndex = -1;
    this.current = item;
    if (item) hitOf(item).tabIndex = 0;
  }

  /** @param {Element} element @returns {Entry | null} */
  #entry(element) {
    const item = /** @type {HTMLElement | null} */ (element.closest(".card"));
    return item ? this.cards.get(Number(item.dataset.id)).entry : null;
  }

  /** @param {MouseEvent} event */
  #click(event) {
    const target = /** @type {Element} */ (event.target);
    const entry = this.#entry(target);
    if (!entry) return;
    const asLink = event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0;
    if (target.closest(".detail")) {
      this.on.details(entry);
    } else if (target.closest(".hit") && !asLink) {
      event.preventDefault();
      this.on.open(entry);
    }
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const target = /** @type {Element} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || !target.matches(".hit")) return;
    if (event.key === " ") {
      event.preventDefault();
      this.on.details(this.#entry(target));
    } else if (!event.shiftKey) {
      this.#step(event);
    }
  }

  /** Move the focus by an arrow key, Home or End. @param {KeyboardEvent} event */
  #step(event) {
    const items = [...this.list.children];
    const at = items.indexOf(this.current);
    const last = items.length - 1;
    const columns = getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
    /** @type {Record<string, number>} */
    const steps = {
      ArrowRight: 1,
      ArrowLeft: -1,
      ArrowDown: columns,
      ArrowUp: -columns,
      Home: -at,
      End: last - at,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const to = at + steps[event.key];
    if (to > last) this.on.end();
    const next = items[event.key === "ArrowDown" && at < last ? Math.min(to, last) : to];
    if (!next) return;
    hitOf(next).focus();
    next.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
  }

  /** Where the cards near the screen are, by id. */
  #places() {
    /** @type {Map<number, DOMRect>} */
    const places = new Map();
    for (const [id, { item }] of this.cards) {
      const rect = item.getBoundingClientRect();
      if (isNear(rect)) places.set(id, rect);
    }
    return places;
  }

  /** Move cards from where they were to where they are. @param {Map<number, DOMRect>} from */
  #travel(from) {
    for (const [id, { item }] of this.cards) {
      const to = item.getBoundingClientRect();
      if (!isNear(to)) continue;
      const start = from.get(id);
      if (!start) {
        item.animate({ opacity: [0, 1] }, { duration: 240, easing: "ease-out" });
        continue;
      }
      const [dx, dy] = [start.left - to.left, start.top - to.top];
      if (Math.abs(dx) + Math.abs(dy) <= 1) continue;
      const transform = [`translate(${dx}px, ${dy}px)`, "none"];
      item.animate({ transform }, { duration: 320, easing: "cubic-bezier(.2, .7, .2, 1)" });
    }
  }
}

/** The grid of the page. */
export const grid = new Grid($("grid"), $("card"));

/** @param {DOMRect} rect */
const isNear = (rect) => rect.bottom >= -NEAR && rect.top <= innerHeight + NEAR;

/** The link of a card, which takes the focus. @param {Element} item @returns {any} */
const hitOf = (item) => item.querySelector(".hit");

/**
 * Write what changes on a card from one ranking to the next.
 * @param {HTMLElement} item
 * @param {Entry} entry
 * @param {string} href
 * @param {Ranking | null} ranking
 */
function fillCard(item, entry, href, ranking) {
  const link = hitOf(item);
  link.href = href;
  link.setAttribute("aria-label", spokenText(entry, ranking));
  const details = `Details of ${shownName(entry)}`;
  item.querySelector(".detail").setAttribute("aria-label", details);
  item.classList.toggle("self", Boolean(entry.self));
  item.classList.toggle("by-chance", Boolean(entry.byChance));
  fillMeasures(item, entry, ranking);
  fillBadges(item, entry);
  fillStrip(item.querySelector(".strip"), entry, ranking);
}

/**
 * Rank, distance and score.
 * @param {Element} item
 * @param {Entry} entry
 * @param {Ranking | null} ranking
 */
function fillMeasures(item, entry, ranking) {
  const { rank, distance, score } = entry;
  put(item, ".rank", !ranking ? "" : entry.self ? "query" : String(rank));
  put(item, ".bits", ranking ? `${distance}/${ranking.bits} bits` : "");
  put(item, ".score", ranking && score !== null ? `${ranking.score} ${score.toFixed(2)}` : "");
}

/** Tie and move. @param {Element} item @param {Entry} entry */
function fillBadges(item, entry) {
  const { ties } = entry;
  const tie = put(item, ".tie", ties > 1 ? `tie ×${ties}${entry.tiesGoOn ? "+" : ""}` : "");
  const move = put(item, ".move", moveText(entry.move));
  move.dataset.way = entry.move === "new" || Number(entry.move) > 0 ? "up" : "down";
  const badges = /** @type {HTMLElement} */ (item.querySelector(".badges"));
  badges.hidden = !tie.textContent && !move.textContent;
}

/**
 * The bits of both codes.
 * @param {SVGElement} strip
 * @param {Entry} entry
 * @param {Ranking | null} ranking
 */
function fillStrip(strip, entry, ranking) {
  strip.toggleAttribute("hidden", !ranking);
  if (!ranking?.code) return;
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
  if (entry.self) parts.push("the query itself");
  if (ranking) {
    parts.push(`${distance} of ${ranking.bits} bits differ`);
    if (score !== null) parts.push(`${ranking.scoreName} ${score.toFixed(2)}`);
  }
  if (entry.ties > 1) parts.push(`tie of ${entry.ties}`);
  if (move === "new") parts.push("not among the results of the coarse order");
  else if (move === "out") parts.push("not among the results of the fine order");
  else if (move) {
    const way = move > 0 ? "higher" : "lower";
    parts.push(`${plural(Math.abs(move), "place")} ${way} than in the ${ranking.other} order`);
  }
  if (entry.available === false) parts.push("the file is no longer there");
  return parts.join(", ");
}
