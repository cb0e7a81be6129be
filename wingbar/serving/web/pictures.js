// Pictures of the server in <img> elements. An <img> can send no token, so with one its picture is
// fetched and shown as a blob, lazily where that is asked for.

import { request, token } from "./api.js";

/** @type {WeakMap<Element, string>} */
const waiting = new WeakMap(); // <img> elements far from the screen, with their URLs
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      fetchPicture(/** @type {HTMLImageElement} */ (target), waiting.get(target));
    }
  },
  { rootMargin: "400px" },
);

/**
 * Show the picture at `url` in `img`, now or, with `lazy`, when it comes near the screen.
 * @param {HTMLImageElement} img
 * @param {string} url
 * @param {boolean} [lazy]
 */
export function showPicture(img, url, lazy = false) {
  if (img.dataset.url === url) return;
  img.dataset.url = url;
  if (!token.get()) {
    img.loading = lazy ? "lazy" : "eager";
    img.src = url;
  } else if (lazy) {
    waiting.set(img, url);
    watcher.observe(img);
  } else {
    fetchPicture(img, url);
  }
}

/** @param {HTMLImageElement} img @param {string} url */
async function fetchPicture(img, url) {
  try {
    const blob = await (await request(url)).blob();
    if (img.dataset.url !== url) return; // shows another picture by now
    img.src = URL.createObjectURL(blob);
    await img.decode().catch(() => {});
    URL.revokeObjectURL(img.src);
  } catch {
    img.dispatchEvent(new Event("error"));
  }
}
