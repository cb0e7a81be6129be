// The grid of pictures: cards, one tab stop with arrow keys, and cards that travel when the order changes.

import { showPicture } from "./api.js";
import { bitPaths } from "./bits.js";
import { named } from "./words.js";

const calm = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * @typedef {object} Entry  a hit or an item of the API, and for hits what the page adds:
 * @property {number} [ties]            how many of the results are at the same distance
 * @property {boolean} [tiesGoOn]       whether more such may lie past the last result
 * @property {number|string} [move]     places gained against the other order, or "new" | "out"
 */

export class Grid {
  /** `on.open(entry, event)` for more like this, `on.details(entry)`, `on.end()` when arrows run past the last card. */
  constructor(list, template, on) {
    this.list = list;
    this.template = template;
    this.on = on;
    this.cards = new Map(); // id -> { item, entry }
    this.current = null;
    list.addEventListener("click", (event) => this.#click(event));
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("focusin", (event) => {
      const item = event.target.closest(".card");
      if (item && event.target.matches(".hit")) this.#select(item);
    });
  }

  /** Show `entries` in their order. Cards that stay are kept, and travel to their new places with `travel`. */
  show(entries, { travel = false, href, hint }) {
    const from = travel && !calm.matches ? this.#places() : null;
    const items = entries.map((entry) => this.#card(entry, href, hint));
    const ids = new Set(entries.map((entry) => entry.id));
    for (const id of this.cards.keys()) if (!ids.has(id)) this.cards.delete(id);
    const focused = this.list.contains(document.activeElement) ? document.activeElement : null;
    this.list.replaceChildren(...items);
    if (focused?.isConnected) focused.focus({ preventScroll: true });
    if (!this.current?.isConnected) this.current = null;
    this.#select(this.current ?? items[0] ?? null);
    if (from) this.#travel(from);
  }

  /** Add `entries` behind the others. */
  append(entries, { href, hint }) {
    this.list.append(...entries.map((entry) => this.#card(entry, href, hint)));
    if (!this.current) this.#select(this.list.firstElementChild);
  }

  clear() {
    this.cards.clear();
    this.list.replaceChildren();
    this.current = null;
  }

  /** Put the focus on the card of `id`, or on the first one. */
  focus(id) {
    const item = this.cards.get(id)?.item ?? this.list.firstElementChild;
    item?.querySelector(".hit").focus({ preventScroll: false });
  }

  entryAt(step, id) {
    const item = this.cards.get(id)?.item;
    const next = step > 0 ? item?.nextElementSibling : item?.previousElementSibling;
    return next ? this.cards.get(Number(next.dataset.id)).entry : null;
  }

  get focusedId() {
    return this.list.contains(document.activeElement) && this.current ? Number(this.current.dataset.id) : null;
  }

  #card(entry, href, hint) {
    let item = this.cards.get(entry.id)?.item;
    if (!item) {
      item = this.template.content.firstElementChild.cloneNode(true);
      item.dataset.id = entry.id;
      const img = item.querySelector("img");
      img.addEventListener("error", () => item.classList.add("missing"));
      item.classList.toggle("missing", entry.available === false);
      if (entry.available !== false) showPicture(img, entry.thumb, true);
      named(item.querySelector(".name"), entry.label ?? entry.name);
    }
    this.cards.set(entry.id, { item, entry });
    fill(item, entry, href(entry), hint);
    return item;
  }

  #select(item) {
    if (this.current && this.current !== item) this.current.querySelector(".hit").tabIndex = -1;
    this.current = item;
    if (item) item.querySelector(".hit").tabIndex = 0;
  }

  #entry(element) {
    const item = element.closest(".card");
    return item ? this.cards.get(Number(item.dataset.id)).entry : null;
  }

  #click(event) {
    const entry = this.#entry(event.target);
    if (!entry) return;
    if (event.target.closest(".detail")) {
      this.on.details(entry);
    } else if (event.target.closest(".hit") && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      this.on.open(entry);
    }
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !event.target.matches(".hit")) return;
    const items = [...this.list.children];
    const at = items.indexOf(this.current);
    const columns = getComputedStyle(this.list).gridTemplateColumns.split(" ").length;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, Home: -at, End: items.length - 1 - at };
    if (event.key in steps && !event.shiftKey) {
      event.preventDefault();
      const to = at + steps[event.key];
      if (to >= items.length) this.on.end();
      const next = items[event.key === "ArrowDown" && to >= items.length && at < items.length - 1 ? items.length - 1 : to];
      next?.querySelector(".hit").focus();
      next?.scrollIntoView({ block: "nearest", behavior: calm.matches ? "auto" : "smooth" });
    } else if (event.key === " ") {
      event.preventDefault();
      this.on.details(this.#entry(event.target));
    }
  }

  #places() {
    const places = new Map();
    for (const [id, { item }] of this.cards) {
      const rect = item.getBoundingClientRect();
      if (rect.bottom > -400 && rect.top < innerHeight + 400) places.set(id, rect);
    }
    return places;
  }

  #travel(from) {
    for (const [id, { item }] of this.cards) {
      const to = item.getBoundingClientRect();
      if (to.top > innerHeight + 400 || to.bottom < -400) continue;
      const start = from.get(id);
      if (!start) {
        item.animate({ opacity: [0, 1] }, { duration: 240, easing: "ease-out" });
      } else if (Math.abs(start.left - to.left) + Math.abs(start.top - to.top) > 1) {
        const shift = `translate(${start.left - to.left}px, ${start.top - to.top}px)`;
        item.animate({ transform: [shift, "none"] }, { duration: 320, easing: "cubic-bezier(.2, .7, .2, 1)" });
      }
    }
  }
}

