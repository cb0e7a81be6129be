// One message at a time above the page: what happened, and buttons for what to do now.

import { $, make, makeButton } from "./elements.js";

/**
 * A button of a message: its text, and what a click on it does.
 * @typedef {[string, () => void]} Action
 */

/**
 * Show a message in place of the one before.
 * @param {string} text
 * @param {Action[]} [actions]  a click on one of their buttons also dismisses the message
 * @param {"wrong" | "wait" | "good"} [kind]  the colour: something is wrong, goes on, or went well
 */
export function showNotice(text, actions = [], kind = "wrong") {
  const buttons = actions.map(([name, action]) =>
    makeButton(name, () => {
      dismissNotice();
      action();
    }),
  );
  const close = makeButton("×", dismissNotice, { className: "plain", "aria-label": "Dismiss" });
  const element = $("notice");
  element.dataset.kind = kind;
  element.replaceChildren(make("p", {}, text), ...buttons, close);
  element.hidden = false;
}

/** Take the message away, if there is one. */
export function dismissNotice() {
  $("notice").hidden = true;
  $("notice").replaceChildren();
}
