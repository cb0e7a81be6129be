// The details of one picture: large, with its columns, both codes, what the model saw, and its removal.

import { request, showPicture } from "./api.js";
import { bitTable } from "./bits.js";
import { make, named, plural } from "./words.js";

const $ = (id) => document.getElementById(id);

export class Details {
  /** `on.like(entry)`, `on.step(±1, entry)` -> the entry beside it or null, `on.href(entry)`, `on.removed(entry)`. */
  constructor(on) {
    this.on = on;
    this.dialog = $("details");
    this.look = new Look($("details-look-button"), $("details-look"), $("details-note"));
    this.entry = null;
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    this.dialog.addEventListener("close", () => this.look.clear());
    $("details-like").addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.dialog.close();
      this.on.like(this.entry);
    });
    $("details-delete").addEventListener("click", () => this.#remove());
  }

  /** `hint` has bits, code (of the query, or null), score (its name); `info` is that of the index. */
  async show(entry, hint, info) {
    this.entry = entry;
    this.hint = hint;
    this.info = info;
    const label = entry.label ?? entry.name;
    named($("details-title"), label);
    named($("details-name"), entry.label === null ? "" : entry.name);
    $("details-name").hidden = entry.label === null || entry.label === entry.name;
    const image = $("details-image");
    image.alt = `${label}, ${entry.name}`;
    image.hidden = entry.available === false;
    if (entry.available !== false) showPicture(image, entry.image);
    $("details-open").hidden = entry.available === false;
    $("details-open").href = entry.image;
    $("details-like").href = this.on.href(entry);
    $("details-note").textContent = entry.available === false ? "The file is no longer where it was indexed. Its code is still found." : "";
    const facts = entry.distance === undefined ? [] : [["Rank", entry.rank], ["Distance", `${entry.distance} of ${plural(hint.bits, "bit")} differ`]];
    if (entry.score !== null && entry.score !== undefined) facts.push([hint.scoreName[0].toUpperCase() + hint.scoreName.slice(1), entry.score.toFixed(4)]);
    facts.push(["Id", entry.id], ...Object.entries(entry.columns ?? {}));
    $("details-facts").replaceChildren(...facts.map(([name, value]) => fact(name, String(value))));
    $("details-bits").replaceChildren();
    if (hint.code && entry.code) {
      const legend = entry.distance === 0 ? "The codes of the query and of this picture are the same." : "The query's code above, this picture's below; bits that differ are marked.";
      $("details-bits").append(make("p", { className: "quiet" }, legend), bitTable(hint.code, entry.code));
    }
    this.look.offer(info.explains && entry.available !== false, () => ["/api/explain", { method: "POST", type: "application/json", body: JSON.stringify({ id: entry.id }) }]);
    const remove = $("details-delete");
    remove.hidden = !info.writable;
    remove.textContent = "Remove from the index";
    remove.disabled = false;
    if (!this.dialog.open) this.dialog.showModal();
    if (entry.available === false) return;
    await image.decode().catch(() => {});
    if (this.entry === entry && image.naturalWidth) $("details-facts").append(fact("Size", `${image.naturalWidth} × ${image.naturalHeight}`));
  }

  #key(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = step && !event.altKey && !event.ctrlKey && this.on.step(step, this.entry);
    if (!next) return;
    event.preventDefault();
    this.look.clear();
    this.show(next, this.hint, this.info);
  }

  async #remove() {
    const button = $("details-delete");
    if (button.textContent !== "Yes, remove it") {
      button.textContent = "Yes, remove it";
      $("details-note").textContent = "A file that was uploaded here is deleted too; other files stay where they are.";
      return;
    }
    button.disabled = true;
    try {
      await request(`/api/items/${this.entry.id}`, { method: "DELETE" });
    } catch (problem) {
      button.disabled = false;
      $("details-note").textContent = problem.message;
      return;
    }
    this.dialog.close();
    this.on.removed(this.entry);
  }
}

const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, value));

/** A button that lays over a picture what the model looked at. */
export class Look {
  constructor(button, overlay, note) {
    this.button = button;
    this.overlay = overlay;
    this.note = note;
    this.ask = null;
    button.addEventListener("click", () => this.#toggle());
  }

  /** `ask()` gives the arguments of the request for the overlay, `place()` the part of the picture that it lies on, in percent. */
  offer(possible, ask, place = () => ({ left: "0", top: "0", width: "100%", height: "100%" })) {
    this.clear();
    this.button.hidden = !possible;
    this.ask = ask;
    this.place = place;
  }

  clear() {
    this.overlay.hidden = true;
    if (this.overlay.src) URL.revokeObjectURL(this.overlay.src);
    this.overlay.removeAttribute("src");
    this.button.setAttribute("aria-pressed", "false");
  }

  async #toggle() {
    if (!this.overlay.hidden) return this.clear();
    const ask = this.ask;
    this.button.disabled = true;
    try {
      const blob = await (await request(...ask())).blob();
      if (ask !== this.ask) return;
      this.overlay.src = URL.createObjectURL(blob);
      Object.assign(this.overlay.style, this.place());
      this.overlay.hidden = false;
      this.button.setAttribute("aria-pressed", "true");
    } catch (problem) {
      this.note.textContent = problem.message;
    } finally {
      this.button.disabled = false;
    }
  }
}
