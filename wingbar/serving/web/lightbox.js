// The lightbox: one picture as large as the screen, beside the query, with what is known of it and
// what can be done with it.

import { json, jsonBody, request, token } from "./api.js";
import { bitTable } from "./bits.js";
import { $, make, makeButton, setName } from "./elements.js";
import { copy } from "./exports.js";
import { openLabel } from "./labels.js";
import { LOOK_LEGEND, MATCH_LEGEND, Overlay } from "./overlay.js";
import { showPicture } from "./pictures.js";
import { requestOf } from "./query.js";
import { removeSoon } from "./removal.js";
import { copiesOf } from "./search.js";
import { encoderOf, encoderPart, hasQuery, isText, state } from "./state.js";
import { makeThumb } from "./thumbs.js";
import { bytes, count, plural, shownName, withSpaces } from "./words.js";
import { Zoom } from "./zoom.js";

/** @typedef {import("./card.js").Entry} Entry */
/** @typedef {import("./state.js").Ranking} Ranking */

const OUTAGE = "The server does not respond. The picture comes when it does.";
const SWIPE = 60; // pixels of the screen

/** The dialog. */
export class Lightbox {
  /**
   * @param {object} on  what the page does for it
   * @param {(entry: { id: number }) => string} on.href   URL of the search for similar pictures
   * @param {(entry: { id: number }) => void} on.like     search for similar pictures
   * @param {(entry: Entry, right: boolean) => void} on.mark
   * @param {(entry: Entry) => void} on.select
   * @param {(id: number) => boolean} on.isSelected
   * @param {(step: number, entry: Entry) => Entry | null} on.beside  the entry before it (step -1)
   *   or after it (1)
   * @param {(entry: Entry) => string} on.place  as "3 of 60"
   */
  constructor(on) {
    this.on = on;
    this.dialog = $("lightbox");
    this.zoom = new Zoom($("lightbox-stage"));
    const note = $("lightbox-note");
    const [own, query] = [$("lightbox-look"), $("lightbox-query-look")];
    this.look = new Overlay($("lightbox-look-button"), [own], note, LOOK_LEGEND);
    this.match = new Overlay($("lightbox-match"), [own, query], note, MATCH_LEGEND);
    $("lightbox-look-button").addEventListener("click", () => this.match.clear(), true);
    $("lightbox-match").addEventListener("click", () => this.look.clear(), true);
    /** @type {Entry | null} */
    this.entry = null;
    this.beside = true;
    this.dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) =>
      this.#key(event),
    );
    this.dialog.addEventListener("close", () => this.#closed());
    /** @type {Record<string, (event: MouseEvent) => void>} */
    const actions = {
      before: () => this.#step(-1),
      after: () => this.#step(1),
      pair: () => this.#setPair(!this.beside),
      "facts-button": () => this.#showFacts($("lightbox-facts").hidden),
      like: (event) => this.#like(event),
      open: openWithToken,
      right: () => this.#mark(true),
      wrong: () => this.#mark(false),
      select: () => this.#select(),
      copies: () => this.#showCopies(),
      label: () =>
        openLabel([this.entry], () => this.show({ ...this.entry, ...known(this.entry) })),
      delete: () => this.#remove(),
    };
    for (const [name, action] of Object.entries(actions))
      $(`lightbox-${name}`).addEventListener("click", action);
    $("path-reveal").addEventListener("click", () => this.#reveal());
    $("path-copy").addEventListener("click", () =>
      copy(this.entry.path, "The path was copied.").then(() => this.#note("The path was copied.")),
    );
    const image = $("lightbox-image");
    image.addEventListener("missing", () => this.#note("This picture cannot be shown."));
    image.addEventListener("delayed", () => this.#note(OUTAGE));
    image.addEventListener("load", () => {
      if ($("lightbox-note").textContent === OUTAGE) this.#note("");
    });
    this.#listenToSwipes();
  }

  /** Show an entry. @param {Entry} entry */
  show(entry) {
    this.entry = entry;
    const ranking = state.results?.ranking ?? null;
    this.#note(
      entry.available
        ? ""
        : "The file is no longer where it was indexed. Searches can still find it.",
    );
    $("copies-field").hidden = true;
    this.#draw(entry, ranking);
    this.look.offer(encoderOf().explains && entry.available, () => [
      ["/api/explain", jsonBody({ id: entry.id, ...encoderPart() })],
    ]);
    const on = (/** @type {"item" | "query"} */ side) =>
      requestOf(`/api/match?item=${entry.id}&on=${side}`, state.search.box);
    const { query } = state.search;
    const isPair = hasQuery() && !isText(query) && entry.available && entry.id !== query;
    this.match.offer(isPair, () => [on("item"), on("query")]);
    if (!this.dialog.open) this.dialog.showModal();
    this.#loadImages(entry);
    this.#loadFacts(entry);
  }

  /** @param {Entry} entry @param {Ranking | null} ranking */
  #draw(entry, ranking) {
    const { available, image } = entry;
    setName($("lightbox-title"), shownName(entry));
    $("lightbox-place").textContent = this.on.place(entry);
    setName($("lightbox-caption"), captionOf(entry, ranking));
    $("lightbox-image").alt = `${shownName(entry)}, ${entry.name}`;
    $("lightbox-image").hidden = $("lightbox-open").hidden = !available;
    $("lightbox-open").href = image;
    $("lightbox-like").href = this.on.href(entry);
    for (const id of ["lightbox-right", "lightbox-wrong", "lightbox-pair"])
      $(id).hidden = !hasQuery();
    $("lightbox-right").setAttribute("aria-pressed", String(Boolean(entry.right)));
    $("lightbox-select").setAttribute("aria-pressed", String(this.on.isSelected(entry.id)));
    $("lightbox-label").hidden = $("lightbox-delete").hidden = !state.info.writable;
    $("lightbox-before").hidden = !this.on.beside(-1, entry);
    $("lightbox-after").hidden = !this.on.beside(1, entry);
    this.#setPair(this.beside);
    $("facts").replaceChildren(...factsOf(entry, ranking).map(makeFact));
    $("path-field").hidden = !entry.path;
    setName($("path"), entry.path ?? "");
    $("path-reveal").hidden = !state.info.reveals || !available;
    drawBits(entry, ranking);
  }

  /** @param {Entry} entry */
  async #loadImages(entry) {
    const image = $("lightbox-image");
    if (entry.available) showPicture(image, entry.image);
    const { query } = state.search;
    const own = $("lightbox-query-image");
    if (typeof query === "number") showPicture(own, `/api/images/${query}`);
    else if (query !== null) {
      own.src = state.uploads.get(query).url;
      delete own.dataset.url;
    }
    if (hasQuery()) own.alt = $("picture").alt;
    this.zoom.reset([image, own, $("lightbox-look"), $("lightbox-query-look")]);
  }

  /** What only a look at the file tells. @param {Entry} entry */
  async #loadFacts(entry) {
    const item = await itemOf(entry.id);
    if (!item || this.entry !== entry) return;
    const { code, ...others } = item; // the first encoder's code
    state.known.set(entry.id, { ...state.known.get(entry.id), ...others });
    const facts = [];
    if (item.width) facts.push(["Size", `${count(item.width)} × ${count(item.height)}`]);
    if (item.size > 0) facts.push(["File", bytes(item.size)]);
    if (item.taken) facts.push(["Taken", dateText(item.taken)]);
    if (item.camera) facts.push(["Camera", item.camera]);
    const dl = $("facts");
    dl.append(...facts.map((fact) => makeFact(/** @type {[string, string]} */ (fact))));
  }

  async #showCopies() {
    const { entry } = this;
    this.#note("Looking for copies…");
    let ids;
    try {
      ids = await copiesOf(entry.id);
    } catch (/** @type {any} */ problem) {
      this.#note(problem.message);
      return;
    }
    if (this.entry !== entry) return;
    this.#note(ids.length ? "" : "There is no copy of this picture.");
    $("copies-field").hidden = !ids.length;
    const items = ids.map((id) => {
      const button = makeButton("", () => this.#showId(id), {
        className: "region",
        "aria-label": `Look at copy ${id}`,
      });
      button.append(makeThumb(id));
      return make("li", {}, button);
    });
    $("copies").replaceChildren(...items);
    if (ids.length) this.#showFacts(true);
  }

  /** @param {number} id */
  async #showId(id) {
    const item = await itemOf(id);
    if (item) this.show(item);
  }

  /** @param {number} step */
  #step(step) {
    const next = this.on.beside(step, this.entry);
    if (next) this.show(next);
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const isMarkable = hasQuery();
    /** @type {Record<string, () => void>} */
    const actions = {
      ArrowRight: () => this.#step(1),
      ArrowLeft: () => this.#step(-1),
      z: () => this.zoom.toggle(),
      x: () => this.#select(),
      d: () => this.#showFacts($("lightbox-facts").hidden),
      ...(isMarkable && { y: () => this.#mark(true), n: () => this.#mark(false) }),
    };
    const isButton = /** @type {Element} */ (event.target).closest("button, a");
    if (event.key === " " && !isButton) actions[" "] = () => this.dialog.close();
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
  }

  /** @param {boolean} beside */
  #setPair(beside) {
    this.beside = beside;
    $("lightbox-pair").setAttribute("aria-pressed", String(beside));
    $("lightbox-query").hidden = !beside || !hasQuery() || isText(state.search.query);
  }

  /** @param {boolean} open */
  #showFacts(open) {
    $("lightbox-facts").hidden = !open;
    $("lightbox-facts-button").setAttribute("aria-expanded", String(open));
  }

  /** @param {MouseEvent} event */
  #like(event) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // opens as a link
    event.preventDefault();
    this.dialog.close();
    this.on.like(this.entry);
  }

  /** Mark it, and go on to the next picture. @param {boolean} right */
  #mark(right) {
    const { entry } = this;
    const next = this.on.beside(1, entry) ?? this.on.beside(-1, entry);
    this.on.mark(entry, right);
    if (!next) this.dialog.close();
    else this.show(next);
    this.#note(`${shownName(entry)} is marked as ${right ? "right" : "wrong"}.`);
  }

  async #reveal() {
    try {
      await request(`/api/items/${this.entry.id}/reveal`, { method: "POST" });
    } catch (/** @type {any} */ problem) {
      this.#note(problem.message);
    }
  }

  #select() {
    this.on.select(this.entry);
    $("lightbox-select").setAttribute("aria-pressed", String(this.on.isSelected(this.entry.id)));
  }

  #remove() {
    this.dialog.close();
    removeSoon([this.entry]);
  }

  #closed() {
    this.look.clear();
    this.match.clear();
    this.zoom.reset();
  }

  /** @param {string} text */
  #note(text) {
    $("lightbox-note").textContent = text;
  }

  /** A swipe to the side shows the next picture, one down closes. */
  #listenToSwipes() {
    const stage = $("lightbox-stage");
    /** @type {Touch | null} */
    let start = null;
    stage.addEventListener("touchstart", (/** @type {TouchEvent} */ { touches }) => {
      start = touches.length === 1 && !this.zoom.isZoomed ? touches[0] : null;
    });
    stage.addEventListener("touchend", (/** @type {TouchEvent} */ { changedTouches: [end] }) => {
      if (!start || this.zoom.isZoomed) return;
      const [dx, dy] = [end.clientX - start.clientX, end.clientY - start.clientY];
      start = null;
      if (Math.abs(dx) > SWIPE && Math.abs(dx) > 2 * Math.abs(dy)) this.#step(dx < 0 ? 1 : -1);
      else if (dy > 1.5 * SWIPE && dy > 2 * Math.abs(dx)) this.dialog.close();
    });
  }
}

