// A rectangle drawn around pictures selects them, while clicks select.

import { $ } from "./elements.js";
import { grid } from "./grid.js";
import { select } from "./tray.js";

const CLICK = 5; // pixels; a shorter drag is a click

/** Listen to drags over the grid. */
export function listenToLasso() {
  const list = $("grid");
  list.addEventListener("dragstart", (/** @type {DragEvent} */ event) => {
    if (grid.selecting) event.preventDefault();
  });
  list.addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
    if (grid.selecting && event.button === 0 && event.pointerType === "mouse") follow(event);
  });
}

/** @param {PointerEvent} start */
function follow(start) {
  const ended = new AbortController();
  const { signal } = ended;
  const [x, y] = [start.pageX, start.pageY];
  let rect = new DOMRect(start.clientX, start.clientY, 0, 0);
  addEventListener(
    "pointermove",
    ({ pageX, pageY }) => {
      rect = new DOMRect(
        Math.min(x, pageX) - scrollX,
        Math.min(y, pageY) - scrollY,
        Math.abs(pageX - x),
        Math.abs(pageY - y),
      );
      draw(rect);
    },
    { signal },
  );
  const end = () => {
    ended.abort();
    $("lasso").hidden = true;
    if (rect.width + rect.height < CLICK) return;
    addEventListener("click", (event) => event.stopPropagation(), { capture: true, once: true });
    setTimeout(() => select(grid.within(rect)));
  };
  addEventListener("pointerup", end, { signal });
  addEventListener("pointercancel", end, { signal });
}

/** @param {DOMRect} rect */
function draw({ left, top, width, height }) {
  const lasso = $("lasso");
  lasso.hidden = width + height < CLICK;
  Object.assign(lasso.style, {
    left: `${left}px`,
    top: `${top}px`,
    width: `${width}px`,
    height: `${height}px`,
  });
}
