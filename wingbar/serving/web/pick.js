// Pictures to search with: chosen, photographed, dropped or pasted.

import { closeDialogs } from "./dialogs.js";
import { $ } from "./elements.js";
import { go, goLike } from "./navigation.js";
import { dismissNotice, showNotice } from "./notice.js";
import { state } from "./state.js";
import { objection, smallerCopy } from "./uploads.js";
import { plural } from "./words.js";

/** Listen to the buttons, to drops anywhere on the page and to the clipboard. */
export function listenForPictures() {
  $("browse").addEventListener("click", chooseFile);
  $("another").addEventListener("click", chooseFile);
  $("camera").addEventListener("click", () => $("photo").click());
  for (const input of [$("file"), $("photo")]) {
    input.addEventListener("change", () => {
      if (input.files.length) searchWith(input.files[0]);
      input.value = "";
    });
  }
  listenForDrops();
  addEventListener("paste", pasted);
}

/** Open the browser's dialog that chooses a file. */
export const chooseFile = () => $("file").click();

/** Search with a file, or say why that is not possible. @param {File} file */
async function searchWith(file) {
  closeDialogs();
  const wrong = objection(file, state.info?.limits);
  if (wrong) {
    refuse(file, wrong);
    return;
  }
  dismissNotice();
  if (!state.info) return; // the server has not answered yet
  const upload = state.uploads.add(file);
  await go({ ...state.search, id: null, upload, box: null }, { focus: true });
}

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
    searchWith(copy);
    return;
  }
  const text = "This browser cannot make a smaller copy of it. Make one with another program.";
  showNotice(text, [["Choose another picture", chooseFile]]);
}

/** Search with the first of several files. @param {File[]} files */
function searchWithFirst([file, ...others]) {
  searchWith(file);
  if (!others.length) return;
  const ignored = plural(others.length, "other file");
  showNotice(`Searching with ${file.name}. Ignored ${ignored}: one picture at a time.`, [], "wait");
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
    dropped(event.dataTransfer);
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

/** Search with what was dropped: a file, or a card of this page. @param {DataTransfer} data */
function dropped(data) {
  if (data.files.length) {
    searchWithFirst([...data.files]);
    return;
  }
  const id = idOfLink(data.getData("text/uri-list").split(/\r?\n/)[0]);
  if (id) goLike({ id: Number(id) });
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
    searchWithFirst(files);
  } else if (!target.closest?.("input, textarea")) {
    showNotice(
      "There is no picture on the clipboard. Copy a picture, not its address, then paste again.",
    );
  }
}
