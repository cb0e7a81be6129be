// Pictures to search with: chosen, photographed, dropped or pasted.

import { closeDialogs } from "./dialogs.js";
import { $ } from "./elements.js";
import { addFiles, filesOf, hasFolder } from "./folder.js";
import { go, goLike } from "./navigation.js";
import { dismissNotice, showNotice } from "./notice.js";
import { likePicture, state } from "./state.js";
import { objection, smallerCopy } from "./uploads.js";

const MOST = 8; // pictures of one query
const LARGE = 3e6; // bytes from which one of several pictures is sent as a smaller copy

/** Listen to the buttons, to drops anywhere on the page and to the clipboard. */
export function listenForPictures() {
  $("browse").addEventListener("click", chooseFile);
  $("camera").addEventListener("click", () => $("photo").click());
  for (const input of [$("file"), $("photo")]) {
    input.addEventListener("change", () => {
      if (input.files.length) searchWith([...input.files]);
      input.value = "";
    });
  }
  listenForDrops();
  addEventListener("paste", pasted);
}

/** Open the browser's dialog that chooses a file. */
export const chooseFile = () => $("file").click();

/**
 * Search with files, several as one query, or say why that is not possible.
 * @param {File[]} files
 */
export async function searchWith(files) {
  closeDialogs();
  for (const file of files) {
    const wrong = objection(file, state.info?.limits);
    if (!wrong) continue;
    refuse(file, wrong);
    return;
  }
  dismissNotice();
  if (!state.info) return; // the server has not answered yet
  const some = files.slice(0, MOST);
  const others = await Promise.all(some.slice(1).map(sendable));
  const [query, ...like] = [some[0], ...others].map((file) => state.uploads.add(file));
  await go({ ...likePicture(query), like }, { focus: true });
  if (files.length > MOST)
    showNotice(`Searching with the first ${MOST} of ${files.length} pictures.`, [], "wait");
}

/** Add files to the query. @param {File[]} files */
async function addToQuery(files) {
  const wrong = files.map((file) => objection(file, state.info?.limits)).find(Boolean);
  if (wrong) {
    showNotice(wrong);
    return;
  }
  const room = MOST - 1 - state.search.like.length;
  const more = await Promise.all(files.slice(0, room).map(sendable));
  const like = [...state.search.like, ...more.map((file) => state.uploads.add(file))];
  await go({ ...state.search, like }, { travel: true });
}

/** One of several pictures: all of them together are one request. @param {File} file */
const sendable = async (file) => (file.size > LARGE ? ((await smallerCopy(file)) ?? file) : file);

/** @param {File} file @param {string} wrong */
function refuse(file, wrong) {
  /** @type {import("./notice.js").Action[]} */
  const actions = [["Choose another picture", chooseFile]];
  const isTooLarge = state.info?.limits?.upload_bytes < file.size && file.type.startsWith("image/");
  if (isTooLarge)
    actions.unshift(["Search with a smaller copy", () => searchWithSmallerCopy(file)]);
  showNotice(wrong, actions);
}

/** @param {File} file */
async function searchWithSmallerCopy(file) {
  const copy = await smallerCopy(file);
  if (copy && !objection(copy, state.info.limits)) {
    searchWith([copy]);
    return;
  }
  const text = "This browser cannot make a smaller copy of it. Make one with another program.";
  showNotice(text, [["Choose another picture", chooseFile]]);
}

function listenForDrops() {
  let depth = 0; // of elements that the pointer has entered and not left
  const show = () => document.body.classList.toggle("dropping", depth > 0);
  addEventListener("dragenter", (event) => {
    if (!carriesPicture(event)) return;
    event.preventDefault();
    depth++;
    show();
  });
  addEventListener("dragover", (event) => {
    if (carriesPicture(event)) event.preventDefault();
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    show();
  });
  addEventListener("drop", (event) => {
    depth = 0;
    show();
    if (!carriesPicture(event)) return;
    event.preventDefault();
    dropped(event.dataTransfer, isOnQuery(event));
  });
}

/**
 * Whether a drag brings files or a link, which is what a dragged card is.
 * @param {DragEvent} event
 */
function carriesPicture({ dataTransfer }) {
  const types = dataTransfer?.types ?? [];
  return types.includes("Files") || types.includes("text/uri-list");
}

/** Whether something is dropped on the pictures of the query. @param {DragEvent} event */
const isOnQuery = ({ target }) =>
  state.search.query !== null && Boolean(/** @type {Element} */ (target).closest?.("#ask"));

/**
 * Search with what was dropped: files, or a card of this page; or add it to the query.
 * @param {DataTransfer} data
 * @param {boolean} adds
 */
async function dropped(data, adds) {
  if (hasFolder(data)) {
    if (state.info?.writable) addFiles(await filesOf(data));
    else showNotice("This server does not let the page add pictures.");
    return;
  }
  if (data.files.length) {
    if (adds) addToQuery([...data.files]);
    else searchWith([...data.files]);
    return;
  }
  const id = Number(idOfLink(data.getData("text/uri-list").split(/\r?\n/)[0]));
  const { like } = state.search;
  if (id && adds && !like.includes(id))
    go({ ...state.search, like: [...like, id] }, { travel: true });
  else if (id) goLike({ id });
  else
    showNotice(
      "That is a link, and this page loads nothing from other sites. " +
        "Save the picture and drop the file, or copy the picture and paste it.",
    );
}

/** The id in a link to a search of this server. @param {string} link */
function idOfLink(link) {
  const url = URL.canParse(link) ? new URL(link) : null;
  return url?.origin === location.origin ? url.searchParams.get("id") : null;
}

/** Search with the picture on the clipboard. @param {ClipboardEvent} event */
function pasted(event) {
  const files = [...(event.clipboardData?.files ?? [])];
  const target = /** @type {Element} */ (event.target);
  if (files.length) {
    event.preventDefault();
    searchWith(files);
  } else if (!target.closest?.("input, textarea")) {
    showNotice(
      "There is no picture on the clipboard. Copy a picture, not its address, then paste again.",
    );
  }
}
