// A box on a picture: drawn, moved and sized with a mouse, a finger, keys or numbers.

import { make } from "./words.js";

const HANDLES = ["nw", "n", "ne", "e", "se", "s", "sw", "w"];
const LEAST = 8; // pixels of the picture; smaller boxes show nothing
const PAUSE = 400; // ms after the last key before it counts

export class Crop {
  /** `frame` holds `img`, `box` lies over it, `inputs` are x, y, width, height. `on.change(box)` once a change is done. */
  constructor({ frame, img, box, inputs, on }) {
    Object.assign(this, { frame, img, box, inputs, on });
    this.size = null; // [width, height] of the upright picture
    this.value = null; // [x, y, width, height] or null
    this.active = false;
    this.timer = 0;
    for (const name of HANDLES) box.append(make("span", { className: `handle ${name}`, "data-handle": name }));
    box.tabIndex = 0;
    box.setAttribute("role", "application");
    box.setAttribute("aria-roledescription", "crop box");
    frame.addEventListener("pointerdown", (event) => this.#down(event));
    box.addEventListener("keydown", (event) => this.#key(event));
    for (const input of inputs) input.addEventListener("change", () => this.#typed());
  }

  /** A picture of `size` pixels with `value` as its box, or null for all of it. */
  set(size, value) {
    this.size = size;
    this.value = value && size ? fit(value, size) : value;
    this.#draw();
  }

  /** Show the box to work on; one is made where there is none, which counts once it is touched. */
  start() {
    if (!this.size) return;
    this.active = true;
    if (!this.value) {
      const [width, height] = this.size;
      this.value = [0.15 * width, 0.15 * height, 0.7 * width, 0.7 * height].map(Math.round);
    }
    this.#draw();
    this.box.focus({ preventScroll: true });
  }

  stop(value) {
    this.active = false;
    clearTimeout(this.timer);
    this.value = value;
    this.#draw();
  }

  #change(value, done) {
    this.value = fit(value, this.size);
    this.#draw();
    clearTimeout(this.timer);
    if (done) this.on.change(this.value);
    else this.timer = setTimeout(() => this.on.change(this.value), PAUSE);
  }

  #down(event) {
    if (event.button !== 0 || !this.size || this.img.hidden) return;
    const touched = event.target.closest(".box");
    if (!this.active && event.pointerType !== "mouse") return; // a finger scrolls until Crop is chosen
    if (!this.active) this.on.begin();
    event.preventDefault();
    const handle = event.target.dataset.handle ?? (touched ? "move" : "draw");
    const start = this.#point(event);
    const before = handle === "draw" ? [start[0], start[1], 0, 0] : this.value;
    const drag = (move) => {
      const [x, y] = this.#point(move);
      this.value = fit(dragged(before, handle, x - start[0], y - start[1]), this.size, handle === "move");
      this.#draw();
    };
    const up = (last) => {
      this.frame.removeEventListener("pointermove", drag);
      this.frame.removeEventListener("pointerup", up);
      this.frame.removeEventListener("pointercancel", up);
      const travelled = Math.hypot(...this.#point(last).map((v, i) => (v - start[i]) / this.#scale()));
      if (travelled > 4) this.#change(this.value, true);
      else if (handle === "draw") this.set(this.size, this.on.current());
      if (this.active && !this.value) this.start();
      this.box.focus({ preventScroll: true });
    };
    this.frame.setPointerCapture(event.pointerId);
    this.frame.addEventListener("pointermove", drag);
    this.frame.addEventListener("pointerup", up);
    this.frame.addEventListener("pointercancel", up);
  }

  #scale() {
    return this.size[0] / this.img.getBoundingClientRect().width;
  }

  #point(event) {
    const rect = this.img.getBoundingClientRect();
    const scale = this.#scale();
    return [(event.clientX - rect.left) * scale, (event.clientY - rect.top) * scale];
  }

  #key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Enter") {
      event.preventDefault();
      this.#change(this.value, true);
    } else if (event.key in steps && !event.altKey && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      const step = Math.max(1, Math.round(Math.min(...this.size) / 50));
      const [dx, dy] = steps[event.key].map((way) => way * step);
      const [x, y, width, height] = this.value;
      if (event.shiftKey) this.#change([x, y, width + dx, height + dy], false);
      else this.#change(fit([x + dx, y + dy, width, height], this.size, true), false);
    }
  }

  #typed() {
    const value = this.inputs.map((input) => Number(input.value));
    if (value.every(Number.isFinite) && value[2] > 0 && value[3] > 0) this.#change(value, true);
    else this.#draw();
  }

  #draw() {
    const shown = Boolean(this.value && this.size && (this.active || this.on.current()));
    this.box.hidden = !shown;
    this.box.tabIndex = this.active ? 0 : -1;
    this.frame.classList.toggle("cropping", this.active);
    if (!shown) return;
    const [width, height] = this.size;
    const [x, y, w, h] = this.value;
    Object.assign(this.box.style, place(this.value, this.size));
    this.inputs.forEach((input, i) => (input.value = Math.round(this.value[i])));
    const [right, down] = [Math.round(width - x - w), Math.round(height - y - h)];
    this.box.setAttribute("aria-label", `Part to search: ${Math.round(w)} by ${Math.round(h)} pixels, ${Math.round(x)} from the left, ${Math.round(y)} from the top, ${right} from the right, ${down} from the bottom`);
  }
}

/** Where `box` lies on a picture of `size`, as CSS. */
export function place([x, y, w, h], [width, height]) {
  const percent = (part, of) => `${(100 * part) / of}%`;
  return { left: percent(x, width), top: percent(y, height), width: percent(w, width), height: percent(h, height) };
}

/** `value` in whole pixels inside the picture; a box that only moves keeps its size. */
function fit([x, y, w, h], [width, height], keep = false) {
  const least = [Math.min(LEAST, width), Math.min(LEAST, height)];
  if (keep) return [clamp(x, 0, width - w), clamp(y, 0, height - h), w, h].map(Math.round);
  const left = clamp(x, 0, width - least[0]);
  const top = clamp(y, 0, height - least[1]);
  return [left, top, clamp(w - (left - x), least[0], width - left), clamp(h - (top - y), least[1], height - top)].map(Math.round);
}

function clamp(value, low, high) {
  return Math.max(low, Math.min(high, value));
}

/** The box after a handle was dragged by dx, dy. Corners may be dragged past each other. */
function dragged([x, y, w, h], handle, dx, dy) {
  if (handle === "move") return [x + dx, y + dy, w, h];
  let [x1, y1, x2, y2] = [x, y, x + w, y + h];
  if (handle === "draw") {
    x2 += dx;
    y2 += dy;
  } else {
    if (handle.includes("w")) x1 += dx;
    if (handle.includes("e")) x2 += dx;
    if (handle.includes("n")) y1 += dy;
    if (handle.includes("s")) y2 += dy;
  }
  return [Math.min(x1, x2), Math.min(y1, y2), Math.abs(x2 - x1), Math.abs(y2 - y1)];
}
