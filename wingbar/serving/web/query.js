// The query on the page: its pictures in the bar, the part of the first one that is searched, what
// the model saw.

import { fileBody, json, jsonBody, Problem } from "./api.js";
import { Crop, placeOf } from "./crop.js";
import { $, make, makeButton, setName } from "./elements.js";
import { go } from "./navigation.js";
import { stopWaiting, whenBack } from "./outage.js";
import { LOOK_LEGEND, Overlay } from "./overlay.js";
import { drawPanel } from "./panel.js";
import { showPicture } from "./pictures.js";
import { encoderOf, encoderPart, hasQuery, isText, isUpload, likePicture } from "./state.js";
import { queryFile, queryOfText, state, textOf, withoutPicture } from "./state.js";
import { makeThumb, nameOf } from "./thumbs.js";
import { bytes, count } from "./words.js";

/** @typedef {import("./state.js").Picture} Picture */

const MOST_TERMS = 6; // pictures in the bar; further ones are a number

const overlay = new Overlay($("look-button"), [$("query-look")], $("look-note"), LOOK_LEGEND);
/** The picture whose regions were asked for, and the encoder. @type {[Picture, string] | null} */
let suggestedFor = null;

const crop = new Crop({
  frame: $("frame"),
  img: $("picture"),
  box: $("box"),
  inputs: [$("box-x"), $("box-y"), $("box-w"), $("box-h")],
  on: {
    begin: enterCrop,
    current: () => state.search.box,
    change: (box) => searchPart(box),
  },
});

/** Listen to the picture, to the buttons that crop it, and to the field for texts. */
export function listenToQuery() {
  $("text-query").addEventListener("submit", (/** @type {Event} */ event) => {
    event.preventDefault();
    const text = $("text-input").value.trim();
    if (text) go(likePicture(queryOfText(text)), { travel: true });
  });
  $("picture").addEventListener("load", () => {
    const { naturalWidth, naturalHeight } = $("picture");
    if (!crop.size && naturalWidth) setQuerySize([naturalWidth, naturalHeight]);
    setGap(null);
  });
  $("picture").addEventListener("missing", () => setGap("missing"));
  $("picture").addEventListener("delayed", () => setGap("delayed"));
  $("crop-done").addEventListener("click", abandonCrop);
  $("whole").addEventListener("click", () => {
    if (state.search.box) go({ ...state.search, box: null });
    abandonCrop();
  });
}

/**
 * Show the query of the present search.
 * @param {boolean} sameQuery  whether its picture is on the page already
 * @param {boolean} sameSight  and the same part of it, by the same encoder
 */
export function drawQuery(sameQuery, sameSight) {
  const { query } = state.search;
  $("text-query").hidden = !state.info.knows_texts;
  $("text-input").value = isText(query) ? textOf(query) : "";
  if (!sameQuery) leaveCrop();
  if (hasQuery() && !sameQuery) drawNewQuery();
  else if (hasQuery()) {
    crop.set(crop.size, state.search.box);
    if (!sameSight) {
      offerOverlay();
      drawUse();
    }
  }
  drawTerms();
  drawTitle();
}

/** What the query is called. @returns {string} */
export const queryName = () => nameOf(state.search.query);

/** Write the heading of the results. */
export function drawTitle() {
  if (!hasQuery()) return;
  const { like, unlike, box } = state.search;
  const marks = [
    ...(like.length ? [`${count(like.length)} right`] : []),
    ...(unlike.length ? [`${count(unlike.length)} wrong`] : []),
  ];
  const others = marks.length ? ` · ${marks.join(", ")}` : "";
  const like_ = isText(state.search.query) ? "Showing" : box ? "Like a part of" : "Like";
  setName($("title"), `${like_} ${queryName()}${others}`);
}

/** Take the size of the query, which can be cropped from then on. @param {[number, number]} size */
export function setQuerySize(size) {
  if (crop.size && crop.size[0] === size[0] && crop.size[1] === size[1]) return;
  $("frame").style.setProperty("--ratio", size[0] / size[1]);
  crop.set(size, state.search.box);
  drawQueryName();
  drawUse();
  drawTerms();
}