/** What changes on a card from one ranking to the next. */
function fill(item, entry, href, hint) {
  const link = item.querySelector(".hit");
  const ranked = entry.distance !== undefined;
  const put = (name, text) => {
    const element = item.querySelector(name);
    element.textContent = text;
    element.hidden = !text;
    return element;
  };
  link.href = href;
  link.title = entry.name;
  link.setAttribute("aria-label", spoken(entry, hint));
  item.querySelector(".detail").setAttribute("aria-label", `Details of ${entry.label ?? entry.name}`);
  item.classList.toggle("self", Boolean(entry.self));
  put(".rank", ranked ? (entry.self ? "query" : String(entry.rank)) : "");
  put(".bits", ranked ? `${entry.distance}/${hint.bits} bits` : "");
  put(".score", ranked && entry.score !== null ? `${hint.score} ${entry.score.toFixed(2)}` : "");
  const tie = put(".tie", ranked && entry.ties > 1 ? `tie ×${entry.ties}${entry.tiesGoOn ? "+" : ""}` : "");
  if (!tie.hidden) tie.title = `${entry.ties} of these results are ${entry.distance} bits away: the code alone cannot order them`;
  const move = put(".move", moved(entry.move));
  move.dataset.way = entry.move === "new" || entry.move > 0 ? "up" : "down";
  item.querySelector(".badges").hidden = tie.hidden && move.hidden;
  const strip = item.querySelector(".strip");
  strip.toggleAttribute("hidden", !ranked);
  if (ranked && hint.code) {
    const { width, agree, differ } = bitPaths(hint.code, entry.code);
    strip.setAttribute("viewBox", `0 0 ${width} 8`);
    strip.style.maxWidth = `${8 * width}px`; // short codes need no broad marks
    strip.querySelector(".agree").setAttribute("d", agree);
    strip.querySelector(".differ").setAttribute("d", differ);
  }
}

function moved(move) {
  if (move === undefined || move === 0) return "";
  if (typeof move === "string") return move;
  return move > 0 ? `+${move}` : `−${-move}`;
}

function spoken(entry, hint) {
  const name = entry.label && entry.label !== entry.name ? `${entry.label}, ${entry.name}` : entry.name;
  const parts = [entry.rank ? `${entry.rank}: ${name}` : name];
  if (entry.self) parts.push("the query itself");
  if (entry.distance !== undefined) parts.push(`${entry.distance} of ${hint.bits} bits differ`);
  if (entry.score !== null && entry.score !== undefined) parts.push(`${hint.scoreName} ${entry.score.toFixed(2)}`);
  if (entry.ties > 1) parts.push(`tie of ${entry.ties}`);
  if (entry.move === "new") parts.push("not among the first in the coarse order");
  else if (entry.move === "out") parts.push("not among the first in the fine order");
  else if (entry.move) parts.push(`${Math.abs(entry.move)} ${Math.abs(entry.move) === 1 ? "place" : "places"} ${entry.move > 0 ? "higher" : "lower"} than in the ${hint.other} order`);
  if (entry.available === false) parts.push("the file is no longer there");
  return parts.join(", ");
}
