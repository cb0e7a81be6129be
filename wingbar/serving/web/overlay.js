// A button that lays what the model saw over a picture.

import { request } from "./api.js";

/** @typedef {[path: string, options: import("./api.js").Options]} Request */

const WHOLE = { left: "0", top: "0", width: "100%", height: "100%" };

/** What the model saw in one picture. */
export class Overlay {
  /**
   * @param {HTMLButtonElement} button
   * @param {HTMLImageElement} img  lies over the picture
   * @param {Element} note          takes the message when it fails
   */
  constructor(button, img, note) {
    this.button = button;
    this.img = img;
    this.note = note;
    /** @type {(() => Request) | null} */
    this.requestOf = null;
    this.placeOf = () => WHOLE;
    button.addEventListener("click", () => this.#toggle());
  }

  /**
   * Offer it for another picture, or hide the button.
   * @param {boolean} possible
   * @param {() => Request} requestOf  arguments of the request for the overlay
   * @param {() => typeof WHOLE} [placeOf]  the part of the picture that it covers, as CSS
   */
  offer(possible, requestOf, placeOf = () => WHOLE) {
    this.clear();
    this.button.hidden = !possible;
    this.requestOf = requestOf;
    this.placeOf = placeOf;
  }

  /** Take it off the picture. */
  clear() {
    this.img.hidden = true;
    if (this.img.src) URL.revokeObjectURL(this.img.src);
    this.img.removeAttribute("src");
    this.button.setAttribute("aria-pressed", "false");
  }

  async #toggle() {
    if (!this.img.hidden) return this.clear();
    const { requestOf } = this;
    this.button.disabled = true;
    try {
      const blob = await (await request(...requestOf())).blob();
      if (requestOf !== this.requestOf) return; // another picture by now
      this.img.src = URL.createObjectURL(blob);
      Object.assign(this.img.style, this.placeOf());
      this.img.hidden = false;
      this.button.setAttribute("aria-pressed", "true");
    } catch (/** @type {any} */ problem) {
      this.note.textContent = problem.message;
    } finally {
      this.button.disabled = false;
    }
  }
}
