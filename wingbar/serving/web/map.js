// The map of the collection: every picture has a place, alike ones near each other. Thumbnails where
// there is room for them, dots elsewhere, names of labels over their clusters; a lasso selects.

import { json } from "./api.js";
import { $ } from "./elements.js";
import { grid } from "./grid.js";
import { report } from "./problems.js";
import { showPicture } from "./pictures.js";
import { state } from "./state.js";
import { setBusy } from "./status.js";
import { select } from "./tray.js";
import { withSpaces } from "./words.js";

/**
 * @typedef {object} Places
 * @property {number[]} ids
 * @property {number[]} x  from 0 to 1
 * @property {number[]} y
 * @property {number[]} label  place in `labels`, or -1
 * @property {string[]} labels
 */

const THUMB = 60; // pixels of a thumbnail,
const CELL = 62; // and of the cell that it has to itself
const MOST_ZOOM = 60;
const KEPT = 800; // thumbnails in memory
const NAMED = 10; // pictures that a label needs for its name to be shown
const CLICK = 5; // pixels; a shorter drag is a click
const MOST = 1000; // records of one request

/** What the page does for the map; set by main.js. */
export const mapHooks = {
  /** Show a picture large. @type {(entry: any) => void} */
  details: () => {},
};

/** The map on the page. */
const map = {
  /** @type {Places | null} */
  places: null,
  /** Where the names of labels stand. @type {{ name: string, x: number, y: number, n: number }[]} */
  names: [],
  zoom: 1,
  x: 0.5, // of the middle of the screen
  y: 0.5,
  /** Thumbnails by id, the oldest first. @type {Map<number, HTMLImageElement>} */
  thumbs: new Map(),
  /** Corners of the lasso, in pixels. @type {[number, number][]} */
  lasso: [],
  frame: 0,
};

/** Listen to the switch, and to the canvas. */
export function listenToMap() {
  $("map-button").addEventListener("click", toggleMap);
  const canvas = $("map");
  new ResizeObserver(drawSoon).observe(canvas);
  canvas.addEventListener("wheel", wheel, { passive: false });
  canvas.addEventListener("pointerdown", follow);
  canvas.addEventListener("keydown", key);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawSoon);
}

/** Show the map in the place of the pictures, or the pictures again. */
export const toggleMap = () => showMap($("map-view").hidden);

/** Whether the map is shown. */
export const isMapShown = () => !$("map-view").hidden;

/** @param {boolean} shown */
export async function showMap(shown) {
  $("map-view").hidden = !shown;
  document.body.classList.toggle("with-map", shown);
  $("map-button").setAttribute("aria-pressed", String(shown));
  if (!shown) {
    grid.relayout();
    return;
  }
  scrollTo(0, 0);
  try {
    setBusy(true);
    $("map-wait").hidden = map.places !== null;
    map.places = await json("/api/map");
    map.names = namesOf(map.places);
  } catch (error) {
    showMap(false);
    report(error, () => showMap(true));
  } finally {
    setBusy(false);
    $("map-wait").hidden = true;
  }
  drawSoon();
}

/** The middle of each label's pictures, by the median. @param {Places} places */
function namesOf({ x, y, label, labels }) {
  /** @type {number[][]} */
  const members = labels.map(() => /** @type {number[]} */ ([]));
  for (const [i, at] of label.entries()) if (at >= 0) members[at].push(i);
  const median = (/** @type {number[]} */ all) => all.sort((a, b) => a - b)[all.length >> 1];
  return members
    .map((own, i) => ({
      name: withSpaces(labels[i]),
      x: median(own.map((one) => x[one])),
      y: median(own.map((one) => y[one])),
      n: own.length,
    }))
    .filter(({ n }) => n >= NAMED)
    .sort((a, b) => b.n - a.n);
}

function drawSoon() {
  map.frame ||= requestAnimationFrame(() => {
    map.frame = 0;
    if (isMapShown()) draw();
  });
}

/**
 * From the map to the screen: the map's corner, and its width and height at this zoom, in pixels.
 * There is a margin around it, so that the thumbnails at its edges are whole.
 * @returns {{ left: number, top: number, across: number, down: number }}
 */
function view() {
  const { clientWidth: width, clientHeight: height } = $("map");
  const [across, down] = [map.zoom * (width - 2 * CELL), map.zoom * (height - 2 * CELL)];
  return { left: width / 2 - map.x * across, top: height / 2 - map.y * down, across, down };
}

