// What the index is: asked for at the start, and whenever it may have changed.

import { json } from "./api.js";
import { $ } from "./elements.js";
import { offerEncoders, offerFilters } from "./panel.js";
import { state } from "./state.js";
import { count, plural } from "./words.js";

/** Ask the server what the index is, and show it. */
export async function refreshInfo() {
  const before = labelsAndSize();
  state.info = await json("/api/info");
  if (labelsAndSize() !== before) offerFilters();
  offerEncoders();
  const { name, items, labels, bits, model } = state.info;
  const parts = [name, plural(items, "picture")];
  if (labels) parts.push(plural(labels, "label"));
  if (bits) parts.push(`codes of ${count(bits)} bits by the model ${model}`);
  $("about").textContent = parts.join(" · ");
  $("add-folder").hidden = !state.info.writable;
  $("index-folder").hidden = !state.info.index_folders;
}

/** What the filters on offer depend on. */
const labelsAndSize = () => JSON.stringify([state.info?.label_counts, state.info?.items]);
