// Small pictures of the query and of its parts.

import { make } from "./elements.js";
import { showPicture } from "./pictures.js";
import { isText, state, textOf } from "./state.js";
import { shownName } from "./words.js";

/** @typedef {import("./state.js").Picture} Picture */

/** What a picture is called: its file's name, its label, or its item's name. @param {Picture} one */
export function nameOf(one) {
  if (isText(one)) return `“${textOf(one)}”`;
  if (typeof one === "string") return state.uploads.get(one)?.file.name ?? "your picture";
  const item = state.known.get(one);
  return item ? shownName(item) : `picture ${one}`;
}

/**
 * Show a picture, or a part of it, in a frame that hides what is outside.
 * @param {HTMLImageElement} img
 * @param {Picture} one
 * @param {number[] | null} [box]
 * @param {number[] | null} [size]  of the whole picture; needed for a part
 */
export function showThumb(img, one, box = null, size = null) {
  if (isText(one)) img.hidden = true;
  else if (typeof one === "number")
    showPicture(img, `/api/thumbs/${one}?size=${box ? 512 : 256}`);
  else showUpload(img, one);
  const part = box && size;
  img.classList.toggle("part", Boolean(part));
  const style = part ? placeOfPart(box, size) : { left: "", top: "", width: "", height: "" };
  Object.assign(img.style, style);
}

/**
 * An <img> of a picture, or of a part of it.
 * @param {Picture} one
 * @param {number[] | null} [box]
 * @param {number[] | null} [size]
 */
export function makeThumb(one, box = null, size = null) {
  const img = make("img", { alt: "" });
  img.addEventListener("missing", () => (img.hidden = true));
  showThumb(img, one, box, size);
  return img;
}

/** @param {HTMLImageElement} img @param {string} key */
async function showUpload(img, key) {
  const upload = await state.uploads.load(key);
  if (upload) img.src = upload.url;
  else img.hidden = true;
}

/**
 * Where the whole picture stands, so that a part of it fills a square frame.
 * @param {number[]} box
 * @param {number[]} size
 */
function placeOfPart([x, y, w, h], [width, height]) {
  const side = Math.min(w, h); // of the part's middle square
  const [left, top] = [x + (w - side) / 2, y + (h - side) / 2];
  const percent = (/** @type {number} */ part) => `${(100 * part) / side}%`;
  return {
    left: percent(-left),
    top: percent(-top),
    width: percent(width),
    height: percent(height),
  };
}