/** Note what the server said to the query. @param {"found" | "refused"} outcome */
export function setOutcome(outcome) {
  state.query.outcome = outcome;
  drawUse();
}

/** Whether the crop view is open. @returns {boolean} */
export const isCropping = () => crop.active;

/** Open the crop view, or close it. */
export const toggleCrop = () => (crop.active ? abandonCrop() : enterCrop());

/** Close the crop view; the focus goes to the picture in the bar. */
export function abandonCrop() {
  leaveCrop();
  /** @type {HTMLElement | null} */ ($("terms").querySelector(".open"))?.focus();
}

/** Suggest parts of a new query to search for: once it was just given, or the crop view is open. */
export async function suggestRegions() {
  const { query, encoder } = state.search;
  const isNew = query !== suggestedFor?.[0];
  if (!isNew && encoder === suggestedFor[1]) return;
  $("suggested").hidden = true;
  if (isText(query) || !(isUpload() || crop.active)) return;
  suggestedFor = [query, encoder];
  const [path, options] = requestOf("/api/regions", null);
  /** @type {number[][]} */
  const regions = await json(path, options).then(
    (answer) => answer.regions,
    () => /** @type {number[][]} */ ([]), // the search says what is wrong
  );
  const isWanted = state.search.query === query && state.search.encoder === encoder;
  if (!isWanted || !crop.size || !regions.length) return;
  const items = regions.map((region, i) => {
    const button = makeButton("", () => searchPart(region), {
      className: "region",
      "aria-label": `Search for suggested part ${i + 1}`,
    });
    button.append(makeThumb(query, region, crop.size));
    return make("li", {}, button);
  });
  $("regions").replaceChildren(...items);
  $("suggested").hidden = false;
  // a photo that was just given: its parts are the next question
  if (isNew && isUpload() && !state.search.box && regions.length > 1) showCropping(true);
}

/** @param {number[]} box */
function searchPart(box) {
  const before = state.search.box;
  if (String(box) !== String(before)) go({ ...state.search, box }, { push: before === null });
}

/** The pictures of the query in the bar. */
function drawTerms() {
  const { query, like, unlike, box } = state.search;
  $("terms").hidden = !hasQuery();
  const text = hasQuery() ? "Another" : "Drop, paste or choose a picture";
  $("browse-text").textContent = text;
  $("browse").setAttribute("aria-label", hasQuery() ? "Another picture" : text);
  $("browse").classList.toggle("compact", hasQuery());
  if (!hasQuery()) {
    $("terms").replaceChildren();
    return;
  }
  const focused = document.activeElement?.closest?.("#terms li");
  const place = focused ? [...$("terms").children].indexOf(focused) : -1;
  const items = isText(query) ? [textTerm(query)] : [firstTerm(query, box)];
  const more = [...like.map((one) => term(one, true)), ...unlike.map((one) => term(one, false))];
  items.push(...more.slice(0, MOST_TERMS));
  if (more.length > MOST_TERMS)
    items.push(make("li", { className: "quiet" }, `+${more.length - MOST_TERMS}`));
  if (more.length > 1) {
    const clear = makeButton("Clear marks", clearMarks, { className: "plain" });
    items.push(make("li", {}, clear));
  }
  $("terms").replaceChildren(...items);
  if (place >= 0) items[Math.min(place, items.length - 1)].querySelector("button")?.focus();
}

/** The query, which opens the crop view. @param {Picture} query @param {number[] | null} box */
function firstTerm(query, box) {
  const item = make("li", { className: "term" });
  const button = makeButton("", toggleCrop, {
    className: "open",
    "aria-label": `Crop ${queryName()}`,
    "aria-expanded": String(crop.active),
    "aria-keyshortcuts": "c",
  });
  const cut = make("span", { className: "cut" }, makeThumb(query, crop.size && box, crop.size));
  const text = make("span", { className: "crop-text" });
  text.append(icon("crop"), "Crop");
  button.append(cut, text);
  item.append(button, removeButton(query, queryName()));
  return item;
}

/** A query that is a text. @param {Picture} query */
function textTerm(query) {
  const item = make("li", { className: "term text" });
  item.append(make("span", { className: "said" }, queryName()), removeButton(query, queryName()));
  return item;
}

