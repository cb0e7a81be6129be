// The keys that work anywhere on the page; those of the grid and of the crop box are in grid.js and
// crop.js.

import { openHelp } from "./dialogs.js";
import { $ } from "./elements.js";
import { closeExports } from "./exports.js";
import { dismissNotice } from "./notice.js";
import { toggleOrder } from "./panel.js";
import { abandonCrop, isCropping } from "./query.js";
import { hasQuery } from "./state.js";

const FIELDS = "input:not([type=radio], [type=range]), textarea, select";

/** @type {Record<string, () => void>} */
const ALWAYS = {
  "/": () => $(hasQuery() ? "another" : "browse").focus(),
  "?": openHelp,
};

/** @type {Record<string, () => void>} */
const WITH_QUERY = {
  f: toggleOrder,
  c: () => $("crop-button").click(),
};

/** Listen to the keys, unless a dialog is open or a field takes them. */
export function listenToKeys() {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
      escape();
      return;
    }
    if (/** @type {Element} */ (event.target).closest?.(FIELDS)) return;
    const action = ALWAYS[event.key] ?? (hasQuery() ? WITH_QUERY[event.key] : undefined);
    if (!action) return;
    event.preventDefault();
    action();
  });
}

/** Leave what is on top: the menu, cropping, or the message. */
function escape() {
  if ($("export").open) closeExports();
  else if (isCropping()) abandonCrop();
  else dismissNotice();
}
