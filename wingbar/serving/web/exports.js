// Results to take along: JSON, CSV, and the same search as a curl command.

import { body, parameters } from "./state.js";

const FIELDS = ["rank", "id", "name", "label", "distance", "score", "code"];

export function toCsv(hits) {
  const columns = [...new Set(hits.flatMap((hit) => Object.keys(hit.columns ?? {})))].sort();
  const rows = hits.map((hit) => [...FIELDS.map((field) => hit[field]), ...columns.map((column) => hit.columns?.[column])]);
  return [[...FIELDS, ...columns], ...rows].map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
}

function cell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

/** The search as a command for a shell; an uploaded picture stands in it by its file name. */
export function toCurl(ask, file, withToken) {
  const quote = (text) => `'${String(text).replaceAll("'", "'\\''")}'`;
  const token = withToken ? ` -H "Authorization: Bearer $WINGBAR_TOKEN"` : "";
  if (ask.id !== null)
    return `curl -s${token} -H 'Content-Type: application/json' -d ${quote(JSON.stringify(body(ask)))} ${quote(`${location.origin}/api/search`)}`;
  const url = `${location.origin}/api/search?${new URLSearchParams(parameters(ask))}`;
  return `curl -s${token} -H ${quote(`Content-Type: ${file.type || "application/octet-stream"}`)} --data-binary ${quote(`@${file.name}`)} ${quote(url)}`;
}

export function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = Object.assign(document.createElement("a"), { href: url, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
