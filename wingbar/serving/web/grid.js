// The grid of pictures: rows of whole pictures of which only those near the screen are in the page,
// one tab stop with arrow keys, and cards that travel when the order changes.

import { fillCard, hitOf, loadCard, makeCard, setSelected } from "./card.js";
import { $, afterFrame, make } from "./elements.js";
import { justify, rowAt } from "./layout.js";

/** @typedef {import("./card.js").Entry} Entry */
/** @typedef {import("./state.js").Ranking} Ranking */
/** @typedef {{ left: number, top: number, width: number, height: number }} Place */

const AHEAD = 0.75; // screens above and below the screen whose cards are in the page
const MORE_AT = 1.5; // screens before the end at which more pictures are asked for
const NARROWEST = 0.4; // width over height of a picture as it is laid out,
const WIDEST = 3; // at least and at most
const UNKNOWN = 4 / 3; // that of a picture whose size is not known
const CAPTION = 30; // pixels of the name below a picture,
const CLOSENESS = 8; // of the closeness,
const INSPECTED = 76; // of what Inspect adds
const LEAST = 64; // pixels of the narrowest picture,
const LEAST_INSPECTED = 112; // and of one with its measures
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const narrow = matchMedia("(max-width: 40rem)");

/** The list of cards. */
export class Grid {
  /** @param {HTMLElement} list */
  constructor(list) {
    this.list = list;
    /** @type {Entry[]} */
    this.entries = [];
    /** Places of entries by id. @type {Map<number, number>} */
    this.at = new Map();
    /** Cards in the page by id. @type {Map<number, HTMLElement>} */
    this.cards = new Map();
    /** @type {Ranking | null} */
    this.ranking = null;
    /** Place of the first picture that is alike by chance. @type {number | null} */
    this.lineAt = null;
    this.layout = justify([], { width: 1, target: 1, gap: 0, caption: 0, least: 0 });
    /** The entry with the tab stop. @type {number | null} */
    this.currentId = null;
    /** Height of a row in pixels; null for the screen's own. @type {number | null} */
    this.size = null;
    this.inspecting = false;
    /** Whether a click selects. */
    this.selecting = false;
    this.frame = 0;
    this.line = make("li", { className: "chance", role: "separator", hidden: true });
    this.line.append(make("span", {}, "Not alike any more"));
    /** What the page does for the grid; set by main.js. */
    this.on = {
      /** URL of the search for pictures similar to an entry. @type {(entry: Entry) => string} */
      href: () => "/",
      /** Search for pictures similar to an entry. @type {(entry: Entry) => void} */
      open: () => {},
      /** Show it large. @type {(entry: Entry) => void} */
      details: () => {},
      /** It is right, or wrong. @type {(entry: Entry, right: boolean) => void} */
      mark: () => {},
      /** Select it; with `range`, all from the last one to it.
       * @type {(entry: Entry, range: boolean) => void} */
      select: () => {},
      /** Whether it is selected. @type {(id: number) => boolean} */
      isSelected: () => false,
      /** The end comes near. @type {() => void} */
      end: () => {},
    };
    list.addEventListener("click", (event) => this.#click(event));
    list.addEventListener("keydown", (event) => this.#key(event));
    list.addEventListener("focusin", ({ target }) => {
      const element = /** @type {Element} */ (target);
      if (element.matches(".hit")) this.#select(this.#entry(element).id);
    });
    addEventListener("scroll", () => this.#drawSoon(), { passive: true });
    /** Width of the list in pixels. To ask for it after a change would cost a layout. */
    this.width = list.clientWidth;
    new ResizeObserver(() => {
      if (list.clientWidth === this.width) return;
      this.width = list.clientWidth;
      this.relayout();
    }).observe(list);
  }

  /**
   * Show `entries` in their order. Cards that stay are kept, and with `travel` they move to their
   * new places.
   * @param {Entry[]} entries
   * @param {{ ranking?: Ranking | null, travel?: boolean, lineAt?: number | null }} [options]
   */
  show(entries, { ranking = null, travel = false, lineAt = null } = {}) {
    const from = travel && !calm.matches ? this.#places() : null;
    const offset = this.#offset();
    this.#take(entries);
    this.ranking = ranking;
    this.lineAt = lineAt;
    for (const [id, item] of this.cards) this.#fill(id, item);
    this.#arrange(from ? AHEAD : 0, offset);
    if (!from) afterFrame(() => this.#draw());
    if (!this.at.has(this.currentId)) this.#select(entries[0]?.id ?? null);
    if (from) this.#travel(from);
  }

  /** Add entries behind the others. @param {Entry[]} entries @param {number | null} [lineAt] */
  append(entries, lineAt = null) {
    this.#take([...this.entries, ...entries]);
    this.lineAt = lineAt;
    this.#arrange();
    if (this.currentId === null) this.#select(this.entries[0]?.id ?? null);
  }

  /** Take pictures away; how many there were. @param {Set<number>} ids */
  remove(ids) {
    const before = this.entries.length;
    const hadFocus = this.#hasFocus();
    const place = this.at.get(this.currentId) ?? 0;
    this.#take(this.entries.filter(({ id }) => !ids.has(id)));
    const next = this.entries[Math.min(place, this.entries.length - 1)] ?? null;
    if (!this.at.has(this.currentId)) this.#select(next?.id ?? null);
    this.#arrange();
    if (hadFocus && next) this.focus(this.currentId);
    return before - this.entries.length;
  }

  /** Take all pictures away. */
  clear() {
    this.show([]);
  }

  /** Write the cards anew, since what is known or selected has changed. */
  refresh() {
    for (const [id, item] of this.cards) this.#fill(id, item);
  }

  /** Make the cards of some entries anew, since their names have changed. @param {Set<number>} ids */
  rename(ids) {
    for (const id of ids) {
      this.cards.get(id)?.remove();
      this.cards.delete(id);
    }
    this.#draw();
  }

  /** Show which cards are selected. */
  showSelection() {
    for (const [id, item] of this.cards) setSelected(item, this.on.isSelected(id));
  }

  /** Put the focus on the card of `id`, or on the first one. @param {number} [id] */
  focus(id) {
    const entry = this.entries[this.at.get(id) ?? 0];
    if (!entry) return;
    this.#select(entry.id);
    this.#reveal(entry.id);
    hitOf(this.cards.get(entry.id)).focus({ preventScroll: true });
  }

  /**
   * Put the focus on the first card, which costs the one layout that the next frame needs anyway.
   * Where it stands is looked at once that frame is on the screen.
   */
  focusFirst() {
    const [entry] = this.entries;
    if (!entry) return;
    this.#select(entry.id);
    hitOf(this.cards.get(entry.id)).focus({ preventScroll: true });
    afterFrame(() => {
      if (this.currentId === entry.id && this.at.has(entry.id)) this.#reveal(entry.id);
    });
  }

  /**
   * The entry before (-1) or after (1) that of `id`, or null.
   * @param {number} step
   * @param {number} id
   */
  beside(step, id) {
    return this.entries[this.at.get(id) + step] ?? null;
  }

  /** The ids of the pictures from one to another. @param {number} one @param {number} other */
  between(one, other) {
    const [a, b] = [this.at.get(one) ?? 0, this.at.get(other) ?? 0];
    return this.entries.slice(Math.min(a, b), Math.max(a, b) + 1).map(({ id }) => id);
  }

  /** The ids of the pictures that a rectangle of the screen touches. @param {DOMRect} rect */
  within(rect) {
    const { left, top } = this.list.getBoundingClientRect();
    return this.entries
      .filter((_, i) => {
        const place = this.#place(i);
        const [x, y] = [left + place.left, top + place.top];
        const apart =
          x > rect.right ||
          x + place.width < rect.left ||
          y > rect.bottom ||
          y + place.height < rect.top;
        return !apart;
      })
      .map(({ id }) => id);
  }

  /** The id of the card that has the focus, or null. */
  get focusedId() {
    return this.#hasFocus() ? this.currentId : null;
  }

  /** Lay all pictures out anew, and keep the first one on the screen where it is. */
  relayout() {
    const offset = this.list.getBoundingClientRect().top;
    const row = this.layout.rows[rowAt(this.layout.rows, -offset)];
    const anchor = offset < 0 && row ? this.entries[row.first]?.id : null;
    const shift = anchor ? row.top + offset : 0;
    this.refresh();
    this.#arrange();
    const place = anchor ? this.#place(this.at.get(anchor)) : null;
    if (place) scrollBy(0, this.list.getBoundingClientRect().top + place.top - shift);
  }

  /** @param {Entry[]} entries */
  #take(entries) {
    this.entries = entries;
    this.at = new Map(entries.map(({ id }, i) => [id, i]));
    for (const [id, item] of this.cards) {
      if (this.at.has(id)) continue;
      item.remove();
      this.cards.delete(id);
    }
  }

  #hasFocus() {
    return this.list.contains(document.activeElement);
  }

  /** Where the list begins on the screen. To ask for it after a change costs a layout. */
  #offset() {
    return this.list.getBoundingClientRect().top;
  }

  /**
   * Compute where everything stands, and draw it.
   * @param {number} [ahead]
   * @param {number} [offset]
   */
  #arrange(ahead = AHEAD, offset = this.#offset()) {
    const { list, inspecting, ranking } = this;
    const gap = narrow.matches ? 4 : 8;
    const own = narrow.matches ? 132 : Math.min(260, Math.max(180, innerHeight / 4));
    const closeness = ranking ? CLOSENESS : 0;
    const measures = inspecting && ranking ? INSPECTED : 0;
    this.layout = justify(
      this.entries.map(ratioOf),
      {
        width: this.width || 1,
        target: this.size ?? own,
        gap,
        caption: CAPTION + closeness + measures,
        least: measures ? LEAST_INSPECTED : LEAST,
      },
      this.lineAt,
    );
    const { line, height } = this.layout;
    list.style.height = `${height}px`;
    list.style.setProperty("--line", String(line ?? height));
    this.line.hidden = line === null;
    if (line !== null) this.line.style.top = `${line}px`;
    if (!this.line.isConnected) list.append(this.line);
    this.#draw(true, ahead, offset);
  }

