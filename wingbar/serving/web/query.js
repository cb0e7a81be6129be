// The query on the page: its picture and name, the part of it that is searched, what the model saw.

import { fileBody, json, jsonBody } from "./api.js";
import { Crop, placeOf } from "./crop.js";
import { $, setName } from "./elements.js";
import { go } from "./navigation.js";
import { Overlay } from "./overlay.js";
import { showPicture } from "./pictures.js";
import { hasQuery, queryFile, state } from "./state.js";
import { bytes } from "./words.js";

const overlay = new Overlay($("look-button"), $("query-look"), $("query-facts"));

const crop = new Crop({
  frame: $("frame"),
  img: $("picture"),
  box: $("box"),
  inputs: [$("box-x"), $("box-y"), $("box-w"), $("box-h")],
  on: {
    begin: enterCrop,
    current: () => state.search.box,
    change: (box) => {
      const before = state.search.box;
      if (String(box) !== String(before)) go({ ...state.search, box }, { push: before === null });
    },
  },
});

/** Listen to the picture and to the buttons that crop it. */
export function listenToQuery() {
  $("picture").addEventListener("load", () => {
    const { naturalWidth, naturalHeight } = $("picture");
    if (!crop.size && naturalWidth) setQuerySize([naturalWidth, naturalHeight]);
  });
  $("picture").addEventListener("error", showNoPreview);
  $("crop-button").addEventListener("click", () => (crop.active ? leaveCrop() : enterCrop()));
  $("whole").addEventListener("click", () => {
    if (state.search.box) go({ ...state.search, box: null });
    abandonCrop();
  });
}

/**
 * Show the query of the present search.
 * @param {boolean} sameQuery  whether its picture is on the page already
 * @param {boolean} sameBox    and the same part of it
 */
export function drawQuery(sameQuery, sameBox) {
  $("ask").hidden = hasQuery();
  $("query").hidden = !hasQuery();
  if (!sameQuery) leaveCrop();
  if (!hasQuery()) return;
  if (!sameQuery) {
    drawNewQuery();
    return;
  }
  crop.set(crop.size, state.search.box);
  if (!sameBox) offerOverlay();
}

/** What the query is called: its file's name, its label, or its item's name. @returns {string} */
export function queryName() {
  const { id, upload } = state.search;
  if (upload !== null) return queryFile()?.name ?? "your picture";
  const item = state.known.get(id);
  return item ? (item.label ?? item.name) : `picture ${id}`;
}

/** Write the heading of the results. */
export const drawTitle = () => setName($("title"), `Like ${queryName()}`);

/** Take the size of the query, which can be cropped from then on. @param {[number, number]} size */
export function setQuerySize(size) {
  if (crop.size && crop.size[0] === size[0] && crop.size[1] === size[1]) return;
  $("frame").style.setProperty("--ratio", size[0] / size[1]);
  crop.set(size, state.search.box);
  drawQueryName();
}

/** Whether the crop box can be changed now. @returns {boolean} */
export const isCropping = () => crop.active;

/** Leave cropping by a key or a button, to which the focus goes. */
export function abandonCrop() {
  leaveCrop();
  $("crop-button").focus();
}

function drawNewQuery() {
  const { id, upload } = state.search;
  crop.set(null, null);
  $("keep").hidden = upload === null || !state.info.writable;
  offerOverlay();
  drawQueryName();
  const picture = $("picture");
  $("no-preview").hidden = true;
  picture.hidden = false;
  picture.removeAttribute("src");
  delete picture.dataset.url;
  if (upload !== null) {
    picture.src = state.uploads.get(upload).url;
  } else {
    showPicture(picture, `/api/images/${id}`);
    loadItem(id);
  }
}

function drawQueryName() {
  setName($("query-name"), queryName());
  const facts = queryFacts();
  if (crop.size) facts.unshift(`${crop.size[0]} × ${crop.size[1]}`);
  $("query-facts").textContent = facts.join(" · ");
  $("picture").alt = `The query: ${queryName()}`;
}

/** The size of a file; the name of an item that is called by its label. */
function queryFacts() {
  const file = queryFile();
  if (file) return [bytes(file.size)];
  const item = state.known.get(state.search.id);
  return item?.name && item.label !== null && item.name !== item.label ? [item.name] : [];
}

/** Ask for the query's label and name. @param {number} id */
async function loadItem(id) {
  let item;
  try {
    item = await json(`/api/items/${id}`);
  } catch {
    return; // the search itself says what is wrong
  }
  if (state.search.id !== id) return;
  state.known.set(id, { ...state.known.get(id), ...item });
  drawQueryName();
  if (state.results) drawTitle();
}

function showNoPreview() {
  $("picture").hidden = true;
  $("no-preview").hidden = false;
  $("no-preview").textContent =
    state.search.upload !== null
      ? "This browser cannot show the file, but it can be searched with."
      : "The file is no longer there. You can still search with its code.";
}

/** Offer what the model saw in the query, or in the box of it. */
function offerOverlay() {
  overlay.offer(state.info.explains, overlayRequest, () => {
    const { box } = state.search;
    return placeOf(box ?? [0, 0, 1, 1], box ? crop.size : [1, 1]);
  });
}

/** @returns {import("./overlay.js").Request} */
function overlayRequest() {
  const { id, box } = state.search;
  if (id !== null) return ["/api/explain", jsonBody({ id, ...(box && { box }) })];
  return [`/api/explain${box ? `?box=${box}` : ""}`, fileBody(queryFile())];
}

function enterCrop() {
  if (!hasQuery() || !crop.size) return;
  overlay.clear();
  showCropping(true);
  crop.start();
}

function leaveCrop() {
  showCropping(false);
  crop.stop(state.search.box);
}

/** @param {boolean} cropping */
function showCropping(cropping) {
  $("query").classList.toggle("cropping", cropping);
  $("box-fields").hidden = !cropping;
  $("crop-button").setAttribute("aria-pressed", String(cropping));
}
