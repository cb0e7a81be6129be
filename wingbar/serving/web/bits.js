// Two codes side by side: tall marks where they differ, low ones where they agree.

import { make } from "./words.js";

const BYTE_GAP = 0.7;

/** Two paths of an SVG of height 8 and the given width: bits that agree, and bits that differ. */
export function bitPaths(query, code) {
  let agree = "";
  let differ = "";
  for (let i = 0; i < code.length; i++) {
    const x = Math.round((i + Math.floor(i / 8) * BYTE_GAP) * 10) / 10;
    if (query[i] === code[i]) agree += `M${x} 5h.7v3h-.7z`;
    else differ += `M${x} 0h.7v8h-.7z`;
  }
  const width = Math.round((code.length + (Math.ceil(code.length / 8) - 1) * BYTE_GAP) * 10) / 10;
  return { width, agree, differ };
}

/** Both codes written out in bytes, those bits marked that differ; for the details of one hit. */
export function bitTable(query, code) {
  const table = make("div", { className: "bit-table numbers", "aria-hidden": "true" });
  for (let start = 0; start < code.length; start += 8) {
    const byte = make("div", { className: "byte" });
    for (const text of [query, code]) {
      const row = make("div");
      for (let i = start; i < Math.min(start + 8, code.length); i++)
        row.append(query[i] === code[i] ? make("span", {}, text[i]) : make("b", {}, text[i]));
      byte.append(row);
    }
    table.append(byte);
  }
  return table;
}
