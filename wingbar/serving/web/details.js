// The dialog with the details of one picture: large, with its columns, both codes, what the model
// saw, and its removal.

import { jsonBody, request, token } from "./api.js";
import { bitTable } from "./bits.js";
import { $, make, setName } from "./elements.js";
import { Overlay } from "./overlay.js";
import { showPicture } from "./pictures.js";
import { removeSoon } from "./removal.js";
import { state } from "./state.js";
import { plural, shownName } from "./words.js";

/** @typedef {import("./grid.js").Entry} Entry */
/** @typedef {import("./state.js").Ranking} Ranking */

const OUTAGE = "The server does not respond. The picture comes when it does.";

/** The dialog. */
export class Details {
  /**
   * @param {object} on  what the page does for it
   * @param {(entry: Entry) => string} on.href   URL of the search for similar pictures
   * @param {(entry: Entry) => void} on.like     search for similar pictures
   * @param {(step: number, entry: Entry) => Entry | null} on.beside  the entry before it (step -1)
   *   or after it (1)
   */
  constructor(on) {
    this.on = on;
    this.dialog = $("details");
    this.overlay = new Overlay($("details-look-button"), $("details-look"), $("details-note"));
    /** @type {Entry | null} */
    this.entry = null;
    this.dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) =>
      this.#key(event),
    );
    this.dialog.addEventListener("close", () => this.overlay.clear());
    $("details-like").addEventListener("click", (/** @type {MouseEvent} */ event) =>
      this.#like(event),
    );
    $("details-open").addEventListener("click", openWithToken);
    $("details-delete").addEventListener("click", () => this.#remove());
    const note = (/** @type {string} */ text) => ($("details-note").textContent = text);
    $("details-image").addEventListener("missing", () => note("This picture cannot be shown."));
    $("details-image").addEventListener("delayed", () => note(OUTAGE));
    $("details-image").addEventListener("load", () => {
      if ($("details-note").textContent === OUTAGE) note("");
    });
  }

  /** Show the details of an entry. @param {Entry} entry */
  async show(entry) {
    this.entry = entry;
    const { available } = entry;
    drawNames(entry);
    drawLinks(entry, this.on.href(entry));
    $("details-note").textContent = available
      ? ""
      : "The file is no longer where it was indexed. Searches can still find it.";
    const ranking = state.results?.ranking ?? null;
    $("details-facts").replaceChildren(...factsOf(entry, ranking).map(makeFact));
    drawBits(entry, ranking);
    this.overlay.offer(state.info.explains && available, () => [
      "/api/explain",
      jsonBody({ id: entry.id }),
    ]);
    $("details-delete").hidden = !state.info.writable;
    if (!this.dialog.open) this.dialog.showModal();
    if (available) await this.#drawImage(entry);
  }

  /** @param {Entry} entry */
  async #drawImage(entry) {
    const image = $("details-image");
    showPicture(image, entry.image);
    await image.decode().catch(() => {});
    if (this.entry !== entry || !image.naturalWidth) return;
    const size = `${image.naturalWidth} × ${image.naturalHeight}`;
    $("details-facts").append(makeFact(["Size", size]));
  }

  /** Go to the picture beside it. @param {KeyboardEvent} event */
  #key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.altKey || event.ctrlKey) return;
    const next = this.on.beside(step, this.entry);
    if (!next) return;
    event.preventDefault();
    this.overlay.clear();
    this.show(next);
  }

  /** @param {MouseEvent} event */
  #like(event) {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // opens as a link
    event.preventDefault();
    this.dialog.close();
    this.on.like(this.entry);
  }

  #remove() {
    this.dialog.close();
    removeSoon(this.entry);
  }
}

/** @param {Entry} entry */
function drawNames(entry) {
  const { label, name } = entry;
  setName($("details-title"), shownName(entry));
  setName($("details-name"), label === null ? "" : name);
  $("details-name").hidden = label === null || label === name;
  $("details-image").alt = `${shownName(entry)}, ${name}`;
}

/** @param {Entry} entry @param {string} href */
function drawLinks({ available, image }, href) {
  $("details-image").hidden = $("details-open").hidden = !available;
  $("details-open").href = image;
  $("details-like").href = href;
}

/** Both codes, where there is a query. @param {Entry} entry @param {Ranking | null} ranking */
function drawBits({ distance, code }, ranking) {
  $("details-bits").replaceChildren();
  if (!ranking?.code || !code) return;
  const legend =
    distance === 0
      ? "The query and this picture have the same code."
      : "The query's code above, this picture's below; differing bits are marked.";
  const table = bitTable(ranking.code, code);
  $("details-bits").append(make("p", { className: "quiet" }, legend), table);
}

/**
 * Names and values.
 * @param {Entry} entry
 * @param {Ranking | null} ranking
 * @returns {[name: string, value: string][]}
 */
function factsOf({ id, columns, rank, distance, score, ties }, ranking) {
  /** @type {[string, string][]} */
  const facts = [];
  if (ranking) {
    facts.push(["Rank", String(rank)]);
    facts.push(["Distance", `${distance} of ${plural(ranking.bits, "bit")} differ`]);
    if (ties > 1) facts.push(["Tie", `${ties} results at this distance`]);
    const { scoreName } = ranking;
    const title = scoreName[0].toUpperCase() + scoreName.slice(1);
    if (score !== null) facts.push([title, score.toFixed(4)]);
  }
  return [...facts, ["Id", String(id)], ...Object.entries(columns ?? {})];
}

/** @param {[name: string, value: string]} fact */
const makeFact = ([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value));

/** Open the picture in a tab; a link cannot send the token. @param {MouseEvent} event */
async function openWithToken(event) {
  if (!token.get()) return;
  event.preventDefault();
  const blob = await (await request($("details-open").getAttribute("href"))).blob();
  open(URL.createObjectURL(blob), "_blank", "noopener");
}
