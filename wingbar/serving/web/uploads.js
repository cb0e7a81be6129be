// The person's pictures: kept in this browser, so that they survive a reload, checked and made
// smaller before they are sent.

import { make } from "./elements.js";
import { bytes } from "./words.js";

const SIDE = 2048; // longest side of a smaller copy, in pixels
const KEPT = 24; // pictures
const LARGEST_KEPT = 16e6; // bytes of a picture that survives a reload
const TABLE = "pictures";

/**
 * A picture of this browser; `url` is a blob URL.
 * @typedef {{ file: File, url: string }} Upload
 */

/** The last pictures of this browser by key. */
export class Uploads {
  constructor() {
    /** @type {Map<string, Upload>} */
    this.kept = new Map();
    /** @type {Promise<IDBDatabase> | null} */
    this.opened = null;
    this.next = 1;
  }

  /** Keep a file, and return its key. @param {File} file @returns {string} */
  add(file) {
    const key = `u${Date.now().toString(36)}${(this.next++).toString(36)}`;
    this.#hold(key, file);
    if (file.size <= LARGEST_KEPT) this.#store((table) => table.put({ key, file })).catch(() => {}); // a private window
    this.#forgetOldest().catch(() => {});
    return key;
  }

  /** The picture of a key, or null if it is not loaded. @param {string} key */
  get(key) {
    return this.kept.get(key) ?? null;
  }

  /** Load the picture of a key, and return it; null once it is gone. @param {string} key */
  async load(key) {
    if (this.kept.has(key)) return this.kept.get(key);
    try {
      const found = await this.#store((table) => table.get(key), "readonly");
      return found ? this.#hold(key, found.file) : null;
    } catch {
      return null; // a private window
    }
  }

  /** Forget all pictures but these. @param {string[]} keys */
  async forgetAllBut(keys) {
    for (const key of [...this.kept.keys()].filter((one) => !keys.includes(one))) this.#drop(key);
    const all = await this.#store((table) => table.getAllKeys(), "readonly");
    for (const key of all.filter((/** @type {string} */ one) => !keys.includes(one)))
      await this.#store((table) => table.delete(key));
  }

  /** @param {string} key @param {File} file */
  #hold(key, file) {
    const upload = { file, url: URL.createObjectURL(file) };
    this.kept.set(key, upload);
    for (const old of [...this.kept.keys()].slice(0, -KEPT)) this.#drop(old);
    return upload;
  }

  /** @param {string} key */
  #drop(key) {
    URL.revokeObjectURL(this.kept.get(key).url);
    this.kept.delete(key);
  }

  async #forgetOldest() {
    const keys = await this.#store((table) => table.getAllKeys(), "readonly");
    for (const key of keys.slice(0, -KEPT)) await this.#store((table) => table.delete(key));
  }

  /**
   * Do something with the table of pictures. Rejects where the browser keeps nothing.
   * @param {(table: IDBObjectStore) => IDBRequest} work
   * @param {IDBTransactionMode} [mode]
   */
  async #store(work, mode = "readwrite") {
    this.opened ??= open();
    const table = (await this.opened).transaction(TABLE, mode).objectStore(TABLE);
    return promised(work(table));
  }
}

/** @returns {Promise<IDBDatabase>} */
function open() {
  const request = indexedDB.open("wingbar", 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "key" });
  return promised(request);
}

/** @param {IDBRequest} request @returns {Promise<any>} */
const promised = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

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
    return `${name} is not a picture. Choose a JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF or HEIC file.`;
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
