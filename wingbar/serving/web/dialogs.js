// What all dialogs have in common: how they close; and the one for help.

import { $ } from "./elements.js";

/** Let dialogs close by a click beside them or on their [data-close], and Help open. */
export function listenToDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      const target = /** @type {Element} */ (event.target);
      if (target === dialog || target.closest("[data-close]")) dialog.close();
    });
  }
  $("help-button").addEventListener("click", openHelp);
}

/** Open the dialog of numbers and keys. */
export const openHelp = () => $("help").showModal();

/** Close whatever dialog is open. */
export function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
}
