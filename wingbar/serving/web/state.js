// What the page knows: the one object `state`, and the record of what is searched for.

import { Uploads } from "./uploads.js";

/** @typedef {import("./api.js").Item} Item */
/** @typedef {import("./api.js").Hit} Hit */

/**
 * What re-ranks the results of the codes: nothing, the features' cosine among ties, the features'
 * cosine in a shortlist, or the agreement of bits with the query's logits in a shortlist.
 * @typedef {"none" | "ties" | "pool" | "asymmetric"} Fine
 */

/**
 * What is searched for. Without a picture (`id` and `upload` are null) it is the start page.
 * @typedef {object} Search
 * @property {number | null} id      the query, an indexed picture, or
 * @property {string | null} upload  the query, a picture of this tab by its key, in no URL
 * @property {number} k              number of results, 1 or more
 * @property {number | null} radius  largest distance in bits; null: any distance
 * @property {Fine | null} fine      null: the model's own choice
 * @property {number} shortlist      number of items that the fine stage orders, 1 or more
 * @property {string[]} where        filters, such as "label=monarch"
 * @property {number[] | null} box   part of the query: x, y, width, height in pixels, the picture
 *   being upright
 */

/**
 * An answer of the server to a search.
 * @typedef {object} Answer
 * @property {import("./api.js").Found} response
 * @property {number} ms  from the request to the answer
 * @property {number} at  when it came, on the clock of performance.now()
 */

/**
 * What a card has to know about the ranking that it is in.
 * @typedef {object} Ranking
 * @property {number} bits       length of the codes
 * @property {string} code       the query's code, as 0s and 1s
 * @property {string} score      short name of the score: "cos" or "agr"
 * @property {string} scoreName  its whole name
 * @property {"coarse" | "fine"} other  the order that this one is compared with
 */

/**
 * The results on the screen.
 * @typedef {object} Results
 * @property {import("./api.js").Found} response
 * @property {number} ms
 * @property {import("./grid.js").Entry[]} hits
 * @property {Ranking} ranking
 */

/**
 * The pictures on the start page.
 * @typedef {object} Browsing
 * @property {number} total     pictures that match the filters
 * @property {number} loaded    how many of them are on the page
 * @property {boolean} loading  whether the next are on their way
 * @property {AbortSignal} signal
 */

/** @type {Readonly<Pick<Search, "k" | "shortlist">>} */
export const DEFAULTS = { k: 24, shortlist: 200 };

/**
 * All that the page remembers while it is open. The URL and the history hold `search` too; what is
 * kept by one widget alone (the crop box, the focused card) is a field of that widget.
 */
export const state = {
  /**
   * What the index is; null until the server has answered.
   * @type {import("./api.js").Info | null}
   */
  info: null,
  /** What is searched for. @type {Search} */
  search: {
    id: null,
    upload: null,
    k: DEFAULTS.k,
    radius: null,
    fine: null,
    shortlist: DEFAULTS.shortlist,
    where: [],
    box: null,
  },
  /** The fine stage that the Coarse / Fine switch goes to. @type {Exclude<Fine, "none">} */
  stage: "ties",
  /** The results on the screen; null on the start page. @type {Results | null} */
  results: null,
  /** The pictures on the start page; null while there are results. @type {Browsing | null} */
  browsing: null,
  /** Ends the requests of the present view. @type {AbortController | null} */
  running: null,
  /** Answers by what was asked (search.js), oldest first. @type {Map<string, Answer>} */
  answers: new Map(),
  /** The newest record of each picture, by its id. @type {Map<number, Item | Hit>} */
  known: new Map(),
  /** The picture that is removed from the index in some seconds. @type {Item | null} */
  removal: null,
  /** The person's pictures. */
  uploads: new Uploads(),
  /**
   * The open question for a token, which several requests may wait for.
   * @type {Promise<string | null> | null}
   */
  tokenQuestion: null,
  /**
   * Timers: until the page looks busy, until a slider counts, of the look after a lost server, and
   * until a picture is removed.
   */
  timers: { busy: 0, slider: 0, reconnect: 0, removal: 0 },
  /** What to do once a lost server is back, by what waits. @type {Map<unknown, () => void>} */
  waiting: new Map(),
  /** How it stands with the query. */
  query: {
    /**
     * Why its picture is not on the page: it cannot be shown, or the server does not respond.
     * @type {"missing" | "delayed" | null}
     */
    gap: null,
    /** What the server said to it, once it has answered. @type {"found" | "refused" | null} */
    outcome: null,
  },
};

/** Whether there is a picture to search with. @param {Search} [search] @returns {boolean} */
export const hasQuery = (search = state.search) => search.id !== null || search.upload !== null;

/** The fine stage of a search, or "none". @param {Search} [search] @returns {Fine} */
export const fineOf = (search = state.search) => search.fine ?? state.info.fine;

/**
 * The present search by another fine stage.
 * @param {Fine} fine
 * @param {Search} [search]
 * @returns {Search}
 */
export const withFine = (fine, search = state.search) => ({
  ...search,
  fine: fine === state.info.fine ? null : fine,
});

/** The present search for pictures similar to an item. @param {number} id @returns {Search} */
export const likeItem = (id) => ({ ...state.search, id, upload: null, box: null });

/** The file of the query; null if the query is an indexed picture. @returns {File | null} */
export function queryFile() {
  const { upload } = state.search;
  return upload === null ? null : (state.uploads.get(upload)?.file ?? null);
}
