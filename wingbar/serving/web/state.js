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
 * A picture: the id of an indexed one, or the key of one of this browser. The query can be a text in
 * the place of a picture: TEXT and what it says.
 * @typedef {number | string} Picture
 */

/**
 * What is searched for. Without a picture (`query` is null) it is the start page.
 * @typedef {object} Search
 * @property {Picture | null} query
 * @property {number[] | null} box   part of the query: x, y, width, height in pixels, the picture
 *   being upright
 * @property {Picture[]} like        more pictures that are right: of the query, or results
 * @property {Picture[]} unlike      pictures that are wrong
 * @property {number | null} radius  largest distance in bits; null: any distance
 * @property {Fine | null} fine      null: the model's own choice
 * @property {number} shortlist      number of items that the fine stage orders, 1 or more
 * @property {boolean} distinct      whether copies are stacked
 * @property {string[]} where        filters, such as "label=monarch"
 * @property {string | null} encoder  which encoder of the index answers; null: the first
 * @property {Sort} sort             the order of the start page
 */

/**
 * How the start page is sorted: a bit of every folder first, by name, by label, the newest file
 * first, or the most unusual picture first.
 * @typedef {"spread" | "name" | "label" | "date" | "novelty"} Sort
 */

/**
 * An answer of the server to a search.
 * @typedef {object} Answer
 * @property {import("./api.js").Found} response
 * @property {number} ms     from the request to the answer
 * @property {number} at     when it came, on the clock of performance.now()
 * @property {number} depth  how many results were asked for
 */

/**
 * What a card has to know about the ranking that it is in.
 * @typedef {object} Ranking
 * @property {number} bits       length of the codes
 * @property {string} code       the query's code, as 0s and 1s
 * @property {string} score      short name of the score: "cos" or "agr"
 * @property {string} scoreName  its whole name
 * @property {boolean} tiesCount whether the order leaves ties, which the codes alone do
 * @property {"coarse" | "fine"} other  the order that this one is compared with
 */

/**
 * The results on the screen.
 * @typedef {object} Results
 * @property {import("./api.js").Found} response
 * @property {number} ms
 * @property {import("./card.js").Entry[]} hits
 * @property {Ranking} ranking
 * @property {number | null} sure  how many of the first are closer than chance explains; null where
 *   that is not known
 * @property {number} depth      how many were asked for
 * @property {boolean} complete  whether there are no more
 * @property {boolean} loading   whether more are on their way
 * @property {AbortSignal} signal
 */

/**
 * The pictures on the start page.
 * @typedef {object} Browsing
 * @property {number} total     pictures that match the filters
 * @property {number} loaded    how many of them are on the page
 * @property {boolean} loading  whether the next are on their way
 * @property {AbortSignal} signal
 */

/** @type {Readonly<Pick<Search, "shortlist">>} */
export const DEFAULTS = { shortlist: 200 };

/** @type {Readonly<Search>} */
export const NOTHING = {
  query: null,
  box: null,
  like: [],
  unlike: [],
  radius: null,
  fine: null,
  shortlist: DEFAULTS.shortlist,
  distinct: false,
  where: [],
  encoder: null,
  sort: "spread",
};

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
  search: { ...NOTHING },
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
  /** Ids of the selected pictures, in the order of their selection. @type {Set<number>} */
  selected: new Set(),
  /** The pictures that are removed from the index in some seconds. @type {Item[]} */
  removal: [],
  /** The person's pictures. */
  uploads: new Uploads(),
  /**
   * The open question for a token, which several requests may wait for.
   * @type {Promise<string | null> | null}
   */
  tokenQuestion: null,
  /**
   * Timers: until the page looks busy, until a slider counts, of the look after a lost server, and
   * until pictures are removed.
   */
  timers: { busy: 0, slider: 0, reconnect: 0, removal: 0 },
  /** What to do once a lost server is back, by what waits. @type {Map<unknown, () => void>} */
  waiting: new Map(),
  /** How it stands with the query. */
  query: {
    /**
     * Why its picture is not on the page: it cannot be shown, the server does not respond, or the
     * query is a text.
     * @type {"missing" | "delayed" | "text" | null}
     */
    gap: null,
    /** What the server said to it, once it has answered. @type {"found" | "refused" | null} */
    outcome: null,
  },
};

/** Whether there is a picture to search with. @param {Search} [search] @returns {boolean} */
export const hasQuery = (search = state.search) => search.query !== null;

/** Whether the query is a picture of this browser. @param {Search} [search] @returns {boolean} */
export const isUpload = (search = state.search) =>
  typeof search.query === "string" && !isText(search.query);

/** Begins a query that is a text; no key of a picture does. */
const TEXT = "text:";

/** The query of a text. @param {string} text @returns {Picture} */
export const queryOfText = (text) => TEXT + text;

/** Whether a query is a text. @param {Picture | null} query */
export const isText = (query) => typeof query === "string" && query.startsWith(TEXT);

/** What a query says that is a text. @param {Picture | null} query */
export const textOf = (query) => String(query).slice(TEXT.length);

/** What the encoder of a search is. @param {Search} [search] @returns {import("./api.js").Encoder} */
export const encoderOf = (search = state.search) =>
  state.info.by_encoder[search.encoder ?? state.info.encoders[0]] ?? state.info;

/** What names the encoder of the present search in a request; nothing, if it is the first. */
export const encoderPart = () => state.search.encoder !== null && { encoder: state.search.encoder };

/** The fine stage of a search, or "none". @param {Search} [search] @returns {Fine} */
export const fineOf = (search = state.search) => search.fine ?? encoderOf(search).fine;

/**
 * The present search by another fine stage.
 * @param {Fine} fine
 * @param {Search} [search]
 * @returns {Search}
 */
export const withFine = (fine, search = state.search) => ({
  ...search,
  fine: fine === encoderOf(search).fine ? null : fine,
});

/** The present search for pictures similar to one. @param {Picture} query @returns {Search} */
export const likePicture = (query) => ({
  ...state.search,
  query,
  box: null,
  like: [],
  unlike: [],
});

/**
 * The present search with a picture that is right or wrong. What was marked so already loses its
 * mark.
 * @param {Picture} picture
 * @param {boolean} right
 * @returns {Search}
 */
export function withMark(picture, right) {
  const { search } = state;
  if (isText(search.query)) return right ? likePicture(picture) : search; // texts take no marks
  const name = right ? "like" : "unlike";
  const without = withoutPicture(picture);
  if (search[name].includes(picture)) return without;
  return { ...without, [name]: [...without[name], picture] };
}

/**
 * The present search without one of its pictures. The next one that is right takes the place of the
 * query.
 * @param {Picture} picture
 * @returns {Search}
 */
export function withoutPicture(picture) {
  const { search } = state;
  const like = search.like.filter((one) => one !== picture);
  const unlike = search.unlike.filter((one) => one !== picture);
  if (search.query !== picture) return { ...search, like, unlike };
  const [next = null, ...rest] = like;
  return { ...search, query: next, box: null, like: rest, unlike: next === null ? [] : unlike };
}

/** The file of a picture of this browser; null if it is an indexed one. @param {Picture} picture */
export const fileOf = (picture) =>
  typeof picture === "string" && !isText(picture) ? (state.uploads.get(picture)?.file ?? null) : null;

/** The file of the query; null if the query is an indexed picture. */
export const queryFile = () => fileOf(state.search.query);
