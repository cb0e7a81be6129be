// Numbers and labels as people write them: thousands, plurals, milliseconds, bytes, spaces.

const NUMBER = new Intl.NumberFormat("en");

/** 1234 -> "1,234". @param {number} n @returns {string} */
export const count = (n) => NUMBER.format(n);

/**
 * A number and its noun: "1 result", "1,234 results".
 * @param {number} n
 * @param {string} word  the singular
 * @param {string} [words]  the plural
 * @returns {string}
 */
export const plural = (n, word, words = `${word}s`) => `${count(n)} ${n === 1 ? word : words}`;

/**
 * Milliseconds without their unit, below 10 with one decimal.
 * @param {number} ms
 * @returns {string}
 */
export const milliseconds = (ms) =>
  ms < 10 ? String(Math.round(ms * 10) / 10) : count(Math.round(ms));

/** A label as people write it: "black_tern" -> "black tern". @param {string} label */
export const withSpaces = (label) => label.replaceAll("_", " ").trim() || label;

/**
 * What a picture is called: its label, or the name of its file.
 * @param {{ label: string | null, name: string }} item
 */
export const shownName = ({ label, name }) => (label === null ? name : withSpaces(label));

/** 1_234_567 -> "1.2 MB". @param {number} n @returns {string} */
export function bytes(n) {
  if (n < 1e6) return `${Math.max(1, Math.round(n / 1e3))} KB`;
  return `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} MB`;
}
