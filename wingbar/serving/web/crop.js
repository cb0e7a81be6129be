// A box on a picture: drawn, moved and resized with a mouse, a finger, keys or numbers.

import { make } from "./elements.js";

/** x, y, width, height in pixels of the upright picture. @typedef {number[]} Box */
/** Width and height in pixels. @typedef {number[]} Size */

const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const LEAST = 8; // pixels of the picture; smaller boxes show nothing
const CLICK = 4; // pixels of the screen; a shorter drag is a click
const PAUSE = 400; // ms after the last key before it counts
const STEPS = 50; // key presses from one end of the picture's shorter side to the other

/** The box on one picture. */
export class Crop {
  /**
   * @param {object} parts
   * @param {HTMLElement} parts.frame  holds the picture
   * @param {HTMLImageElement} parts.img
   * @param {HTMLElement} parts.box    lies over the picture
   * @param {HTMLInputElement[]} parts.inputs  for x, y, width, height
   * @param {object} parts.on  what the page does for it
   * @param {() => void} parts.on.begin  cropping starts with a drag on the picture
   * @param {() => Box | null} parts.on.current  the box that is searched
   * @param {(box: Box) => void} parts.on.change  a change is done
   */
  constructor({ frame, img, box, inputs, on }) {
    this.frame = frame;
    this.img = img;
    this.box = box;
    this.inputs = inputs;
    this.on = on;
    /** Of the upright picture; null until it is known. @type {Size | null} */
    this.size = null;
    /** The box as drawn. @type {Box | null} */
    this.value = null;
    /** Whether it can be changed. */
    this.active = false;
    this.timer = 0;
    for (const name of HANDLES)
      box.append(make("span", { className: `handle ${name}`, "data-handle": name }));
    box.tabIndex = 0;
    box.setAttribute("role", "application");
    box.setAttribute("aria-roledescription", "crop box");
    frame.addEventListener("pointerdown", (event) => this.#down(event));
    box.addEventListener("keydown", (event) => this.#key(event));
    for (const input of inputs) input.addEventListener("change", () => this.#typed());
  }

  /**
   * Take a picture's size and its box; null for all of it.
   * @param {Size | null} size
   * @param {Box | null} value
   */
  set(size, value) {
    this.size = size;
    this.value = value && size ? fit(value, size) : value;
    this.#draw();
  }

  /**
   * Let the box be changed. A first one is drawn where there is none; it counts once it is touched.
   */
  start() {
    if (!this.size) return;
    this.active = true;
    if (!this.value) {
      const [width, height] = this.size;
      const middle = [0.15 * width, 0.15 * height, 0.7 * width, 0.7 * height];
      this.value = middle.map(Math.round);
    }
    this.#draw();
    this.box.focus({ preventScroll: true });
  }

  /** Stop changes, and show `value`. @param {Box | null} value */
  stop(value) {
    this.active = false;
    clearTimeout(this.timer);
    this.value = value;
    this.#draw();
  }

  /**
   * Take a new box, which counts at once or, unless it is `done`, after a pause.
   * @param {Box} value
   * @param {boolean} done
   */
  #change(value, done) {
    this.value = fit(value, this.size);
    this.#draw();
    clearTimeout(this.timer);
    if (done) this.on.change(this.value);
    else this.timer = setTimeout(() => this.on.change(this.value), PAUSE);
  }

  /** @param {PointerEvent} event */
  #down(event) {
    if (event.button !== 0 || !this.size || this.img.hidden) return;
    // a finger scrolls until Crop is chosen
    if (!this.active && event.pointerType !== "mouse") return;
    if (!this.active) this.on.begin();
    event.preventDefault();
    const target = /** @type {HTMLElement} */ (event.target);
    const handle = target.dataset.handle ?? (target.closest(".box") ? "move" : "draw");
    const start = this.#point(event);
    const before = handle === "draw" ? [...start, 0, 0] : this.value;
    this.#follow(
      event.pointerId,
      (move) => {
        const [x, y] = this.#point(move);
        const value = dragged(before, handle, x - start[0], y - start[1]);
        this.value = handle === "move" ? shift(value, this.size) : fit(value, this.size);
        this.#draw();
      },
      (last) => {
        const [x, y] = this.#point(last);
        const way = Math.hypot(x - start[0], y - start[1]) / this.#scale();
        if (way > CLICK) this.#change(this.value, true);
        else if (handle === "draw") this.set(this.size, this.on.current());
        if (this.active && !this.value) this.start();
        this.box.focus({ preventScroll: true });
      },
    );
  }

