// What the page does when a request fails.

import { Problem } from "./api.js";
import { $, setName } from "./elements.js";
import { grid } from "./grid.js";
import { go, goHome, removeFilters } from "./navigation.js";
import { dismissNotice, showNotice } from "./notice.js";
import { chooseFile } from "./pick.js";
import { drawTitle } from "./query.js";
import { hasQuery, state } from "./state.js";
import { clearSummary, showPlaceholder } from "./status.js";
import { plural } from "./words.js";

const POLL = 3000; // ms between two checks whether the server is back

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
  const { timers } = state;
  clearInterval(timers.reconnect);
  const retry = () => {
    clearInterval(timers.reconnect);
    dismissNotice();
    again();
  };
  showNotice(message, [["Try again", retry]]);
  timers.reconnect = setInterval(async () => {
    if (!document.hidden && (await isServerUp())) retry();
  }, POLL);
}

async function isServerUp() {
  try {
    return (await fetch("/healthz")).ok;
  } catch {
    return false;
  }
}

/** Show in the place of pictures why the server refused. @param {Problem} problem */
function showRefusal({ message, status }) {
  grid.clear();
  state.results = null;
  clearSummary();
  $("more").hidden = true;
  if (hasQuery()) drawTitle();
  else setName($("title"), "Pictures");
  $("status").textContent = `Failed: ${message}`;
  const title = status === 404 ? "Not in this index" : "This search failed";
  showPlaceholder({ title, text: message, actions: waysOut() });
}

/** What can be changed about the present search. */
function waysOut() {
  const { id, upload, where, box } = state.search;
  /** @type {import("./notice.js").Action[]} */
  const actions = [];
  if (upload !== null) actions.push(["Choose another picture", chooseFile]);
  if (where.length) actions.push(["Remove the filters", removeFilters]);
  if (box) actions.push(["Search the whole picture", () => go({ ...state.search, box: null })]);
  if (id !== null) actions.push(["All pictures", goHome]);
  return actions;
}