/** What the server knows of a picture; null if it does not answer. @param {number} id */
async function itemOf(id) {
  try {
    return await json(`/api/items/${id}`);
  } catch {
    return null;
  }
}

/** The newest record of an entry. @param {Entry} entry */
const known = (entry) => state.known.get(entry.id) ?? entry;

/** @param {Entry} entry @param {Ranking | null} ranking */
function captionOf({ rank, distance, score, name }, ranking) {
  if (!ranking || rank === undefined) return name;
  const closeness = score === null ? "" : ` · ${ranking.scoreName} ${score.toFixed(2)}`;
  return `${name} · ${distance} of ${plural(ranking.bits, "bit")}${closeness}`;
}

/** Both codes, where there is a query. @param {Entry} entry @param {Ranking | null} ranking */
function drawBits({ distance, code }, ranking) {
  $("lightbox-bits").replaceChildren();
  if (!ranking?.code || !code || distance === undefined) return;
  const legend =
    distance === 0
      ? "The query and this picture have the same code."
      : "The query's code above, this picture's below; differing bits are marked.";
  const table = bitTable(ranking.code, code);
  const title = make("h3", {}, "Codes");
  $("lightbox-bits").append(title, make("p", { className: "quiet" }, legend), table);
}

/**
 * Names and values.
 * @param {Entry} entry
 * @param {Ranking | null} ranking
 * @returns {[name: string, value: string][]}
 */
