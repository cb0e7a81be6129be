// The keys that work anywhere on the page; those of the grid, of the crop box and of the lightbox
// are in their files.

import { closeMenu, openHelp } from "./dialogs.js";
import { $ } from "./elements.js";
import { toggleMap } from "./map.js";
import { dismissNotice } from "./notice.js";
import { openPanel, toggleOrder } from "./panel.js";
import { abandonCrop, isCropping, toggleCrop } from "./query.js";
import { hasQuery } from "./state.js";
import { clearSelection, hasSelection, toggleSelecting } from "./tray.js";
import { toggleInspect } from "./view.js";

const FIELDS = "input:not([type=radio], [type=range], [type=checkbox]), textarea, select";

/** @type {Record<string, () => void>} */
const ALWAYS = {
  "/": () => $("browse").focus(),
  "?": openHelp,
  i: toggleInspect,
  m: toggleMap,
  s: toggleSelecting,
};

/** @type {Record<string, () => void>} */
const WITH_QUERY = {
  f: toggleOrder,
  c: toggleCrop,
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

/** Leave what is on top. */
function escape() {
  if ($("more").open) closeMenu();
  else if (isCropping()) abandonCrop();
  else if (!$("notice").hidden) dismissNotice();
  else if (hasSelection()) clearSelection();
  else if (!$("panel").hidden) openPanel(false);
}
