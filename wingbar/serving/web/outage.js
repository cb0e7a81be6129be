// What waits for a server that does not respond.

import { state } from "./state.js";

const POLL = 3000; // ms between two looks whether the server is back

/**
 * Call `action` as soon as the server responds again.
 * @param {unknown} who  what waits; an earlier action of the same one is forgotten
 * @param {() => void} action
 */
export function whenBack(who, action) {
  state.waiting.set(who, action);
  state.timers.reconnect ||= setInterval(look, POLL);
}

/** Forget the action of one that waits no longer. @param {unknown} who */
export const stopWaiting = (who) => state.waiting.delete(who);

async function look() {
  if (state.waiting.size && (document.hidden || !(await isServerUp()))) return;
  clearInterval(state.timers.reconnect);
  state.timers.reconnect = 0;
  const actions = [...state.waiting.values()];
  state.waiting.clear();
  for (const action of actions) action();
}

async function isServerUp() {
  try {
    return (await fetch("/healthz")).ok;
  } catch {
    return false;
  }
}