function draw() {
  const canvas = $("map");
  const { clientWidth: width, clientHeight: height } = canvas;
  const ratio = Math.min(devicePixelRatio, 2);
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  if (!map.places) return;
  const style = getComputedStyle(document.body);
  const colour = (/** @type {string} */ name) => style.getPropertyValue(name).trim();
  drawPictures(context, width, height, colour);
  drawNames(context, width, height, colour);
  drawLasso(context, colour);
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {number} width
 * @param {number} height
 * @param {(name: string) => string} colour
 */
function drawPictures(context, width, height, colour) {
  const { ids, x, y } = map.places;
  const { left, top, across, down } = view();
  const hits = state.results && new Set(state.results.hits.map(({ id }) => id));
  const taken = new Set();
  /** @type {[number, number, number][]} */
  const thumbs = [];
  context.fillStyle = colour("--edge");
  for (const [i, id] of ids.entries()) {
    const [px, py] = [left + x[i] * across, top + y[i] * down];
    if (px < -CELL || py < -CELL || px > width + CELL || py > height + CELL) continue;
    const [column, row] = [Math.round((px - left) / CELL), Math.round((py - top) / CELL)];
    const cell = `${column} ${row}`;
    if (taken.has(cell)) {
      context.globalAlpha = hits && !hits.has(id) ? 0.25 : 0.8;
      context.fillRect(px - 1.5, py - 1.5, 3, 3);
    } else {
      taken.add(cell);
      thumbs.push([id, left + (column - 0.5) * CELL, top + (row - 0.5) * CELL]);
    }
  }
  for (const [id, px, py] of thumbs) {
    const img = thumbOf(id);
    if (!img.complete || !img.naturalWidth) continue;
    const side = Math.min(img.naturalWidth, img.naturalHeight); // of its middle square
    const [sx, sy] = [(img.naturalWidth - side) / 2, (img.naturalHeight - side) / 2];
    context.globalAlpha = hits && !hits.has(id) ? 0.3 : 1;
    context.drawImage(img, sx, sy, side, side, px, py, THUMB, THUMB);
    if (!state.selected.has(id)) continue;
    context.strokeStyle = colour("--accent");
    context.lineWidth = 3;
    context.strokeRect(px, py, THUMB, THUMB);
  }
  context.globalAlpha = 1;
}

/** Names that do not cover each other, of the largest clusters first. */
function drawNames(
  /** @type {CanvasRenderingContext2D} */ context,
  /** @type {number} */ width,
  /** @type {number} */ height,
  /** @type {(name: string) => string} */ colour,
) {
  const { left, top, across, down } = view();
  context.font = "600 13px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.lineWidth = 5;
  context.lineJoin = "round";
  context.strokeStyle = colour("--ground");
  context.fillStyle = colour("--ink");
  /** @type {[number, number, number][]} */
  const drawn = [];
  for (const { name, x, y } of map.names) {
    const half = context.measureText(name).width / 2 + 8;
    const [at, py] = [left + x * across, top + y * down];
    const px = Math.max(half, Math.min(width - half, at)); // whole names at the edges
    const covers = drawn.some(
      ([ox, oy, other]) => Math.abs(ox - px) < half + other && Math.abs(oy - py) < 26,
    );
    if (covers || at < 0 || py < 0 || at > width || py > height) continue;
    drawn.push([px, py, half]);
    context.strokeText(name, px, py);
    context.fillText(name, px, py);
  }
}

/** @param {CanvasRenderingContext2D} context @param {(name: string) => string} colour */
function drawLasso(context, colour) {
  if (map.lasso.length < 2) return;
  context.beginPath();
  for (const [x, y] of map.lasso) context.lineTo(x, y);
  context.closePath();
  context.strokeStyle = colour("--accent");
  context.lineWidth = 2;
  context.stroke();
  context.globalAlpha = 0.15;
  context.fillStyle = colour("--accent");
  context.fill();
  context.globalAlpha = 1;
}

/** @param {number} id */
function thumbOf(id) {
  let img = map.thumbs.get(id);
  if (!img) {
    img = new Image();
    img.addEventListener("load", drawSoon);
    showPicture(img, `/api/thumbs/${id}?size=96`);
  }
  map.thumbs.delete(id);
  map.thumbs.set(id, img); // the newest
  for (const old of [...map.thumbs.keys()].slice(0, -KEPT)) map.thumbs.delete(old);
  return img;
}

/** Zoom so that what is at a place of the screen stays there. */
function zoomAt(/** @type {number} */ zoom, /** @type {number} */ px, /** @type {number} */ py) {
  const before = view();
  const [x, y] = [(px - before.left) / before.across, (py - before.top) / before.down];
  map.zoom = Math.max(0.6, Math.min(MOST_ZOOM, zoom));
  const after = view();
  map.x += x - (px - after.left) / after.across;
  map.y += y - (py - after.top) / after.down;
  drawSoon();
}

/** @param {WheelEvent} event */
function wheel(event) {
  event.preventDefault();
  zoomAt(map.zoom * Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
}

/** Pointers on the map, by id. @type {Map<number, [number, number]>} */
const pointers = new Map();

/** Follow a pointer: it moves the map, or with Shift or while selecting draws a lasso. */
function follow(/** @type {PointerEvent} */ start) {
  const canvas = $("map");
  const draws = start.shiftKey || grid.selecting;
  const ended = new AbortController();
  const { signal } = ended;
  let way = 0;
  pointers.set(start.pointerId, [start.offsetX, start.offsetY]);
  if (draws) map.lasso = [[start.offsetX, start.offsetY]];
  canvas.setPointerCapture(start.pointerId);
  const move = (/** @type {PointerEvent} */ event) => {
    const before = pointers.get(event.pointerId);
    if (event.pointerId !== start.pointerId || !before) return;
    const now = /** @type {[number, number]} */ ([event.offsetX, event.offsetY]);
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    const apart = (/** @type {[number, number]} */ at) =>
      Math.hypot(at[0] - others[0][0], at[1] - others[0][1]);
    way += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
    if (others.length === 1)
      zoomAt((map.zoom * apart(now)) / Math.max(1, apart(before)), ...others[0]);
    else if (draws) map.lasso.push(now);
    else {
      const { across, down } = view();
      map.x -= (now[0] - before[0]) / across;
      map.y -= (now[1] - before[1]) / down;
    }
    pointers.set(event.pointerId, now);
    drawSoon();
  };
  const end = (/** @type {PointerEvent} */ event) => {
    if (event.pointerId !== start.pointerId) return;
    ended.abort();
    pointers.delete(event.pointerId);
    if (way < CLICK) openAt(event.offsetX, event.offsetY);
    else if (draws) selectInside(map.lasso);
    map.lasso = [];
    drawSoon();
  };
  canvas.addEventListener("pointermove", move, { signal });
  canvas.addEventListener("pointerup", end, { signal });
  canvas.addEventListener("pointercancel", end, { signal });
}

/** @param {KeyboardEvent} event */
function key(event) {
  const canvas = $("map");
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const [across, down] = [80 / view().across, 80 / view().down];
  /** @type {Record<string, () => void>} */
  const actions = {
    ArrowLeft: () => (map.x -= across),
    ArrowRight: () => (map.x += across),
    ArrowUp: () => (map.y -= down),
    ArrowDown: () => (map.y += down),
    "+": () => zoomAt(map.zoom * 1.4, width / 2, height / 2),
    "-": () => zoomAt(map.zoom / 1.4, width / 2, height / 2),
    Enter: () => openAt(width / 2, height / 2, Infinity),
  };
  if (!(event.key in actions) || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  actions[event.key]();
  drawSoon();
}

/** Show the picture nearest to a place of the screen. */
async function openAt(
  /** @type {number} */ px,
  /** @type {number} */ py,
  /** @type {number} */ most = THUMB,
) {
  if (!map.places) return;
  const { ids, x, y } = map.places;
  const { left, top, across, down } = view();
  let [best, nearest] = [-1, most];
  for (const i of ids.keys()) {
    const away = Math.hypot(left + x[i] * across - px, top + y[i] * down - py);
    if (away < nearest) [best, nearest] = [i, away];
  }
  if (best < 0) return;
  const [entry] = await recordsOf([ids[best]]);
  if (entry) mapHooks.details(entry);
}

/** Select the pictures inside a lasso. @param {[number, number][]} lasso */
async function selectInside(lasso) {
  const { ids, x, y } = map.places;
  const { left, top, across, down } = view();
  const inside = ids.filter((_, i) => contains(lasso, left + x[i] * across, top + y[i] * down));
  await recordsOf(inside);
  select(inside);
  drawSoon();
}

/** The records of pictures, which are kept. @param {number[]} ids @returns {Promise<any[]>} */
async function recordsOf(ids) {
  const all = [];
  for (let i = 0; i < ids.length; i += MOST) {
    const some = ids.slice(i, i + MOST).map((id) => `id=${id}`);
    const { items } = await json(`/api/items?sizes=true&${some.join("&")}`);
    all.push(...items);
  }
  for (const item of all) state.known.set(item.id, { ...state.known.get(item.id), ...item });
  return all;
}

/** Whether a polygon contains a point. */
function contains(
  /** @type {[number, number][]} */ corners,
  /** @type {number} */ x,
  /** @type {number} */ y,
) {
  let inside = false;
  for (const [i, [ax, ay]] of corners.entries()) {
    const [bx, by] = corners[(i || corners.length) - 1];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}
