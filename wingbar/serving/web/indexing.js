// A folder of the server's own machine is indexed where it is: the dialog that names it, and how far
// it is, which the server tells as events.

import { drawAdding, finishAdding, listenToAdding, ofPictures, openAdding } from "./adding.js";
import { json, jsonBody } from "./api.js";
import { $, make } from "./elements.js";
import { refreshInfo } from "./info.js";
import { goHome } from "./navigation.js";
import { forgetAnswers } from "./search.js";
import { state } from "./state.js";
import { count } from "./words.js";

/**
 * How far it is: the data of an event of GET /api/indexing.
 * @typedef {object} Run
 * @property {"idle" | "running" | "done" | "stopped" | "failed"} state
 * @property {string} folder
 * @property {string} stage
 * @property {number} done
 * @property {number} total
 * @property {Record<string, number>} counts
 * @property {import("./adding.js").Failed[]} failed
 * @property {number} failures
 * @property {string} message
 */

const GO_ON = "What was stored stays. Index the folder again to go on.";

/** Listen to the button, to the dialog that it opens, and to the one that shows progress. */
export function listenToIndexing() {
  listenToAdding();
  $("index-folder").addEventListener("click", openDialog);
  $("indexing-form").addEventListener("submit", async (/** @type {Event} */ event) => {
    event.preventDefault();
    try {
      await json("/api/indexing", jsonBody({ folder: $("indexing-folder").value }));
    } catch (/** @type {any} */ problem) {
      $("indexing-note").textContent = problem.message;
      return;
    }
    $("indexing").close();
    watchIndexing();
  });
}

/** Show how far the server is, until it ends. */
export function watchIndexing() {
  const events = new EventSource("/api/indexing"); // asks again by itself
  openAdding("The pictures stay where they are.", () => {
    json("/api/indexing", { method: "DELETE" }).catch(() => {}); // the events tell what comes of it
  });
  drawAdding("reading the folder", 0, 0);
  events.addEventListener("message", ({ data }) => {
    /** @type {Run} */
    const run = JSON.parse(data);
    if (run.state === "running") {
      draw(run);
      return;
    }
    events.close();
    end(run);
  });
  events.addEventListener("error", () => {
    if (events.readyState === EventSource.CLOSED) finishAdding("This server cannot tell.", []);
    else drawAdding("The server does not respond.", 0, 0);
  });
}

function openDialog() {
  const folders = state.info.index_folders;
  $("indexing-folders").replaceChildren(...folders.map((value) => make("option", { value })));
  $("indexing-rule").textContent =
    `This server may index ${folders.join(", ")} and the folders inside.`;
  $("indexing-folder").value ||= folders[0];
  $("indexing-note").textContent = "";
  $("indexing").showModal();
}

/** @param {Run} run */
function draw({ folder, stage, done, total }) {
  $("adding-note").textContent = `${folder}: the pictures stay where they are.`;
  drawAdding(stage === "indexing" ? ofPictures(done, total) : stage, done, total);
}

/** @param {Run} run */
async function end(run) {
  finishAdding(textOf(run), run.failed, run.failures);
  forgetAnswers();
  await refreshInfo();
  goHome();
}

/** @param {Run} run */
function textOf({ state: how, counts, message }) {
  const some = Object.entries(counts).filter(([, n]) => n);
  const text = some.map(([name, n]) => `${count(n)} ${name}`).join(", ");
  if (how === "done") return `${text || "Nothing to do"}. ${message}`.trim();
  if (how === "failed") return message;
  if (how === "stopped") return `Stopped${text && `: ${text}`}. ${GO_ON}`;
  return `The server was started anew. ${GO_ON}`;
}
