// Pictures of the server in <img> elements. An <img> can send no token, so with one its picture is
// fetched and shown as a blob, lazily where that is asked for. It cannot say why it failed either:
// then its picture is fetched too.

import { Problem, request, token } from "./api.js";
import { stopWaiting, whenBack } from "./outage.js";

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
 * Show the picture at `url` in `img`, now or, with `lazy`, when it comes near the screen. If it
 * cannot be shown, `img` gets the event "missing"; while the server does not respond, the event
 * "delayed", and the picture is loaded once the server is back.
 * @param {HTMLImageElement} img
 * @param {string} url
 * @param {boolean} [lazy]
 */
export function showPicture(img, url, lazy = false) {
  if (img.dataset.url === url) return;
  img.dataset.url = url;
  stopWaiting(img);
  if (!token.get()) {
    img.loading = lazy ? "lazy" : "eager";
    img.onerror = () => fetchPicture(img, url);
    img.src = url;
  } else if (lazy) {
    waiting.set(img, url);
    watcher.observe(img);
  } else {
    fetchPicture(img, url);
  }
}

/**
 * @param {HTMLImageElement} img
 * @param {string} url
 * @param {boolean} [isRetry]  whether it has waited for the server
 */
async function fetchPicture(img, url, isRetry = false) {
  const isWanted = () => img.dataset.url === url; // else it shows another picture by now
  if (!isWanted()) return;
  img.onerror = null;
  img.loading = "eager";
  let blobUrl = "";
  try {
    const blob = await (await request(url)).blob();
    if (!isWanted()) return;
    img.src = blobUrl = URL.createObjectURL(blob);
    await img.decode();
  } catch (error) {
    if (!isWanted()) return;
    const kind = error instanceof Problem ? error.kind : null;
    const mayPass = kind === "gone" || kind === "busy" || (kind === "failed" && !isRetry);
    if (mayPass) whenBack(img, () => img.isConnected && fetchPicture(img, url, true));
    img.dispatchEvent(new Event(mayPass ? "delayed" : "missing"));
  } finally {
    URL.revokeObjectURL(blobUrl);
  }
}