  /**
   * Follow a pointer until it is lifted.
   * @param {number} pointer
   * @param {(event: PointerEvent) => void} onMove
   * @param {(event: PointerEvent) => void} onEnd
   */
  #follow(pointer, onMove, onEnd) {
    const ended = new AbortController();
    const { signal } = ended;
    const end = (/** @type {PointerEvent} */ event) => {
      ended.abort();
      onEnd(event);
    };
    this.frame.setPointerCapture(pointer);
    this.frame.addEventListener("pointermove", onMove, { signal });
    this.frame.addEventListener("pointerup", end, { signal });
    this.frame.addEventListener("pointercancel", end, { signal });
  }

  /** Pixels of the picture in one of the screen. */
  #scale() {
    return this.size[0] / this.img.getBoundingClientRect().width;
  }

  /** Where a pointer is, in pixels of the picture. @param {PointerEvent} event */
  #point(event) {
    const rect = this.img.getBoundingClientRect();
    const scale = this.#scale();
    return [(event.clientX - rect.left) * scale, (event.clientY - rect.top) * scale];
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.key === "Enter") {
      event.preventDefault();
      this.#change(this.value, true);
      return;
    }
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[/** @type {keyof typeof ways} */ (event.key)];
    if (!way || event.altKey || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    const step = Math.max(1, Math.round(Math.min(...this.size) / STEPS));
    const [dx, dy] = way.map((part) => part * step);
    const [x, y, width, height] = this.value;
    if (event.shiftKey) this.#change([x, y, width + dx, height + dy], false);
    else this.#change(shift([x + dx, y + dy, width, height], this.size), false);
  }

  /** A number was entered. */
  #typed() {
    const value = this.inputs.map((input) => Number(input.value));
    const valid = value.every(Number.isFinite) && value[2] > 0 && value[3] > 0;
    if (valid) this.#change(value, true);
    else this.#draw();
  }

  #draw() {
    const shown = Boolean(this.value && this.size && (this.active || this.on.current()));
    this.box.hidden = !shown;
    this.box.tabIndex = this.active ? 0 : -1;
    this.frame.classList.toggle("cropping", this.active);
    if (!shown) return;
    Object.assign(this.box.style, placeOf(this.value, this.size));
    this.box.setAttribute("aria-label", spokenText(this.value, this.size));
    this.inputs.forEach((input, i) => {
      input.value = String(Math.round(this.value[i]));
    });
  }
}

/** Where a box lies on a picture of `size`, as CSS. @param {Box} box @param {Size} size */
export function placeOf([x, y, w, h], [width, height]) {
  const percent = (/** @type {number} */ part, /** @type {number} */ of) => `${(100 * part) / of}%`;
  return {
    left: percent(x, width),
    top: percent(y, height),
    width: percent(w, width),
    height: percent(h, height),
  };
}

/** The box for screen readers. @param {Box} box @param {Size} size */
function spokenText([x, y, w, h], [width, height]) {
  const [fromRight, fromBottom] = [width - x - w, height - y - h].map(Math.round);
  const [left, top, across, down] = [x, y, w, h].map(Math.round);
  const leftTop = `${left} from the left, ${top} from the top`;
  const rightBottom = `${fromRight} from the right, ${fromBottom} from the bottom`;
  return `Part to search: ${across} by ${down} pixels, ${leftTop}, ${rightBottom}`;
}

/** A box in whole pixels, cut to the picture. @param {Box} box @param {Size} size @returns {Box} */
function fit([x, y, w, h], [width, height]) {
  const [leastWidth, leastHeight] = [Math.min(LEAST, width), Math.min(LEAST, height)];
  const left = clamp(x, 0, width - leastWidth);
  const top = clamp(y, 0, height - leastHeight);
  const across = clamp(w - (left - x), leastWidth, width - left);
  const down = clamp(h - (top - y), leastHeight, height - top);
  return [left, top, across, down].map(Math.round);
}

/**
 * A box in whole pixels, moved into the picture.
 * @param {Box} box
 * @param {Size} size
 * @returns {Box}
 */
function shift([x, y, w, h], [width, height]) {
  return [clamp(x, 0, width - w), clamp(y, 0, height - h), w, h].map(Math.round);
}

/** @param {number} value @param {number} low @param {number} high */
const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

/**
 * A box after a drag by dx, dy on a handle ("nw", ..., or "move"), or from its corner ("draw").
 * Corners may be dragged past each other.
 * @param {Box} box
 * @param {string} handle
 * @param {number} dx
 * @param {number} dy
 * @returns {Box}
 */
function dragged([x, y, w, h], handle, dx, dy) {
  if (handle === "move") return [x + dx, y + dy, w, h];
  const side = handle === "draw" ? "se" : handle;
  let [x1, y1, x2, y2] = [x, y, x + w, y + h];
  if (side.includes("w")) x1 += dx;
  if (side.includes("e")) x2 += dx;
  if (side.includes("n")) y1 += dy;
  if (side.includes("s")) y2 += dy;
  return [Math.min(x1, x2), Math.min(y1, y2), Math.abs(x2 - x1), Math.abs(y2 - y1)];
}