/** One more picture. @param {Picture} one @param {boolean} right */
function term(one, right) {
  const item = make("li", { className: `term ${right ? "right" : "wrong"}` });
  const cut = make("span", { className: "cut" }, makeThumb(one));
  const sign = make("span", { className: "sign", "aria-hidden": "true" });
  sign.append(icon(right ? "check" : "close"));
  item.append(cut, sign, removeButton(one, `${nameOf(one)}, ${right ? "right" : "wrong"}`));
  return item;
}

/** @param {Picture} one @param {string} name */
function removeButton(one, name) {
  const button = makeButton("", () => go(withoutPicture(one), { travel: true }), {
    className: "remove",
    "aria-label": `Take ${name} out of the query`,
  });
  button.append(icon("close"));
  return button;
}

function clearMarks() {
  go({ ...state.search, like: [], unlike: [] }, { travel: true });
}

/** @param {string} name */
function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(space, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

function drawNewQuery() {
  const { query } = state.search;
  crop.set(null, null);
  suggestedFor = null;
  $("suggested").hidden = true;
  state.query = { gap: null, outcome: null };
  offerOverlay();
  drawUse();
  drawQueryName();
  const picture = $("picture");
  picture.removeAttribute("src");
  delete picture.dataset.url;
  stopWaiting(picture);
  stopWaiting("query");
  if (isText(query)) {
    setGap("text");
  } else if (typeof query === "string") {
    picture.onerror = () => setGap("missing");
    picture.src = state.uploads.get(query).url;
  } else {
    showPicture(picture, `/api/images/${query}`);
    loadItem(query);
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
  const item = state.known.get(Number(state.search.query));
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
    if (isGone && state.search.query === id) whenBack("query", () => loadItem(id));
    return;
  }
  if (state.search.query !== id) return;
  state.known.set(id, { ...state.known.get(id), ...item });
  if (item.width) setQuerySize([item.width, item.height]);
  drawQueryName();
  drawUse();
  drawTerms();
  drawTitle();
  drawPanel();
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
  $("no-preview").hidden = gap === null;
  $("no-preview").textContent = gapText();
  $("terms").classList.toggle("unusable", !usable || (gap !== null && !crop.size));
  $("look-button").hidden = !usable || !encoderOf().explains || gap === "text";
  $("keep").hidden = !usable || !isUpload() || !state.info.writable;
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
  if (gap === "text") return "";
  if (gap === "delayed") return "The server does not respond. The picture comes when it does.";
  const isGone = state.known.get(Number(state.search.query))?.available === false;
  let why = "This picture cannot be shown.";
  if (isUpload()) why = "This browser cannot show the picture.";
  if (isGone) why = "The file is no longer there.";
  return outcome === "found" ? `${why} The search works all the same.` : why;
}

/** Offer what the model saw in the query, or in the box of it. */
function offerOverlay() {
  overlay.offer(
    encoderOf().explains,
    () => [requestOf("/api/explain", state.search.box)],
    () => {
      const { box } = state.search;
      return placeOf(box ?? [0, 0, 1, 1], box ? crop.size : [1, 1]);
    },
  );
}

/**
 * A request about the query, or a part of it.
 * @param {string} path
 * @param {number[] | null} box
 * @returns {import("./overlay.js").Request}
 */
export function requestOf(path, box) {
  const { query } = state.search;
  const about = { ...(box && { box }), ...encoderPart() };
  if (!isUpload()) return [path, jsonBody({ id: query, ...about })];
  const [place, given] = path.split("?");
  const params = new URLSearchParams(given);
  for (const [name, value] of Object.entries(about)) params.set(name, String(value));
  return [`${place}?${params}`, fileBody(queryFile())];
}

function enterCrop() {
  if (!hasQuery() || !crop.size) return;
  overlay.clear();
  showCropping(true);
  crop.start();
  scrollTo(0, 0);
  suggestRegions();
}

function leaveCrop() {
  showCropping(false);
  crop.stop(state.search.box);
}

/** @param {boolean} cropping */
function showCropping(cropping) {
  $("query").hidden = !cropping;
  $("terms").querySelector(".open")?.setAttribute("aria-expanded", String(cropping));
}
