// Pictures that come from the person: chosen, dropped, pasted or photographed.

import { bytes, make } from "./words.js";

const SIDE = 2048; // of a smaller copy
const KEPT = 12; // pictures of this tab that Back can return to

/** The pictures of this tab by key, each { file, url }. */
export class Uploads {
  constructor() {
    this.kept = new Map();
    this.next = 1;
  }

  add(file) {
    const key = `u${Date.now()}-${this.next++}`;
    this.kept.set(key, { file, url: URL.createObjectURL(file) });
    for (const old of [...this.kept.keys()].slice(0, -KEPT)) {
      URL.revokeObjectURL(this.kept.get(old).url);
      this.kept.delete(old);
    }
    return key;
  }

  get(key) {
    return this.kept.get(key) ?? null;
  }
}

/** One sentence on why `file` cannot be sent, or null. */
export function objection(file, limits) {
  if (!file.size) return `${file.name} is empty. Choose another file.`;
  if (file.type && !file.type.startsWith("image/") && file.type !== "application/octet-stream")
    return `${file.name} is not a picture. Choose a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF file.`;
  if (limits?.upload_bytes && file.size > limits.upload_bytes)
    return `${file.name} has ${bytes(file.size)}, and this server takes ${bytes(limits.upload_bytes)} at most.`;
  return null;
}

/** A JPEG of at most 2,048 pixels a side, or null where the browser cannot read the file. */
export async function smaller(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = make("canvas", { width: Math.round(bitmap.width * scale), height: Math.round(bitmap.height * scale) });
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
    return blob && new File([blob], file.name.replace(/\.[^.]*$/, "") + ".jpg", { type: "image/jpeg" });
  } catch {
    return null;
  }
}

/** Hand every file that is dropped or pasted to `on.file(file, others)`, and cards dragged from this page to `on.id(id)`. */
export function listen(on) {
  let depth = 0;
  const veil = (shown) => document.body.classList.toggle("dropping", shown);
  const carries = (event) => [...(event.dataTransfer?.types ?? [])].some((type) => type === "Files" || type === "text/uri-list");
  addEventListener("dragenter", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    depth++;
    veil(true);
  });
  addEventListener("dragover", (event) => {
    if (carries(event)) event.preventDefault();
  });
  addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (!depth) veil(false);
  });
  addEventListener("drop", (event) => {
    depth = 0;
    veil(false);
    if (!carries(event)) return;
    event.preventDefault();
    const files = [...event.dataTransfer.files];
    if (files.length) return on.file(files[0], files.length - 1);
    const link = event.dataTransfer.getData("text/uri-list").split(/\r?\n/)[0];
    const id = URL.canParse(link) && new URL(link).origin === location.origin && new URL(link).searchParams.get("id");
    if (id) on.id(Number(id));
    else on.link();
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) {
      event.preventDefault();
      on.file(files[0], files.length - 1);
    } else if (!event.target.closest?.("input, textarea")) {
      on.nothing();
    }
  });
}
