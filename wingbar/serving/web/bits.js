// Two codes side by side: tall marks where they differ, low ones where they agree.

import { make } from "./elements.js";

const BYTE_GAP = 0.7; // in widths of a bit

/**
 * Paths of an SVG of height 8 and the given width: the bits that agree, and those that differ.
 * @param {string} query  0s and 1s
 * @param {string} code   as many
 * @returns {{ width: number, agree: string, differ: string }}
 */
export function bitPaths(query, code) {
  let agree = "";
  let differ = "";
  for (let i = 0; i < code.length; i++) {
    const x = tenths(i + Math.floor(i / 8) * BYTE_GAP);
    if (query[i] === code[i]) agree += `M${x} 5h.7v3h-.7z`;
    else differ += `M${x} 0h.7v8h-.7z`;
  }
  const width = tenths(code.length + (Math.ceil(code.length / 8) - 1) * BYTE_GAP);
  return { width, agree, differ };
}

/**
 * Both codes written out in bytes, the query's above, with the differing bits marked.
 * @param {string} query
 * @param {string} code
 * @returns {HTMLElement}
 */
export function bitTable(query, code) {
  const table = make("div", { className: "bit-table numbers", "aria-hidden": "true" });
  for (let start = 0; start < code.length; start += 8) {
    const byte = make("div", { className: "byte" });
    for (const text of [query, code]) {
      const row = make("div");
      for (let i = start; i < Math.min(start + 8, code.length); i++)
        row.append(make(query[i] === code[i] ? "span" : "b", {}, text[i]));
      byte.append(row);
    }
    table.append(byte);
  }
  return table;
}

/** @param {number} x */
const tenths = (x) => Math.round(x * 10) / 10;
