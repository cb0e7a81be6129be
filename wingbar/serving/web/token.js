// The dialog that asks for the server's token.

import { token } from "./api.js";
import { $ } from "./elements.js";
import { state } from "./state.js";

const WHY = {
  none: "Ask whoever started the server for it. The page keeps the token until you close this tab.",
  wrong: "That token is not valid. Copy all of it, without spaces around it.",
  weak: "Your token does not allow changes of the index. Enter the one given with --token.",
};

/**
 * Ask for the token. Several requests may need it at once: they share one question.
 * @param {keyof typeof WHY} why
 * @returns {Promise<string | null>}  null when the dialog is closed without one
 */
export function askForToken(why) {
  state.tokenQuestion ??= new Promise((resolve) => {
    /** @type {string | null} */
    let entered = null;
    $("token-input").value = "";
    $("token-note").textContent = WHY[why];
    $("token-form").onsubmit = (/** @type {Event} */ event) => {
      event.preventDefault();
      entered = $("token-input").value.trim();
      token.set(entered);
      $("token").close();
    };
    $("token").onclose = () => {
      state.tokenQuestion = null;
      resolve(entered);
    };
    $("token").showModal();
  });
  return state.tokenQuestion;
}
