// A button that lays what the model saw, or what matches, over pictures.

import { request } from "./api.js";

/** @typedef {[path: string, options: import("./api.js").Options]} Request */

const WHOLE = { left: "0", top: "0", width: "100%", height: "100%" };

/** What the colour means. */
export const LOOK_LEGEND = "Orange: where the model looked. Numbers: the parts it found strongest.";
export const MATCH_LEGEND =
  "Orange: what makes the two alike. Without these parts they would be less alike.";

/** A picture of the server that lies over one of the page, or over several at once. */
export class Overlay {
  /**
   * @param {HTMLButtonElement} button
   * @param {HTMLImageElement[]} imgs  each lies over a picture
   * @param {Element} note             takes the legend, or the message when it fails
   * @param {string} legend
   */
  constructor(button, imgs, note, legend) {
    this.button = button;
    this.imgs = imgs;
    this.note = note;
    this.legend = legend;
    /** @type {(() => Request[]) | null} */
    this.requestsOf = null;
    this.placeOf = () => WHOLE;
    button.addEventListener("click", () => this.#toggle());
  }

  /**
   * Offer it for another picture, or hide the button.
   * @param {boolean} possible
   * @param {() => Request[]} requestsOf  arguments of the request for each overlay
   * @param {() => typeof WHOLE} [placeOf]  the part of the picture that it covers, as CSS
   */
  offer(possible, requestsOf, placeOf = () => WHOLE) {
    this.clear();
    this.button.hidden = !possible;
    this.requestsOf = requestsOf;
    this.placeOf = placeOf;
  }

  /** Take it off the pictures. */
  clear() {
    for (const img of this.imgs) {
      img.hidden = true;
      if (img.src) URL.revokeObjectURL(img.src);
      img.removeAttribute("src");
    }
    if (this.note.textContent === this.legend) this.note.textContent = "";
    this.button.setAttribute("aria-pressed", "false");
  }

  async #toggle() {
    if (this.imgs.some((img) => !img.hidden)) return this.clear();
    const { requestsOf } = this;
    if (this.button.ariaBusy === "true") return;
    this.button.ariaBusy = "true"; // a button that is disabled would lose the focus
    try {
      const answers = await Promise.all(requestsOf().map((one) => request(...one)));
      const blobs = await Promise.all(answers.map((one) => one.blob()));
      if (requestsOf !== this.requestsOf) return; // another picture by now
      for (const [i, blob] of blobs.entries()) {
        this.imgs[i].src = URL.createObjectURL(blob);
        Object.assign(this.imgs[i].style, this.placeOf());
        this.imgs[i].hidden = false;
      }
      this.note.textContent = this.legend;
      this.button.setAttribute("aria-pressed", "true");
    } catch (/** @type {any} */ problem) {
      this.note.textContent = problem.message;
    } finally {
      this.button.ariaBusy = "false";
    }
  }
}
