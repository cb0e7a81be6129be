// The HTTP API: requests, problems with their next step, retries when the server is busy, the
// token.

/**
 * @typedef {object} Limits
 * @property {number} upload_bytes  largest file
 * @property {number} k             most results
 */

/**
 * One of the encoders of an index.
 * @typedef {object} Encoder
 * @property {number | null} bits  length of its codes; null while it has none
 * @property {import("./state.js").Fine} fine  its own fine stage
 * @property {boolean} explains    whether it can show what the model saw
 */

/**
 * What is served: GET /api/info.
 * @typedef {object} Info
 * @property {string} name
 * @property {number} items
 * @property {number} labels  number of different labels
 * @property {number | null} bits  length of the codes; null while the index is empty
 * @property {import("./state.js").Fine} fine  the model's own fine stage
 * @property {Record<string, number>} label_counts
 * @property {Record<string, string[]>} columns  values by column
 * @property {string} model
 * @property {string[]} encoders  names of the encoders that can answer, the first by default
 * @property {Record<string, Encoder>} by_encoder
 * @property {string} fingerprint  of the model
 * @property {boolean} explains  whether it can show what the model saw
 * @property {boolean} knows_texts  whether a text can be searched for
 * @property {boolean} writable  whether pictures can be added and removed
 * @property {boolean} [reveals]  whether the server can show files in its machine's file manager
 * @property {string[]} [index_folders]  folders of the server's machine that it may index
 * @property {object[]} [shards]  the indexes, where several are served as one
 * @property {boolean} [indexing]  whether it is indexing one
 * @property {Limits} limits
 */

/**
 * An indexed picture.
 * @typedef {object} Item
 * @property {number} id
 * @property {string} name
 * @property {string | null} label
 * @property {Record<string, string>} columns
 * @property {string} code  0s and 1s
 * @property {string} thumb  URL
 * @property {string} image  URL
 * @property {boolean} available  whether the file is still there
 * @property {string} [path]      where the server tells paths
 * @property {number} [width]     of the upright picture, in pixels, where it is known
 * @property {number} [height]
 */

/**
 * One result: an item, with
 * @typedef {Item & HitPart} Hit
 * @typedef {object} HitPart
 * @property {number} rank      1 or more
 * @property {number} distance  differing bits
 * @property {number | null} score  what the fine stage ranked by
 * @property {number[]} copies  ids of its copies, if they are stacked
 * @property {number | null} p_chance  share of random pairs of items that are at least as near
 */

/**
 * The answer to a search: POST /api/search.
 * @typedef {object} Found
 * @property {Hit[]} hits
 * @property {number} shortlist  how many items the fine stage ordered
 * @property {boolean} cut       whether items that tie with its last one were left out
 * @property {import("./state.js").Fine} fine
 * @property {number} chance_from  p_chance above which hits are as unlike as random pairs
 * @property {number} bits
 * @property {string} code       of the query
 * @property {{ width: number, height: number } | null} query  size of a picture that was sent
 * @property {{ total: number } & Record<string, number>} milliseconds  by stage
 * @property {{ name: string, reason: string }[]} [failed]  of several indexes, those that did not
 *   answer
 */

/**
 * @typedef {object} Options
 * @property {string} [method]  GET by default
 * @property {BodyInit} [body]
 * @property {string} [type]    the body's content type
 * @property {AbortSignal} [signal]
 */

const TRIES = 4; // of a request to a busy server
const LONGEST_WAIT = 30; // seconds between two of them
const TOKEN = "wingbar-token";

/** What went wrong: its kind, and one or two sentences with the next step. */
export class Problem extends Error {
  /**
   * @param {"gone" | "busy" | "token" | "refused" | "failed"} kind
   * @param {string} message
   * @param {number} [status]  of HTTP; 0 without an answer
   */
  constructor(kind, message, status = 0) {
    super(message);
    this.kind = kind;
    this.status = status;
  }
}

