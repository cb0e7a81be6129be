// Results as JSON or CSV, the search as a curl command or a link.

import { toParameters, toRecord } from "./address.js";
import { token } from "./api.js";
import { $, make } from "./elements.js";
import { showNotice } from "./notice.js";
import { isUpload, queryFile, state } from "./state.js";

/** @typedef {import("./card.js").Entry} Entry */

/** @type {(keyof Entry)[]} */
const FIELDS = ["rank", "id", "path", "name", "label", "distance", "score", "code"];

/** Listen to their entries in the menu. */
export function listenToExports() {
  $("export-json").addEventListener("click", saveJson);
  $("export-csv").addEventListener("click", saveCsv);
  $("export-curl").addEventListener("click", () => copy(toCurl(), "The command was copied."));
  $("export-link").addEventListener("click", copyLink);
}

function saveJson() {
  const text = JSON.stringify(state.results.response, null, 2);
  save("results.json", "application/json", text);
}

function saveCsv() {
  save("results.csv", "text/csv", toCsv(state.results.hits));
}

function copyLink() {
  const left = isUpload() ? " Your own picture is found in this browser only." : "";
  return copy(location.href, `The link was copied.${left}`);
}

/** Copy a text, and say so. @param {string} text @param {string} done  the message */
export async function copy(text, done) {
  try {
    await navigator.clipboard.writeText(text);
    showNotice(done, [], "good");
  } catch {
    showNotice(`This browser does not let the page copy. Copy it from here: ${text}`, [], "wait");
  }
}

/** Save a file. @param {string} name @param {string} type @param {BlobPart} text */
export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

/** Pictures as CSV, with the columns of all of them. @param {Entry[]} hits */
export function toCsv(hits) {
  const columns = [...new Set(hits.flatMap((hit) => Object.keys(hit.columns ?? {})))].sort();
  const fields = FIELDS.filter((field) => hits.some((hit) => hit[field] !== undefined));
  const rows = hits.map((hit) => [
    ...fields.map((field) => hit[field]),
    ...columns.map((column) => hit.columns?.[column]),
  ]);
  const lines = [[...fields, ...columns], ...rows].map((row) => row.map(toCell).join(","));
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
  if (!isUpload()) {
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
