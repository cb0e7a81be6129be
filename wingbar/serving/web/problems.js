// What the page does when a request fails.

import { Problem } from "./api.js";
import { $, setName } from "./elements.js";
import { grid } from "./grid.js";
import { go, goHome, removeFilters } from "./navigation.js";
import { dismissNotice, showNotice } from "./notice.js";
import { stopWaiting, whenBack } from "./outage.js";
import { chooseFile } from "./pick.js";
import { drawTitle, setOutcome } from "./query.js";
import { hasQuery, isUpload, state } from "./state.js";
import { clearSummary, showPlaceholder } from "./status.js";
import { plural } from "./words.js";

/** @type {Record<number, string>} */
const TITLES = { 404: "Not in this index", 409: "This index is empty" };

/**
 * Say what went wrong and what can be done.
 * @param {unknown} error
 * @param {() => void} again  what failed
 */
export function report(error, again) {
  console.error(error);
  if (!(error instanceof Problem)) {
    showNotice(
      "Something went wrong. Reload the page; if that does not help, see the browser's console.",
      [["Reload", () => location.reload()]],
    );
    return;
  }
  const { kind, message } = error;
  if (kind === "gone") waitUntilBack(message, again);
  else if (kind === "busy" || kind === "failed") showNotice(message, [["Try again", again]]);
  else if (kind === "token") showNotice(message, [["Enter the token", again]]);
  else showRefusal(error);
}

/**
 * Say that a busy server will be asked again in some seconds, or with 0 that it was.
 * @param {number} seconds
 */
export function showBusy(seconds) {
  if (!seconds) {
    dismissNotice();
    return;
  }
  const wait = plural(Math.ceil(seconds), "second");
  showNotice(`The server is busy. Trying again in ${wait}.`, [], "wait");
}

/**
 * Say that the server is gone, and try again as soon as it is back.
 * @param {string} message
 * @param {() => void} again
 */
function waitUntilBack(message, again) {
  const retry = () => {
    stopWaiting("view");
    dismissNotice();
    again();
  };
  showNotice(message, [["Try again", retry]]);
  whenBack("view", retry);
}

/** Show in the place of pictures why the server refused. @param {Problem} problem */
function showRefusal({ message, status }) {
  grid.clear();
  state.results = null;
  clearSummary();
  if (hasQuery()) drawTitle();
  else setName($("title"), "Pictures");
  $("status").textContent = `Failed: ${message}`;
  if (hasQuery() && status !== 409) setOutcome("refused"); // an empty index refuses any query
  const title = TITLES[status] ?? "This search failed";
  showPlaceholder({ title, text: message, actions: waysOut() });
}

/** What can be changed about the present search. */
function waysOut() {
  const { query, where, box, like, unlike } = state.search;
  /** @type {import("./notice.js").Action[]} */
  const actions = [];
  if (isUpload()) actions.push(["Choose another picture", chooseFile]);
  if (where.length) actions.push(["Remove the filters", removeFilters]);
  if (box) actions.push(["Search the whole picture", () => go({ ...state.search, box: null })]);
  if (like.length + unlike.length)
    actions.push(["Search without marks", () => go({ ...state.search, like: [], unlike: [] })]);
  if (query !== null) actions.push(["All pictures", goHome]);
  return actions;
}
