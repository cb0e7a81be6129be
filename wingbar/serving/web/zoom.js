// Zoom into pictures that stand side by side: all of them show the same part.

const MOST = 8; // times
const STEP = 2.5; // of a click

/** Pictures that are zoomed and moved together. */
export class Zoom {
  /** @param {HTMLElement} stage  what takes wheel, click and drag */
  constructor(stage) {
    this.stage = stage;
    /** @type {HTMLElement[]} */
    this.targets = [];
    this.scale = 1;
    this.x = 0; // of the middle, in widths of the picture
    this.y = 0;
    /** Pointers on the stage. @type {Map<number, PointerEvent>} */
    this.pointers = new Map();
    this.moved = false;
    stage.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    stage.addEventListener("pointerdown", (event) => this.#down(event));
    stage.addEventListener("pointermove", (event) => this.#move(event));
    for (const type of /** @type {const} */ (["pointerup", "pointercancel"]))
      stage.addEventListener(type, (event) => this.pointers.delete(event.pointerId));
    stage.addEventListener("click", (event) => this.#click(event));
  }

  /** Whether something is zoomed. */
  get isZoomed() {
    return this.scale > 1;
  }

  /** Show whole pictures. @param {HTMLElement[]} [targets]  the pictures from now on */
  reset(targets = this.targets) {
    for (const target of this.targets) target.style.transform = "";
    this.targets = targets;
    this.#set(1, 0, 0);
  }

  /** In or out. */
  toggle() {
    this.#set(this.isZoomed ? 1 : STEP, 0, 0);
  }

  /** @param {number} scale @param {number} x @param {number} y */
  #set(scale, x, y) {
    this.scale = Math.max(1, Math.min(MOST, scale));
    const most = (this.scale - 1) / (2 * this.scale);
    this.x = Math.max(-most, Math.min(most, x));
    this.y = Math.max(-most, Math.min(most, y));
    this.stage.classList.toggle("zoomed", this.isZoomed);
    const move = `translate(${-100 * this.x * this.scale}%, ${-100 * this.y * this.scale}%)`;
    for (const target of this.targets)
      target.style.transform = this.isZoomed ? `${move} scale(${this.scale})` : "";
  }

  /** Where a pointer is over its picture, from its middle, in widths of the picture. */
  #at(/** @type {MouseEvent} */ { target, clientX, clientY }) {
    const view = /** @type {Element} */ (target).closest(".view");
    if (!view) return [0, 0];
    const { left, top, width, height } = view.getBoundingClientRect();
    return [(clientX - left) / width - 0.5, (clientY - top) / height - 0.5];
  }

  /** Zoom so that what is under the pointer stays there. */
  #zoomAt(/** @type {MouseEvent} */ event, /** @type {number} */ scale) {
    const [px, py] = this.#at(event);
    const next = Math.max(1, Math.min(MOST, scale));
    this.#set(next, this.x + px / this.scale - px / next, this.y + py / this.scale - py / next);
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault();
    this.#zoomAt(event, this.scale * Math.exp(-event.deltaY / 400));
  }

  /** @param {PointerEvent} event */
  #down(event) {
    this.moved = false;
    this.pointers.set(event.pointerId, event);
  }

  /** @param {PointerEvent} event */
  #move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const view = /** @type {Element} */ (event.target).closest(".view");
    const others = [...this.pointers.values()].filter((one) => one.pointerId !== event.pointerId);
    if (others.length === 1) {
      const apart = (/** @type {PointerEvent} */ one) =>
        Math.hypot(one.clientX - others[0].clientX, one.clientY - others[0].clientY);
      this.#zoomAt(event, (this.scale * apart(event)) / Math.max(1, apart(before)));
      this.moved = true;
    } else if (this.isZoomed && view) {
      const { width, height } = view.getBoundingClientRect();
      const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
      this.#set(this.scale, this.x - dx / width / this.scale, this.y - dy / height / this.scale);
      this.moved ||= Math.abs(dx) + Math.abs(dy) > 1;
    }
    this.pointers.set(event.pointerId, event);
  }

  /** @param {MouseEvent} event */
  #click(event) {
    if (this.moved || !(/** @type {Element} */ (event.target).closest(".view"))) return;
    if (this.isZoomed) this.reset();
    else this.#zoomAt(event, STEP);
  }
}
