// The Export menu: results as JSON or CSV, the search as a curl command or a link.

import { toParameters, toRecord } from "./address.js";
import { token } from "./api.js";
import { $, make } from "./elements.js";
import { showNotice } from "./notice.js";
import { queryFile, state } from "./state.js";

/** @typedef {import("./grid.js").Entry} Entry */

/** @type {(keyof Entry)[]} */
const FIELDS = ["rank", "id", "name", "label", "distance", "score", "code"];

/** Listen to the menu, which closes after a choice or a click elsewhere. */
export function listenToExports() {
  $("export-json").addEventListener("click", saveJson);
  $("export-csv").addEventListener("click", saveCsv);
  $("export-curl").addEventListener("click", () => copy(toCurl(), "The command was copied."));
  $("export-link").addEventListener("click", copyLink);
  for (const button of $("export").querySelectorAll("button"))
    button.addEventListener("click", closeExports);
  addEventListener("click", (event) => {
    if (!$("export").contains(event.target)) closeExports();
  });
}

/** Close the menu. */
export function closeExports() {
  $("export").open = false;
}

function saveJson() {
  const text = JSON.stringify(state.results.response, null, 2);
  save("results.json", "application/json", text);
}

function saveCsv() {
  save("results.csv", "text/csv", toCsv(state.results.hits));
}

function copyLink() {
  const isUpload = state.search.upload !== null;
  const left = isUpload ? " It holds only the options, not your picture." : "";
  return copy(location.href, `The link was copied.${left}`);
}

/** @param {string} text @param {string} done  the message */
async function copy(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    showNotice(done, [], "good");
  } catch {
    showNotice(`This browser does not let the page copy. Copy it from here: ${text}`, [], "wait");
  }
}

/** Save a file. @param {string} name @param {string} type @param {string} text */
function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Hits as CSV, with the columns of all of them. @param {Entry[]} hits */
function toCsv(hits) {
  const columns = [...new Set(hits.flatMap((hit) => Object.keys(hit.columns ?? {})))].sort();
  const rows = hits.map((hit) => [
    ...FIELDS.map((field) => hit[field]),
    ...columns.map((column) => hit.columns?.[column]),
  ]);
  const lines = [[...FIELDS, ...columns], ...rows].map((row) => row.map(toCell).join(","));
  return `${lines.join("\r\n")}\r\n`;
}

/** @param {unknown} value */
function toCell(value) {
  const text = String(value ?? "");
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/**
 * The present search as a command for a shell; an uploaded picture stands in it by its file name.
 */
function toCurl() {
  const { search } = state;
  const header = token.get() ? ` -H "Authorization: Bearer $WINGBAR_TOKEN"` : "";
  const url = `${location.origin}/api/search`;
  if (search.id !== null) {
    const record = JSON.stringify(toRecord(search));
    return `curl -s${header} -H 'Content-Type: application/json' -d ${quote(record)} ${quote(url)}`;
  }
  const file = queryFile();
  const type = quote(`Content-Type: ${file.type || "application/octet-stream"}`);
  const address = quote(`${url}?${new URLSearchParams(toParameters(search))}`);
  return `curl -s${header} -H ${type} --data-binary ${quote(`@${file.name}`)} ${address}`;
}

/** @param {string} text */
const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;
