// The HTTP API: requests, problems with their next step, retries when the server is busy, the token.

const TRIES = 4;
const TOKEN = "wingbar-token";

/** What went wrong: `kind` is gone | busy | token | refused | failed, `message` one sentence with the next step. */
export class Problem extends Error {
  constructor(kind, message, status = 0) {
    super(message);
    this.kind = kind;
    this.status = status;
  }
}

/** Set by the page. `token(why)` asks the person for a token and resolves to it, or to null; why: none | wrong | weak. */
export const hooks = { token: async () => null, busy: () => {} };

export const token = {
  get: () => sessionStorage.getItem(TOKEN),
  set: (value) => sessionStorage.setItem(TOKEN, value),
};

/** A response that is ok. Waits and tries again when the server is busy, asks for a token when one is needed. */
export async function request(path, { method = "GET", body, type, signal } = {}) {
  for (let attempt = 1; ; attempt++) {
    const headers = {};
    if (type) headers["Content-Type"] = type;
    const sent = token.get();
    if (sent) headers["Authorization"] = `Bearer ${sent}`;
    let response;
    try {
      response = await fetch(path, { method, body, headers, signal });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem("gone", "The server does not answer. See whether wingbar serve is still running, then try again.");
    }
    if (response.ok) return response;
    const weak = response.status === 403 && sent && method !== "GET"; // a token that may read, but not change
    if (response.status === 401 || weak) {
      const other = token.get() && token.get() !== sent; // given meanwhile for another request
      if (other || (await hooks.token(weak ? "weak" : sent ? "wrong" : "none"))) continue;
      throw new Problem("token", "This needs the server's token. Ask whoever started the server, then try again.", response.status);
    }
    const busy = response.status === 429 || response.headers.has("Retry-After");
    if (busy && attempt < TRIES) {
      const seconds = Math.min(30, Number(response.headers.get("Retry-After")) || attempt);
      hooks.busy(seconds);
      await pause(seconds, signal);
      hooks.busy(0);
      continue;
    }
    throw await problem(response, busy);
  }
}

export async function json(path, options) {
  return (await request(path, options)).json();
}

/** Seconds that a search takes away from nobody: rejects as soon as `signal` fires. */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

async function problem(response, busy) {
  const said = await response.json().catch(() => null);
  const detail = typeof said?.detail === "string" ? said.detail : said?.title;
  if (busy) return new Problem("busy", "The server has more to do than it can. Wait a moment, then try again.", response.status);
  if (response.status === 413) return new Problem("refused", detail || "This picture is too large for the server. Choose a smaller one.", 413);
  if (response.status >= 500)
    return new Problem("failed", detail || "The server failed at this. Its log says why; try again, or try another picture.", response.status);
  return new Problem("refused", sentence(detail || `The server refused this (${response.status}).`), response.status);
}

function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}

// -- pictures: <img> can send no header, so with a token they are fetched and shown as blobs, when they come into view

const waiting = new WeakMap();
const watcher = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      watcher.unobserve(entry.target);
      fetchPicture(entry.target, waiting.get(entry.target));
    }
  },
  { rootMargin: "400px" },
);

/** Show the picture at `url` in `img`, now or, with `lazy`, when it comes near the screen. */
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

async function fetchPicture(img, url) {
  try {
    const blob = await (await request(url)).blob();
    if (img.dataset.url !== url) return;
    img.src = URL.createObjectURL(blob);
    await img.decode().catch(() => {});
    URL.revokeObjectURL(img.src);
  } catch {
    img.dispatchEvent(new Event("error"));
  }
}