/** What the page does for a request; set by main.js. */
export const apiHooks = {
  /**
   * Ask the person for a token: there was none, it was wrong, or it does not allow changes.
   * Resolves to the token, or to null.
   * @type {(why: "none" | "wrong" | "weak") => Promise<string | null>}
   */
  token: async () => null,
  /**
   * Say that the next try comes in some seconds, or with 0 that it is made.
   * @type {(seconds: number) => void}
   */
  busy: () => {},
};

/** The token, which the browser forgets when the tab is closed. */
export const token = {
  /** @returns {string | null} */
  get: () => sessionStorage.getItem(TOKEN),
  /** @param {string} value */
  set: (value) => sessionStorage.setItem(TOKEN, value),
};

/**
 * A successful response. Tries again while the server is busy, asks for a token when one is needed,
 * and throws a Problem for everything else.
 * @param {string} path
 * @param {Options} [options]
 * @returns {Promise<Response>}
 */
export async function request(path, options = {}) {
  for (let attempt = 1; ; attempt++) {
    const sent = token.get();
    const response = await send(path, options, sent);
    if (response.ok) return response;
    if (await otherToken(response, sent, options.method)) continue;
    const busy = response.status === 429 || response.headers.has("Retry-After");
    if (!busy || attempt === TRIES) throw await problemOf(response, busy);
    const seconds = Number(response.headers.get("Retry-After")) || attempt;
    await waitForServer(Math.min(LONGEST_WAIT, seconds), options.signal);
  }
}

/**
 * The JSON of a successful response; see `request`.
 * @param {string} path
 * @param {Options} [options]
 * @returns {Promise<any>}
 */
export async function json(path, options) {
  return (await request(path, options)).json();
}

/** A POST of a record. @param {object} record @returns {Options} */
export const jsonBody = (record) => ({
  method: "POST",
  type: "application/json",
  body: JSON.stringify(record),
});

/** A POST of a picture. @param {File} file @returns {Options} */
export const fileBody = (file) => ({
  method: "POST",
  type: file.type || "application/octet-stream",
  body: file,
});

/**
 * @param {string} path
 * @param {Options} options
 * @param {string | null} sent  the token to send
 */
async function send(path, { method = "GET", body, type, signal }, sent) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (type) headers["Content-Type"] = type;
  if (sent) headers["Authorization"] = `Bearer ${sent}`;
  try {
    return await fetch(path, { method, body, headers, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(
      "gone",
      "The server does not respond. Check that wingbar serve is still running, then try again.",
    );
  }
}

/**
 * Whether the response was about the token and there is another one now.
 * @param {Response} response
 * @param {string | null} sent
 * @param {string} [method]
 */
async function otherToken(response, sent, method = "GET") {
  const weak = response.status === 403 && sent && method !== "GET"; // may read, not change
  if (response.status !== 401 && !weak) return false;
  if (token.get() && token.get() !== sent) return true; // entered meanwhile for another request
  if (await apiHooks.token(weak ? "weak" : sent ? "wrong" : "none")) return true;
  throw new Problem(
    "token",
    "This needs the server's token. Ask whoever started the server for it, then try again.",
    response.status,
  );
}

/** @param {number} seconds @param {AbortSignal} [signal] */
async function waitForServer(seconds, signal) {
  apiHooks.busy(seconds);
  await pause(seconds, signal);
  apiHooks.busy(0);
}

/**
 * Wait, or reject as soon as `signal` fires.
 * @param {number} seconds
 * @param {AbortSignal} [signal]
 */
function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, seconds * 1000);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

/** @param {Response} response @param {boolean} busy */
async function problemOf(response, busy) {
  const { status } = response;
  const record = await response.json().catch(() => ({}));
  const detail = typeof record?.detail === "string" ? record.detail : record?.title;
  if (busy)
    return new Problem("busy", "The server is overloaded. Wait a moment, then try again.", status);
  if (status === 413) {
    const text = "This picture is too large for the server. Choose a smaller one.";
    return new Problem("refused", detail || text, status);
  }
  if (status >= 500) {
    const text = "The server failed; its log says why. Try again, or try another picture.";
    return new Problem("failed", detail || text, status);
  }
  return new Problem("refused", sentence(detail || `The server answered ${status}.`), status);
}

/** @param {string} text */
function sentence(text) {
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(first) ? first : `${first}.`;
}
