// The query on the page: its picture and name, the part of it that is searched, what the model saw.

import { fileBody, json, jsonBody, Problem } from "./api.js";
import { Crop, placeOf } from "./crop.js";
import { $, setName } from "./elements.js";
import { go } from "./navigation.js";
import { stopWaiting, whenBack } from "./outage.js";
import { Overlay } from "./overlay.js";
import { showPicture } from "./pictures.js";
import { hasQuery, queryFile, state } from "./state.js";
import { bytes, shownName } from "./words.js";

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
    setGap(null);
  });
  $("picture").addEventListener("missing", () => setGap("missing"));
  $("picture").addEventListener("delayed", () => setGap("delayed"));
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
  return item ? shownName(item) : `picture ${id}`;
}

/** Write the heading of the results. */
export const drawTitle = () => setName($("title"), `Like ${queryName()}`);

/** Take the size of the query, which can be cropped from then on. @param {[number, number]} size */
export function setQuerySize(size) {
  if (crop.size && crop.size[0] === size[0] && crop.size[1] === size[1]) return;
  $("frame").style.setProperty("--ratio", size[0] / size[1]);
  crop.set(size, state.search.box);
  drawQueryName();
  drawUse();
}

/** Note what the server said to the query. @param {"found" | "refused"} outcome */
export function setOutcome(outcome) {
  state.query.outcome = outcome;
  drawUse();
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
  state.query = { gap: null, outcome: null };
  offerOverlay();
  drawUse();
  drawQueryName();
  const picture = $("picture");
  picture.removeAttribute("src");
  delete picture.dataset.url;
  stopWaiting(picture);
  stopWaiting("query");
  if (upload !== null) {
    picture.onerror = () => setGap("missing");
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
  } catch (error) {
    // the search itself says what is wrong
    const isGone = error instanceof Problem && error.kind === "gone";
    if (isGone && state.search.id === id) whenBack("query", () => loadItem(id));
    return;
  }
  if (state.search.id !== id) return;
  state.known.set(id, { ...state.known.get(id), ...item });
  drawQueryName();
  drawUse();
  if (state.results) drawTitle();
}

/** @param {typeof state.query.gap} gap */
function setGap(gap) {
  state.query.gap = gap;
  drawUse();
}

/** Show what can be done with the query, and what stands in the place of its picture. */
function drawUse() {
  const { gap } = state.query;
  const usable = isUsable();
  $("picture").hidden = gap !== null;
  $("frame").hidden = gap === "missing" && !usable;
  $("no-preview").hidden = gap === null;
  $("no-preview").textContent = gapText();
  $("crop-button").hidden = !usable || (gap !== null && !crop.size);
  $("look-button").hidden = !usable || !state.info.explains;
  $("keep").hidden = !usable || state.search.upload === null || !state.info.writable;
}

/**
 * Whether the query can be searched with, as far as is known. If it was refused and there are
 * filters or a box, those may be at fault.
 */
function isUsable() {
  const { gap, outcome } = state.query;
  const { where, box } = state.search;
  return outcome !== "refused" || (gap !== "missing" && (where.length > 0 || box !== null));
}

/** Why the query's picture is not shown. */
function gapText() {
  const { gap, outcome } = state.query;
  if (gap === "delayed") return "The server does not respond. The picture comes when it does.";
  const { id, upload } = state.search;
  const isGone = state.known.get(id)?.available === false;
  let why = "This picture cannot be shown.";
  if (upload !== null) why = "This browser cannot show the picture.";
  if (isGone) why = "The file is no longer there.";
  return outcome === "found" ? `${why} The search works all the same.` : why;
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
