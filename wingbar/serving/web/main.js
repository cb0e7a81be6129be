// Starts the page: connects its parts, then shows the search of the URL.
//
// The files in the order of their imports, each from those before it only:
//   words, elements      numbers as text; elements of the page
//   uploads, state       the person's pictures; all that the page remembers
//   api, address         requests; a search as URL and as parameters
//   outage               what waits for a lost server
//   pictures, notice, dialogs, token, bits, overlay, crop, grid, filters   parts of the page
//   navigation           from one search to the next, and back
//   status, query, panel, pick, info   what surrounds the pictures
//   search, results      a search and its results
//   problems, start      failures; the start page
//   page                 all of this for one search
//   exports, removal, details, changes, keyboard   what can be done with it

import { linkTo } from "./address.js";
import { apiHooks } from "./api.js";
import { afterRemoval, listenToAdd } from "./changes.js";
import { Details } from "./details.js";
import { listenToDialogs } from "./dialogs.js";
import { listenToExports } from "./exports.js";
import { grid } from "./grid.js";
import { refreshInfo } from "./info.js";
import { listenToKeys } from "./keyboard.js";
import { arrive, goLike, listenToHistory, navigationHooks } from "./navigation.js";
import { listenToLinks, show } from "./page.js";
import { listenToPanel } from "./panel.js";
import { listenForPictures } from "./pick.js";
import { report, showBusy } from "./problems.js";
import { listenToQuery } from "./query.js";
import { listenToRemoval, removalHooks } from "./removal.js";
import { listenToMore, showMore } from "./start.js";
import { state } from "./state.js";
import { askForToken } from "./token.js";

apiHooks.token = askForToken;
apiHooks.busy = showBusy;
navigationHooks.show = show;
removalHooks.removed = afterRemoval;

const details = new Details({
  href: linkTo,
  like: goLike,
  beside: (step, entry) => grid.beside(step, entry.id),
});

grid.on = {
  href: linkTo,
  open: goLike,
  details: (entry) => details.show(entry),
  end: showMore,
};

listenToHistory();
listenToQuery();
listenForPictures();
listenToPanel();
listenToExports();
listenToAdd();
listenToRemoval();
listenToKeys();
listenToDialogs();
listenToLinks();
listenToMore();
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
  await arrive(history.state);
  addEventListener("visibilitychange", () => {
    if (!document.hidden) refreshInfo().catch(() => {}); // the next search will say what is wrong
  });
}
