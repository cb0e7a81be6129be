// Many pictures at once: a folder, or several files, is added to the index in batches, with progress
// and a list of what could not be used.

import { drawAdding, drawFailed, finishAdding, ofPictures, openAdding } from "./adding.js";
import { json } from "./api.js";
import { $ } from "./elements.js";
import { refreshInfo } from "./info.js";
import { goHome } from "./navigation.js";
import { showNotice } from "./notice.js";
import { forgetAnswers } from "./search.js";
import { objection } from "./uploads.js";
import { state } from "./state.js";
import { plural } from "./words.js";

const HEIC = /\.hei[cf]$/i; // a type that few systems know
const BATCH = 16; // pictures of one request,
const FIRST_BATCH = 64; // and of the first one of an empty index, which learns its codes from it,
const BATCH_BYTES = 24e6; // and bytes, unless one picture has more

/** What is under way; null when nothing is. @type {AbortController | null} */
let running = null;

/** Listen to the button that chooses a folder, and to its choice. */
export function listenToFolder() {
  $("add-folder").addEventListener("click", () => $("folder").click());
  $("folder").addEventListener("change", () => {
    addFiles([...$("folder").files]);
    $("folder").value = "";
  });
}

/**
 * Add pictures to the index. Files that are no pictures by name are left out.
 * @param {File[]} files
 */
export async function addFiles(files) {
  if (running) return;
  const pictures = files.filter(({ type, name }) => type.startsWith("image/") || HEIC.test(name));
  if (!pictures.length) {
    showNotice("There is no picture in this folder.", [], "wait");
    return;
  }
  const work = new AbortController();
  running = work;
  /** @type {{ name: string, reason: string }[]} */
  const failed = [];
  let added = 0;
  const wasEmpty = !state.info.items;
  const others = files.length - pictures.length;
  const left = others ? ` ${plural(others, "other file")} left out.` : "";
  openAdding(`The pictures are copied into the folder beside the index.${left}`, () =>
    work.abort(),
  );
  const draw = (/** @type {number} */ done) => {
    drawAdding(ofPictures(done, pictures.length), done, pictures.length);
    drawFailed(failed);
  };
  draw(0);
  try {
    const usable = pictures.filter((file) => {
      const reason = objection(file, state.info.limits);
      if (reason) failed.push({ name: file.name, reason });
      return !reason;
    });
    let done = failed.length;
    for (const batch of batches(usable, wasEmpty ? FIRST_BATCH : BATCH)) {
      const answer = await send(batch, work.signal);
      added += answer.items.length;
      done += batch.length;
      failed.push(...answer.failed);
      draw(done);
    }
    const hint = wasEmpty && added > FIRST_BATCH ? ` ${refitHint()}` : "";
    finishAdding(`${plural(added, "picture")} added.${hint}`, failed);
  } catch (/** @type {any} */ problem) {
    const isStopped = work.signal.aborted;
    const why = isStopped ? "Stopped." : `${problem.message} Nothing is lost:`;
    finishAdding(`${why} ${plural(added, "picture")} added so far.`, failed);
  }
  running = null;
  forgetAnswers();
  await refreshInfo();
  if (added) goHome();
}

/** The codes of an index come from the pictures that it gets first. */
const refitHint = () =>
  `Its codes were learned from the first ${FIRST_BATCH}. To learn them from all, run ` +
  `wingbar index ${state.info.name} --refit.`;

/** The files of what was dropped, folders included. @param {DataTransfer} data */
export async function filesOf(data) {
  const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return [...data.files];
  /** @type {File[]} */
  const files = [];
  for (const entry of entries) await collect(entry, files);
  return files;
}

/** Whether a folder was dropped. @param {DataTransfer} data */
export const hasFolder = (data) =>
  [...data.items].some((item) => item.webkitGetAsEntry?.()?.isDirectory);

/** @param {any} entry @param {File[]} files */
async function collect(entry, files) {
  if (entry.isFile) {
    files.push(await new Promise((resolve, reject) => entry.file(resolve, reject)));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    /** @type {any[]} */
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const one of some) await collect(one, files);
  }
}

/** @param {File[]} files @param {number} [first]  pictures of the first batch at most */
function* batches(files, first = BATCH) {
  let most = first;
  /** @type {File[]} */
  let batch = [];
  let size = 0;
  for (const file of files) {
    if (batch.length && (batch.length === most || size + file.size > BATCH_BYTES)) {
      yield batch;
      [batch, size] = [[], 0];
      most = BATCH;
    }
    batch.push(file);
    size += file.size;
  }
  if (batch.length) yield batch;
}

/**
 * @param {File[]} batch
 * @param {AbortSignal} signal
 * @returns {Promise<{ items: object[], failed: { name: string, reason: string }[] }>}
 */
async function send(batch, signal) {
  const form = new FormData();
  for (const file of batch) form.append("image", file, file.name);
  try {
    return await json("/api/items", { method: "POST", body: form, signal });
  } catch (/** @type {any} */ problem) {
    if (problem.status !== 422) throw problem; // none of them could be used
    return { items: [], failed: batch.map(({ name }) => ({ name, reason: problem.message })) };
  }
}