function factsOf({ id, name, label, columns, rank, distance, score, ties }, ranking) {
  /** @type {[string, string][]} */
  const facts = [["Name", name]];
  if (label !== null) facts.push(["Label", withSpaces(label)]);
  facts.push(...Object.entries(columns ?? {}));
  if (ranking && rank !== undefined) {
    facts.push(["Rank", String(rank)]);
    facts.push(["Distance", `${distance} of ${plural(ranking.bits, "bit")} differ`]);
    if (ranking.tiesCount && ties > 1) facts.push(["Tie", `${ties} results at this distance`]);
    const { scoreName } = ranking;
    const title = scoreName[0].toUpperCase() + scoreName.slice(1);
    if (score !== null) facts.push([title, score.toFixed(4)]);
  }
  return [...facts, ["Id", String(id)]];
}

/** @param {[name: string, value: string]} fact */
const makeFact = ([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value));

/** @param {string} taken  as 2026-11-26T09:30:00 */
function dateText(taken) {
  const date = new Date(taken);
  if (Number.isNaN(date.getTime())) return taken;
  return new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" }).format(date);
}

/** Open the picture in a tab; a link cannot send the token. @param {MouseEvent} event */
async function openWithToken(event) {
  if (!token.get()) return;
  event.preventDefault();
  const blob = await (await request($("lightbox-open").getAttribute("href"))).blob();
  open(URL.createObjectURL(blob), "_blank", "noopener");
}
