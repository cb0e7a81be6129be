// One message at a time above the page: what happened, and buttons for what to do now.

import { make } from "./words.js";

const element = document.getElementById("notice");

/** Show `text` with buttons [[name, action]]. `kind`: "wrong" stays until it is put away, "wait" and "good" are milder. */
export function notice(text, actions = [], kind = "wrong") {
  const buttons = actions.map(([name, action]) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", () => {
      putAway();
      action();
    });
    return button;
  });
  const close = make("button", { type: "button", className: "plain", "aria-label": "Put this message away" }, "×");
  close.addEventListener("click", putAway);
  element.dataset.kind = kind;
  element.replaceChildren(make("p", {}, text), ...buttons, close);
  element.hidden = false;
}

export function putAway() {
  const shown = !element.hidden;
  element.hidden = true;
  element.replaceChildren();
  return shown;
}
