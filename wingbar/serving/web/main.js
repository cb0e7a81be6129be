// Starts the page: connects its parts, then shows the search of the URL.
//
// The files in the order of their imports, each from those before it only:
//   words, elements, layout, zip    numbers as text; elements; rows of pictures; ZIP files
//   uploads, state       the person's pictures; all that the page remembers
//   api, address         requests; a search as URL and as parameters
//   outage               what waits for a lost server
//   pictures, notice, dialogs, token, bits, overlay, crop, zoom, thumbs, card, grid, filters   parts
//   navigation           from one search to the next, and back
//   status, query, panel, pick, info, searches, view   what surrounds the pictures
//   search, results      a search and its results
//   problems, start      failures; the start page
//   page                 all of this for one search
//   exports, removal, labels, tray, lasso, map, adding, folder, indexing, lightbox, changes, keyboard
//                        what can be done with it

import { linkTo } from "./address.js";
import { apiHooks } from "./api.js";
import { afterLabel, afterRemoval, listenToAdd } from "./changes.js";
import { listenToDialogs } from "./dialogs.js";
import { listenToExports } from "./exports.js";
import { listenToFolder } from "./folder.js";
import { grid } from "./grid.js";
import { listenToIndexing, watchIndexing } from "./indexing.js";
import { refreshInfo } from "./info.js";
import { listenToKeys } from "./keyboard.js";
import { labelHooks, listenToLabels } from "./labels.js";
import { listenToLasso } from "./lasso.js";
import { Lightbox } from "./lightbox.js";
import { isMapShown, listenToMap, mapHooks, showMap } from "./map.js";
import { arrive, go, goLike, listenToHistory, navigationHooks } from "./navigation.js";
import { listenToLinks, show } from "./page.js";
import { listenToPanel } from "./panel.js";
import { listenForPictures } from "./pick.js";
import { report, showBusy } from "./problems.js";
import { listenToQuery } from "./query.js";
import { listenToRemoval, removalHooks } from "./removal.js";
import { showFurther } from "./results.js";
import { drawSearches, listenToSearches } from "./searches.js";
import { listenToSort, showMore, showSome } from "./start.js";
import { state, withMark } from "./state.js";
import { askForToken } from "./token.js";
import { listenToTray, toggleSelected, trayHooks } from "./tray.js";
import { listenToView } from "./view.js";
import { count } from "./words.js";

/** @typedef {import("./card.js").Entry} Entry */

apiHooks.token = askForToken;
apiHooks.busy = showBusy;
navigationHooks.show = show;
removalHooks.removed = afterRemoval;
labelHooks.labelled = afterLabel;
trayHooks.only = (entries) => {
  if (isMapShown()) showMap(false);
  showSome(entries);
};
mapHooks.details = (entry) => lightbox.show(entry);

const isSelected = (/** @type {number} */ id) => state.selected.has(id);
const mark = (/** @type {Entry} */ { id }, /** @type {boolean} */ right) =>
  go(withMark(id, right), { travel: true });

const lightbox = new Lightbox({
  href: linkTo,
  like: goLike,
  mark,
  select: toggleSelected,
  isSelected,
  beside: (step, entry) => grid.beside(step, entry.id),
  place: placeOf,
});

grid.on = {
  href: linkTo,
  open: goLike,
  details: (entry) => lightbox.show(entry),
  mark,
  select: toggleSelected,
  isSelected,
  end: showRest,
};

listenToHistory();
listenToQuery();
listenForPictures();
listenToPanel();
listenToSort();
listenToExports();
listenToAdd();
listenToRemoval();
listenToLabels();
listenToTray();
listenToLasso();
listenToMap();
listenToFolder();
listenToIndexing();
listenToSearches();
listenToKeys();
listenToDialogs();
listenToLinks();
listenToView();
start();

async function start() {
  try {
    await refreshInfo();
  } catch (error) {
    report(error, start);
    return;
  }
  const { fine } = state.info;
  if (fine !== "none") state.stage = fine;
  drawSearches();
  await arrive(history.state);
  if (state.info.indexing) watchIndexing();
  if (matchMedia("(display-mode: standalone)").matches)
    navigator.serviceWorker?.register("/share.js").catch(() => {}); // an app is a share target
  addEventListener("visibilitychange", () => {
    if (!document.hidden) refreshInfo().catch(() => {}); // the next search will say what is wrong
  });
}

/** Show what follows the pictures on the page. */
async function showRest() {
  const { results } = state;
  if (!results) {
    showMore();
    return;
  }
  try {
    await showFurther();
  } catch (error) {
    if (results.signal.aborted) return;
    report(error, () => {
      results.loading = false;
      showRest();
    });
  }
}

/** Where an entry stands among the pictures. @param {Entry} entry */
function placeOf({ id }) {
  const place = grid.at.get(id);
  if (place === undefined) return "";
  const { results, browsing } = state;
  const all = results ? results.hits.length : (browsing?.total ?? 0);
  return `${count(place + 1)} of ${count(all)}${results && !results.complete ? "+" : ""}`;
}
