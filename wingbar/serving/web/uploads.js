// The person's pictures: kept in this tab, checked and made smaller before they are sent.

import { make } from "./elements.js";
import { bytes } from "./words.js";

const SIDE = 2048; // longest side of a smaller copy, in pixels
const KEPT = 12; // pictures of this tab that Back can return to

/**
 * A picture of this tab; `url` is a blob URL.
 * @typedef {{ file: File, url: string }} Upload
 */

/** The last pictures of this tab by key. */
export class Uploads {
  constructor() {
    /** @type {Map<string, Upload>} */
    this.kept = new Map();
    this.next = 1;
  }

  /** Keep a file, and return its key. @param {File} file @returns {string} */
  add(file) {
    const key = `u${Date.now()}-${this.next++}`;
    this.kept.set(key, { file, url: URL.createObjectURL(file) });
    for (const [old, { url }] of [...this.kept].slice(0, -KEPT)) {
      URL.revokeObjectURL(url);
      this.kept.delete(old);
    }
    return key;
  }

  /** The picture of a key, or null once it is gone. @param {string} key @returns {Upload | null} */
  get(key) {
    return this.kept.get(key) ?? null;
  }
}

/**
 * One sentence on why `file` cannot be sent, or null.
 * @param {File} file
 * @param {import("./api.js").Limits} [limits]
 * @returns {string | null}
 */
export function objection(file, limits) {
  const { name, type, size } = file;
  if (!size) return `${name} is empty. Choose another file.`;
  if (type && !type.startsWith("image/") && type !== "application/octet-stream")
    return `${name} is not a picture. Choose a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file.`;
  if (limits?.upload_bytes && size > limits.upload_bytes)
    return `${name} is ${bytes(size)}; this server accepts at most ${bytes(limits.upload_bytes)}.`;
  return null;
}

/**
 * A JPEG of at most 2,048 pixels a side, or null where the browser cannot read the file.
 * @param {File} file
 * @returns {Promise<File | null>}
 */
export async function smallerCopy(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = make("canvas", {
      width: Math.round(bitmap.width * scale),
      height: Math.round(bitmap.height * scale),
    });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    const name = `${file.name.replace(/\.[^.]*$/, "")}.jpg`;
    return blob && new File([blob], name, { type: "image/jpeg" });
  } catch {
    return null;
  }
}
