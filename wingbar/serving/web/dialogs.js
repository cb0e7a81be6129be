// What all dialogs have in common: how they close; the one for help; and the menu.

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
  addEventListener("click", (event) => {
    const target = /** @type {Element} */ (event.target);
    if (!$("more").contains(target) || target.closest("#more button")) closeMenu();
  });
}

/** Open the dialog of numbers and keys. */
export const openHelp = () => $("help").showModal();

/** Close the menu. */
export function closeMenu() {
  const hadFocus = $("more").open && $("more").contains(document.activeElement);
  $("more").open = false;
  if (hadFocus) $("more").querySelector("summary").focus();
}

/** Close whatever dialog is open. */
export function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) dialog.close();
}