  #drawSoon() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.#draw();
    });
  }

  /**
   * Put the cards near the screen into the page, and take the others out. Cards that are there
   * already stay as they are, unless all have new places: scrolling has little time for each frame.
   * @param {boolean} [moved]
   * @param {number} [ahead]  screens above and below the screen; with 0, the others come later
   * @param {number} [offset]
   */
  #draw(moved = false, ahead = AHEAD, offset = this.#offset()) {
    const [above, below] = [-offset - ahead * innerHeight, -offset + (1 + ahead) * innerHeight];
    const { rows } = this.layout;
    const wanted = new Set([this.currentId]);
    for (let r = rowAt(rows, above); r < rows.length && rows[r].top < below; r++)
      for (let i = rows[r].first; i < rows[r].end; i++) wanted.add(this.entries[i].id);
    for (const [id, item] of this.cards) {
      if (wanted.has(id)) continue;
      item.remove();
      this.cards.delete(id);
    }
    for (const id of wanted) if (this.at.has(id) && (moved || !this.cards.has(id))) this.#put(id);
    const left = this.layout.height + offset - innerHeight;
    if (ahead && left < MORE_AT * innerHeight && this.entries.length) this.on.end();
  }

  /** Put the card of an entry where it belongs. @param {number} id */
  #put(id) {
    const place = this.at.get(id);
    const entry = this.entries[place];
    let item = this.cards.get(id);
    if (!item) {
      item = makeCard(entry);
      this.cards.set(id, item);
      this.#fill(id, item);
      item.hidden = false;
    }
    const { left, top, width, height } = this.#place(place);
    const { style } = item;
    style.left = `${left}px`;
    style.top = `${top}px`;
    style.width = `${width}px`;
    style.setProperty("--height", `${height}px`);
    item.setAttribute("aria-posinset", String(place + 1));
    item.setAttribute("aria-setsize", String(this.entries.length));
    item.classList.toggle("beyond", this.lineAt !== null && place >= this.lineAt);
    loadCard(item, entry, Math.max(width, height));
    if (!item.isConnected || item.dataset.place !== String(place)) this.#insert(item, place);
  }

  /** Keep the cards in the order of their places, as the tab key meets them. */
  #insert(/** @type {HTMLElement} */ item, /** @type {number} */ place) {
    item.dataset.place = String(place);
    let next = /** @type {HTMLElement | null} */ (this.list.lastElementChild);
    let after = null;
    while (next && (next === item || next === this.line || Number(next.dataset.place) > place)) {
      if (next !== item) after = next;
      next = /** @type {HTMLElement | null} */ (next.previousElementSibling);
    }
    const hasFocus = item.contains(document.activeElement);
    if (item.nextElementSibling !== after || !item.isConnected) this.list.insertBefore(item, after);
    if (hasFocus) hitOf(item).focus({ preventScroll: true });
  }

  /** @param {number} place @returns {Place} */
  #place(place) {
    const { rows, left, width } = this.layout;
    let [low, high] = [0, rows.length - 1];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle].end > place) high = middle;
      else low = middle + 1;
    }
    const { top, height } = rows[low];
    return { left: left[place], top, width: width[place], height };
  }

  /** @param {number} id @param {HTMLElement} item */
  #fill(id, item) {
    const entry = this.entries[this.at.get(id)];
    if (!entry) return;
    const { ranking, inspecting } = this;
    fillCard(item, entry, this.on.href(entry), ranking, this.on.isSelected(id), inspecting);
    hitOf(item).tabIndex = id === this.currentId ? 0 : -1;
  }

  /** Move the tab stop. @param {number | null} id */
  #select(id) {
    if (id === this.currentId && this.cards.has(id)) return;
    const before = this.cards.get(this.currentId);
    if (before) hitOf(before).tabIndex = -1;
    this.currentId = id;
    if (id === null || !this.at.has(id)) return;
    if (!this.cards.has(id) && this.layout.rows.length) this.#put(id);
    const item = this.cards.get(id);
    if (item) hitOf(item).tabIndex = 0;
  }

  /** Scroll until an entry is on the screen. @param {number} id */
  #reveal(id) {
    const { top, height } = this.#place(this.at.get(id));
    const y = top + this.list.getBoundingClientRect().top;
    const head = $("top").getBoundingClientRect().bottom + 8;
    const isFar = y < head - innerHeight || y > 2 * innerHeight;
    /** @type {ScrollBehavior} */
    const behavior = calm.matches || isFar ? "auto" : "smooth";
    if (y < head) scrollBy({ top: y - head, behavior });
    else if (y + height + CAPTION > innerHeight)
      scrollBy({ top: y + height + CAPTION + 16 - innerHeight, behavior });
    this.#draw();
  }

  /** @param {Element} element @returns {Entry | null} */
  #entry(element) {
    const item = /** @type {HTMLElement | null} */ (element.closest(".card"));
    return item ? (this.entries[this.at.get(Number(item.dataset.id))] ?? null) : null;
  }

  /** @param {MouseEvent} event */
  #click(event) {
    const target = /** @type {Element} */ (event.target);
    const entry = this.#entry(target);
    if (!entry) return;
    const asLink = event.ctrlKey || event.metaKey || event.button !== 0;
    if (target.closest(".detail")) this.on.details(entry);
    else if (target.closest(".right")) this.on.mark(entry, true);
    else if (target.closest(".wrong")) this.on.mark(entry, false);
    else if (target.closest(".pick")) this.on.select(entry, event.shiftKey);
    else if (target.closest(".hit") && !asLink) {
      event.preventDefault();
      if (this.selecting || event.shiftKey) this.on.select(entry, event.shiftKey);
      else this.on.open(entry);
    }
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    const target = /** @type {Element} */ (event.target);
    if (event.ctrlKey || event.metaKey || event.altKey || !target.matches(".hit")) return;
    const entry = this.#entry(target);
    /** @type {Record<string, () => void>} */
    const actions = {
      " ": () => this.on.details(entry),
      x: () => this.on.select(entry, false),
      X: () => this.on.select(entry, true),
      ...(this.ranking && {
        y: () => this.on.mark(entry, true),
        n: () => this.on.mark(entry, false),
      }),
    };
    if (event.key in actions) {
      event.preventDefault();
      actions[event.key]();
    } else {
      this.#step(event);
    }
  }

  /** Move the focus by an arrow key, Home or End. @param {KeyboardEvent} event */
  #step(event) {
    const at = this.at.get(this.currentId);
    const last = this.entries.length - 1;
    /** @type {Record<string, () => number>} */
    const steps = {
      ArrowRight: () => at + 1,
      ArrowLeft: () => at - 1,
      ArrowDown: () => this.#beyond(at, 1),
      ArrowUp: () => this.#beyond(at, -1),
      Home: () => 0,
      End: () => last,
    };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const to = steps[event.key]();
    if (to > last) this.on.end();
    const next = this.entries[to];
    if (!next) return;
    if (event.shiftKey) this.on.select(next, true);
    this.focus(next.id);
  }

  /** The place below or above a picture in the next row. @param {number} at @param {number} step */
  #beyond(at, step) {
    const { rows, left, width } = this.layout;
    const row = rows.findIndex(({ end }) => end > at) + step;
    if (!rows[row]) return step > 0 ? this.entries.length : -1;
    const middle = left[at] + width[at] / 2;
    let best = rows[row].first;
    for (let i = best; i < rows[row].end; i++)
      if (
        Math.abs(left[i] + width[i] / 2 - middle) < Math.abs(left[best] + width[best] / 2 - middle)
      )
        best = i;
    return best;
  }

  /** Where the cards in the page are on the screen, by id. */
  #places() {
    /** @type {Map<number, DOMRect>} */
    const places = new Map();
    for (const [id, item] of this.cards) places.set(id, item.getBoundingClientRect());
    return places;
  }

  /** Move cards from where they were to where they are. @param {Map<number, DOMRect>} from */
  #travel(from) {
    for (const [id, item] of this.cards) {
      const to = item.getBoundingClientRect();
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
export const grid = new Grid($("grid"));

/** Width over height of a picture as it is laid out. @param {Entry} entry */
function ratioOf({ width, height }) {
  if (!width || !height) return UNKNOWN;
  return Math.max(NARROWEST, Math.min(WIDEST, width / height));
}
