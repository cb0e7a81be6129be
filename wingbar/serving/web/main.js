// The page: what is asked for (state.js) becomes a request (api.js), its answer becomes pictures (grid.js).

import { Problem, hooks, json, request, showPicture, token } from "./api.js";
import { Crop, place } from "./crop.js";
import { Details, Look } from "./details.js";
import { save, toCsv, toCurl } from "./exports.js";
import { Filters } from "./filters.js";
import { Grid } from "./grid.js";
import { notice, putAway } from "./notice.js";
import { body, parameters, read, write } from "./state.js";
import { Uploads, listen, objection, smaller } from "./uploads.js";
import { bytes, count, make, milliseconds, named, plural } from "./words.js";

const $ = (id) => document.getElementById(id);
const K_STOPS = [6, 12, 24, 48, 96, 200, 500, 1000];
const SHORTLIST_STOPS = [50, 100, 200, 500, 1000, 2000, 5000, 10000];
const PAGE = 60; // items that browsing asks for at once
const FRESH = 10_000; // ms for which an answer is shown again without asking
const KEPT = 40; // answers
const STAGES = {
  ties: "Pictures at the same distance are ordered by the cosine of their features.",
  pool: "The nearest pictures by code are ordered anew by the cosine of their features.",
  asymmetric: "The nearest pictures by code are ordered anew by how well their bits fit the query's logits.",
};

const wide = matchMedia("(min-width: 60rem)");
const uploads = new Uploads();
const answers = new Map(); // what was asked -> { response, ms, at }
const known = new Map(); // id -> the last hit or item of it

let info = null;
let ask = read(location.search);
let stage = "ties"; // the fine stage that the toggle goes to
let shown = null; // the answer on the screen: { response, ms, hits, hint }
let browsing = null; // { total, loaded, where } on the start page
let running = null; // AbortController of what is under way
let polling = 0;

// -- where the page is: the URL, history, back

history.scrollRestoration = "manual";

const hasQuery = (a = ask) => a.id !== null || a.upload !== null;
const fineOf = (a) => a.fine ?? info.fine;
const withFine = (a, fine) => ({ ...a, fine: fine === info.fine ? null : fine });
const hrefOf = (entry) => write({ ...ask, id: entry.id, upload: null, box: null });

function go(next, { push = true, ...how } = {}) {
  remember();
  const state = { upload: next.upload };
  if (push) history.pushState(state, "", write(next));
  else history.replaceState(state, "", write(next));
  return show(next, how);
}

/** Keep in the history where this page was scrolled to and which card had the focus. */
function remember() {
  history.replaceState({ ...history.state, scroll: scrollY, focus: grid.focusedId }, "");
}

addEventListener("popstate", (event) => arrive(event.state));

async function arrive(state) {
  closeDialogs();
  const next = read(location.search);
  next.upload = next.id === null ? (state?.upload ?? null) : null;
  const lost = next.upload !== null && !uploads.get(next.upload);
  if (lost) next.upload = next.box = null;
  await show(next, { back: true });
  if (lost) notice("The picture of this search was kept in the tab only, and is gone. Choose it again to repeat the search.");
  const free = document.activeElement === document.body || $("grid").contains(document.activeElement); // not moved on meanwhile
  if (free && Number.isInteger(state?.focus)) grid.focus(state.focus);
  scrollTo(0, state?.scroll ?? 0);
}

/** Bring the page to `next`. With `focus` the first picture gets it, `travel` moves cards to their new places. */
async function show(next, { focus = false, back = false, travel = false, deep = false } = {}) {
  const sameQuery = next.id === ask.id && next.upload === ask.upload && document.body.dataset.view === "results";
  const sameBox = sameQuery && String(next.box) === String(ask.box);
  ask = next;
  running?.abort();
  running = new AbortController();
  if (fineOf(ask) !== "none") stage = fineOf(ask);
  document.body.dataset.view = hasQuery() ? "results" : "start";
  $("title").ariaLevel = hasQuery() ? "1" : "2"; // the heading of the start is gone then
  if (!sameQuery) leaveCrop();
  drawQuery(sameQuery, sameBox);
  drawOptions();
  filters.show(ask.where);
  const { signal } = running;
  try {
    await (hasQuery() ? find(ask, { signal, travel, deep, back }) : browse(signal));
    if (focus && !signal.aborted) {
      grid.focus(shown?.hits.find((hit) => !hit.self)?.id);
      scrollTo(0, 0);
    }
  } catch (error) {
    if (!signal.aborted) failed(error, () => show(next, { focus, travel, deep }));
  } finally {
    if (!signal.aborted) busy(false);
  }
}

// -- searching

async function find(a, { signal, travel, deep, back }) {
  const answer = await answered(a, { signal, deep, back });
  if (signal.aborted) return;
  putAway();
  const { response, ms } = answer;
  const coarse = response.fine === "none";
  const hits = response.hits.slice(0, a.k);
  const other = answers.get(keyOf(withFine(a, coarse ? stage : "none")));
  decorate(hits, other?.response.hits ?? null, coarse, a);
  for (const hit of hits) known.set(hit.id, hit);
  const hint = {
    bits: response.bits,
    code: response.code,
    score: response.fine === "asymmetric" ? "agr" : "cos",
    scoreName: response.fine === "asymmetric" ? "agreement" : "cosine",
    other: coarse ? "fine" : "coarse",
  };
  shown = { response, ms, hits, hint };
  browsing = null;
  if (response.query && !a.box) sized([response.query.width, response.query.height]);
  grid.show(hits, { travel, href: hrefOf, hint });
  drawSummary(Boolean(other));
  $("more").hidden = true;
  $("bar-tools").hidden = false;
  blank(hits.length ? null : nothing(a));
}

/** The answer to `a`, from a moment ago or from the server. `deep` asks for as many as the fine stage may look at. */
async function answered(a, { signal, deep, back }) {
  const key = keyOf(a);
  const old = answers.get(key);
  if (old && (back || performance.now() - old.at < FRESH)) return old;
  busy(true);
  const start = performance.now();
  const more = deep ? { ...a, k: Math.min(info.limits?.k ?? 1000, Math.max(a.k, a.shortlist)) } : a;
  const response = a.id === null ? await sendPicture(more, signal) : await json("/api/search", { ...asJson(body(more)), signal });
  const answer = { response, ms: performance.now() - start, at: performance.now() };
  answers.delete(key);
  answers.set(key, answer);
  for (const oldest of [...answers.keys()].slice(0, -KEPT)) answers.delete(oldest);
  return answer;
}

const keyOf = (a) => JSON.stringify([a.id, a.upload, parameters({ ...a, fine: fineOf(a) })]);
const asJson = (record) => ({ method: "POST", type: "application/json", body: JSON.stringify(record) });

function sendPicture(a, signal) {
  const { file } = uploads.get(a.upload);
  return json(`/api/search?${new URLSearchParams(parameters(a))}`, { method: "POST", type: file.type || "application/octet-stream", body: file, signal });
}

/** What the page adds to hits: ties, moves against the other order, and which one is the query. */
function decorate(hits, others, coarse, a) {
  const ties = new Map();
  for (const hit of hits) ties.set(hit.distance, (ties.get(hit.distance) ?? 0) + 1);
  const last = hits.at(-1)?.distance;
  const inOrder = hits.every((hit, i) => !i || hits[i - 1].distance <= hit.distance);
  const ranks = others && new Map(others.map((hit) => [hit.id, hit.rank]));
  for (const hit of hits) {
    hit.ties = ties.get(hit.distance);
    hit.tiesGoOn = inOrder && hits.length === a.k && hit.distance === last;
    hit.self = hit.id === a.id;
    if (!ranks) delete hit.move;
    else hit.move = ranks.has(hit.id) ? ranks.get(hit.id) - hit.rank : coarse ? "out" : "new";
  }
}

function drawSummary(compared) {
  const { response, ms, hits } = shown;
  const coarse = response.fine === "none";
  named($("title"), `Like ${queryName()}`);
  document.title = `${queryName()} · wingbar`;
  $("status").textContent = `${plural(hits.length, "result")} in ${milliseconds(ms)} ms`;
  const { total, ...stages } = response.milliseconds;
  const parts = Object.entries(stages).filter(([name, value]) => value > 0 || name === "coarse");
  parts.push(["network", Math.max(0, ms - total)]);
  const shortlist = coarse ? "" : `shortlist of ${count(response.shortlist)}${response.cut ? ", cut within a tie" : ""} · `;
  $("stages").textContent = `${shortlist}${parts.map(([name, value]) => `${name} ${milliseconds(value)}`).join(" · ")} ms`;
  $("moves").textContent = compared ? movesText(hits, coarse) : "";
  for (const input of document.getElementsByName("order")) input.checked = (input.value === "coarse") === coarse;
}

function movesText(hits, coarse) {
  const of = (test) => hits.filter((hit) => test(hit.move)).length;
  const parts = [
    [of((m) => m > 0), "higher"],
    [of((m) => m < 0), "lower"],
    [of((m) => m === 0), "in place"],
    [of((m) => typeof m === "string"), coarse ? `not among the first ${count(ask.k)} there` : "new"],
  ];
  const text = parts.filter(([n]) => n).map(([n, what]) => `${count(n)} ${what}`);
  return text.length ? `Against the ${coarse ? "fine" : "coarse"} order: ${text.join(", ")}` : "";
}

function nothing(a) {
  const actions = [];
  if (a.radius !== null) actions.push(["Any distance", () => go({ ...ask, radius: null }, { push: false })]);
  if (a.where.length) actions.push(["Remove the filters", () => go({ ...ask, where: [] }, { push: false })]);
  const why = [a.radius !== null && `within ${plural(a.radius, "bit")}`, a.where.length && "that fits the filters"].filter(Boolean);
  return { title: "Nothing found", text: why.length ? `No picture ${why.join(" ")}.` : "This index has no picture to compare with.", actions };
}

/** Coarse to fine and back. The coarse order is asked for as deep as the shortlist, so that all moves are known. */
function toggle() {
  if (!hasQuery()) return;
  const toCoarse = fineOf(ask) !== "none";
  go(withFine(ask, toCoarse ? "none" : stage), { push: false, travel: true, deep: toCoarse });
}

// -- browsing

async function browse(signal) {
  shown = null;
  $("bar-tools").hidden = true;
  $("stages").textContent = $("moves").textContent = "";
  document.title = `${info.name} · wingbar`;
  if (!info.items) {
    grid.clear();
    $("status").textContent = "No pictures yet";
    $("title").hidden = $("more").hidden = true;
    return blank(emptyIndex());
  }
  busy(true);
  const { items, total } = await page(0, signal);
  browsing = { total, loaded: items.length, signal };
  $("title").hidden = false;
  $("title").textContent = ask.where.length ? "Pictures that fit the filters" : "Or start from one of these";
  $("status").textContent = ask.where.length ? `${count(total)} of ${plural(info.items, "picture")}` : plural(total, "picture");
  grid.show(items, { href: hrefOf, hint: {} });
  $("more").hidden = browsing.loaded >= total;
  blank(items.length ? null : nothing({ ...ask, radius: null }));
}

async function page(offset, signal) {
  const params = new URLSearchParams([["offset", offset], ["limit", PAGE], ["spread", true], ...ask.where.map((condition) => ["where", condition])]);
  const found = await json(`/api/items?${params}`, { signal });
  for (const item of found.items) known.set(item.id, item);
  return found;
}

async function showMore() {
  const now = browsing;
  if (!now || now.loading || now.loaded >= now.total) return;
  now.loading = true;
  try {
    const { items, total } = await page(now.loaded, now.signal);
    if (now !== browsing) return;
    now.total = total;
    now.loaded = items.length ? now.loaded + items.length : total;
    grid.append(items, { href: hrefOf, hint: {} });
    $("more").hidden = now.loaded >= now.total;
  } catch (error) {
    if (!now.signal.aborted) failed(error, showMore);
  } finally {
    now.loading = false;
  }
}

function emptyIndex() {
  const command = `wingbar index ${info.name}${info.name.endsWith(".wb") ? "" : ".wb"} photos/`;
  const text = "Index a folder of pictures; they show up here at once, without a restart:";
  return { title: "This index is empty", text, code: command, actions: [["Look again", () => refresh().then(() => show(ask))]] };
}

/** What stands in the place of pictures: { title, text, code, actions }, or null. */
function blank(content) {
  const element = $("blank");
  element.hidden = !content;
  if (!content) return element.replaceChildren();
  const buttons = content.actions.map(([name, action]) => {
    const button = make("button", { type: "button" }, name);
    button.addEventListener("click", action);
    return button;
  });
  element.replaceChildren(make("h2", {}, content.title), make("p", {}, content.text));
  if (content.code) element.append(make("pre", {}, make("code", {}, content.code)));
  element.append(make("div", { className: "buttons" }, ...buttons));
}

// -- the query

const queryFile = () => (ask.upload === null ? null : uploads.get(ask.upload)?.file);

function queryName() {
  if (ask.upload !== null) return queryFile()?.name ?? "your picture";
  const item = known.get(ask.id);
  return item ? (item.label ?? item.name) : `picture ${ask.id}`;
}

function drawQuery(same, sameBox) {
  $("ask").hidden = hasQuery();
  $("query").hidden = !hasQuery();
  if (!hasQuery()) return;
  if (same) {
    crop.set(crop.size, ask.box);
    if (!sameBox) offerLook();
    return;
  }
  crop.set(null, null);
  $("keep").hidden = ask.upload === null || !info.writable;
  offerLook();
  drawQueryName();
  const picture = $("picture");
  $("no-preview").hidden = true;
  picture.hidden = false;
  picture.removeAttribute("src");
  delete picture.dataset.url;
  if (ask.upload !== null) {
    picture.src = uploads.get(ask.upload).url;
  } else {
    showPicture(picture, `/api/images/${ask.id}`);
    loadItem(ask.id);
  }
}

/** What the model saw in the query, or in the box of it. */
function offerLook() {
  const request = () => {
    if (ask.id !== null) return ["/api/explain", asJson({ id: ask.id, ...(ask.box && { box: ask.box }) })];
    const file = queryFile();
    const box = ask.box ? `?box=${ask.box}` : "";
    return [`/api/explain${box}`, { method: "POST", type: file.type || "application/octet-stream", body: file }];
  };
  look.offer(info.explains, request, () => place(ask.box ?? [0, 0, 1, 1], ask.box ? crop.size : [1, 1]));
}

async function loadItem(id) {
  const item = await json(`/api/items/${id}`).catch(() => null);
  if (!item || ask.id !== id) return;
  known.set(id, { ...known.get(id), ...item });
  drawQueryName();
  if (shown) named($("title"), `Like ${queryName()}`);
}

function drawQueryName() {
  named($("query-name"), queryName());
  const file = queryFile();
  const item = known.get(ask.id);
  const facts = file ? [bytes(file.size)] : item ? [item.label !== null && item.name !== item.label ? item.name : ""] : [];
  if (crop.size) facts.unshift(`${crop.size[0]} × ${crop.size[1]}`);
  $("query-facts").textContent = facts.filter(Boolean).join(" · ");
  $("picture").alt = `The query: ${queryName()}`;
}

/** The query has `size` pixels; from then on it can be cropped. */
function sized(size) {
  if (crop.size && crop.size[0] === size[0] && crop.size[1] === size[1]) return;
  $("frame").style.setProperty("--ratio", size[0] / size[1]);
  crop.set(size, ask.box);
  drawQueryName();
}

$("picture").addEventListener("load", () => {
  const { naturalWidth, naturalHeight } = $("picture");
  if (!crop.size && naturalWidth) sized([naturalWidth, naturalHeight]);
});

$("picture").addEventListener("error", () => {
  $("picture").hidden = true;
  $("no-preview").hidden = false;
  $("no-preview").textContent = ask.upload !== null ? "This browser cannot show the file. The search works all the same." : "The file is no longer there. Its code can still be searched with.";
});

const crop = new Crop({
  frame: $("frame"),
  img: $("picture"),
  box: $("box"),
  inputs: [$("box-x"), $("box-y"), $("box-w"), $("box-h")],
  on: {
    begin: enterCrop,
    current: () => ask.box,
    change: (box) => {
      if (String(box) !== String(ask.box)) go({ ...ask, box }, { push: ask.box === null });
    },
  },
});

function enterCrop() {
  if (!hasQuery() || !crop.size) return;
  look.clear();
  $("query").classList.add("cropping");
  $("box-fields").hidden = false;
  $("crop-button").setAttribute("aria-pressed", "true");
  crop.start();
}

function leaveCrop() {
  $("query").classList.remove("cropping");
  $("box-fields").hidden = true;
  $("crop-button").setAttribute("aria-pressed", "false");
  crop.stop(ask.box);
}

$("crop-button").addEventListener("click", () => (crop.active ? leaveCrop() : enterCrop()));
$("whole").addEventListener("click", () => {
  const had = ask.box !== null;
  if (had) go({ ...ask, box: null });
  leaveCrop();
  $("crop-button").focus();
});

const look = new Look($("look-button"), $("query-look"), $("query-facts"));

// -- pictures from the person

const pick = () => $("file").click();
$("browse").addEventListener("click", pick);
$("another").addEventListener("click", pick);
$("camera").addEventListener("click", () => $("photo").click());
for (const input of [$("file"), $("photo")]) {
  input.addEventListener("change", () => {
    if (input.files.length) searchWith(input.files[0]);
    input.value = "";
  });
}

listen({
  file: (file, others) => {
    searchWith(file);
    if (others) notice(`Searching with ${file.name}. The ${plural(others, "other file")} are left out: one picture at a time.`, [], "wait");
  },
  id: (id) => go({ ...ask, id, upload: null, box: null }, { focus: true }),
  link: () => notice("That was a link, and this page fetches nothing from elsewhere. Save the picture and drop the file, or copy the picture and paste it."),
  nothing: () => notice("There is no picture on the clipboard. Copy a picture, not its address, then paste again."),
});

async function searchWith(file) {
  closeDialogs();
  const wrong = objection(file, info?.limits);
  if (wrong) {
    const tooLarge = info?.limits?.upload_bytes < file.size && file.type.startsWith("image/");
    const shrink = async () => {
      const copy = await smaller(file);
      if (copy && !objection(copy, info.limits)) searchWith(copy);
      else notice("This browser cannot make a smaller copy of it. Save a smaller one with another program.", [["Choose another picture", pick]]);
    };
    notice(wrong, [...(tooLarge ? [["Search with a smaller copy", shrink]] : []), ["Choose another picture", pick]]);
    return;
  }
  putAway();
  if (info) await go({ ...ask, id: null, upload: uploads.add(file), box: null }, { focus: true });
}

// -- options and filters

const stopOf = (stops, value) => stops.reduce((best, stop, i) => (Math.abs(stop - value) < Math.abs(stops[best] - value) ? i : best), 0);
let kStops = K_STOPS;

function drawOptions() {
  $("options").hidden = !hasQuery();
  $("panel").hidden = !hasQuery() && !info.items;
  $("panel-name").textContent = hasQuery() ? "Options and filters" : "Filters";
  kStops = K_STOPS.filter((k) => k <= (info.limits?.k ?? 1000));
  $("k").max = kStops.length - 1;
  $("k").value = stopOf(kStops, ask.k);
  $("radius").max = info.bits ?? 64;
  $("radius").value = ask.radius ?? $("radius").max;
  $("shortlist").max = SHORTLIST_STOPS.length - 1;
  $("shortlist").value = stopOf(SHORTLIST_STOPS, ask.shortlist);
  $("stage").value = stage;
  $("stage-note").textContent = STAGES[stage];
  $("shortlist-field").hidden = fineOf(ask) === "none";
  say("k", count(ask.k));
  say("radius", ask.radius === null ? "any distance" : `up to ${plural(ask.radius, "bit")}`);
  say("shortlist", count(ask.shortlist));
}

function say(name, text) {
  $(`${name}-out`).textContent = text;
  $(name).setAttribute("aria-valuetext", text);
}

let settling = 0;
function slide(name, value, text) {
  $(name).addEventListener("input", () => {
    const next = { ...ask, ...value() };
    say(name, text(next));
    clearTimeout(settling);
    settling = setTimeout(() => go(next, { push: false }), 180);
  });
}
slide("k", () => ({ k: kStops[$("k").value] }), (a) => count(a.k));
slide(
  "radius",
  () => ({ radius: $("radius").value === $("radius").max ? null : Number($("radius").value) }),
  (a) => (a.radius === null ? "any distance" : `up to ${plural(a.radius, "bit")}`),
);
slide("shortlist", () => ({ shortlist: SHORTLIST_STOPS[$("shortlist").value] }), (a) => count(a.shortlist));
$("stage").addEventListener("change", () => go(withFine(ask, $("stage").value), { push: false, travel: true }));
for (const input of document.getElementsByName("order")) input.addEventListener("change", toggle);

const filters = new Filters($("filters"), $("chosen"), {
  change: (where) => go({ ...ask, where }, { push: false }),
});

const grid = new Grid($("grid"), $("card"), {
  open: like,
  details: (entry) => details.show(entry, shown?.hint ?? {}, info),
  end: showMore,
});

function like(entry) {
  go({ ...ask, id: entry.id, upload: null, box: null }, { focus: true });
}

const details = new Details({
  like,
  href: hrefOf,
  step: (way, entry) => grid.entryAt(way, entry.id),
  removed: async (entry) => {
    answers.clear();
    known.delete(entry.id);
    await refresh();
    if (ask.id === entry.id) await go({ ...ask, id: null, box: null });
    else await show(ask);
    notice(`${entry.name} is no longer in the index.`, [], "good");
  },
});

// -- taking along

$("export-json").addEventListener("click", () => save("results.json", "application/json", JSON.stringify(shown.response, null, 2)));
$("export-csv").addEventListener("click", () => save("results.csv", "text/csv", toCsv(shown.hits)));
$("export-curl").addEventListener("click", () => copy(toCurl(ask, queryFile(), Boolean(token.get())), "The command"));
$("export-link").addEventListener("click", () => copy(location.href, "The link"));

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    const left = ask.upload === null ? "" : " It does not hold your picture, only the options.";
    notice(`${what} is on the clipboard.${what === "The link" ? left : ""}`, [], "good");
  } catch {
    notice(`The browser does not let the page copy. Copy it from here: ${text}`, [], "wait");
  }
}

for (const button of $("export").querySelectorAll("button")) button.addEventListener("click", () => ($("export").open = false));
addEventListener("click", (event) => {
  if (!$("export").contains(event.target)) $("export").open = false;
});

// -- adding to the index

$("keep").addEventListener("click", () => {
  $("add-labels").replaceChildren(...Object.keys(info.label_counts ?? {}).map((label) => make("option", { value: label })));
  $("add-note").textContent = "";
  $("add").showModal();
});

$("add-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const file = queryFile();
  const form = new FormData();
  form.append("image", file, file.name);
  if ($("add-label").value.trim()) form.append("label", $("add-label").value.trim());
  try {
    const { items, failed: refused } = await json("/api/items", { method: "POST", body: form });
    if (refused?.length) throw new Problem("refused", `${refused[0].name} was not added: ${refused[0].reason}.`);
    $("add").close();
    answers.clear();
    await refresh();
    notice(`${file.name} is in the index now.`, [["Show what is like it", () => like(items[0])]], "good");
  } catch (problem) {
    $("add-note").textContent = problem.message;
  }
});

// -- when something is wrong

function failed(error, again) {
  console.error(error);
  if (!(error instanceof Problem)) return notice("The page failed at this. Load it anew; if that does not help, see the browser's console.", [["Load it anew", () => location.reload()]]);
  if (error.kind === "gone") return gone(error, again);
  if (error.kind === "busy" || error.kind === "failed") return notice(error.message, [["Try again", again]]);
  if (error.kind === "token") return notice(error.message, [["Give the token", again]]);
  grid.clear();
  shown = null;
  $("more").hidden = $("bar-tools").hidden = true;
  $("stages").textContent = $("moves").textContent = "";
  named($("title"), hasQuery() ? `Like ${queryName()}` : "Pictures");
  $("status").textContent = `Not done: ${error.message}`;
  const actions = [];
  if (ask.upload !== null) actions.push(["Choose another picture", pick]);
  if (ask.where.length) actions.push(["Remove the filters", () => go({ ...ask, where: [] }, { push: false })]);
  if (ask.box) actions.push(["Search the whole picture", () => go({ ...ask, box: null })]);
  if (ask.id !== null) actions.push(["All pictures", () => go(read(""))]);
  blank({ title: error.status === 404 ? "Not in this index" : "This cannot be searched", text: error.message, actions });
}

/** Say so, and look every few seconds whether it is back. */
function gone(error, again) {
  clearInterval(polling);
  const retry = () => {
    clearInterval(polling);
    putAway();
    again();
  };
  notice(error.message, [["Try again", retry]]);
  polling = setInterval(async () => {
    if (document.hidden) return;
    const answer = await fetch("/healthz").catch(() => null);
    if (answer?.ok) retry();
  }, 3000);
}

hooks.busy = (seconds) => {
  if (seconds) notice(`The server is busy. Trying again in ${plural(Math.ceil(seconds), "second")}.`, [], "wait");
  else putAway();
};

const WHY_TOKEN = {
  none: "It was started with a token. Whoever started it can tell you which. The page keeps it until this tab is closed.",
  wrong: "The server does not know that token. Copy it whole, without spaces around it.",
  weak: "Your token may search, but not change the index. That takes the other token, the one of --token.",
};

let asking = null; // several requests may need the token at once: one question for all
hooks.token = (why) => {
  asking ??= new Promise((resolve) => {
    const dialog = $("token");
    let given = null;
    $("token-input").value = "";
    $("token-note").textContent = WHY_TOKEN[why];
    $("token-form").onsubmit = (event) => {
      event.preventDefault();
      given = $("token-input").value.trim();
      token.set(given);
      dialog.close();
    };
    dialog.onclose = () => {
      asking = null;
      resolve(given);
    };
    dialog.showModal();
  });
  return asking;
};

let slow = 0;
function busy(on) {
  clearTimeout(slow);
  $("results").setAttribute("aria-busy", String(on));
  if (on) slow = setTimeout(() => document.body.classList.add("busy"), 150);
  else document.body.classList.remove("busy");
}

// -- keys and the frame of the page

function closeDialogs() {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
}

addEventListener("keydown", (event) => {
  const typing = event.target.closest?.("input:not([type=radio], [type=range]), textarea, select");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if ($("export").open) $("export").open = false;
    else if (crop.active) {
      leaveCrop();
      $("crop-button").focus();
    } else putAway();
    return;
  }
  if (typing) return;
  const action = { "/": () => $(hasQuery() ? "another" : "browse").focus(), f: toggle, c: () => $("crop-button").click(), "?": () => $("help").showModal() }[event.key];
  if (!action || ((event.key === "f" || event.key === "c") && !hasQuery())) return;
  event.preventDefault();
  action();
});

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
  });
}
$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // an address with # would be a step in the history
  $("results").focus();
});
$("help-button").addEventListener("click", () => $("help").showModal());
$("more").addEventListener("click", showMore);
new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && showMore(), { rootMargin: "600px" }).observe($("more"));
$("home").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey || !info) return;
  event.preventDefault();
  go(read(""));
  scrollTo(0, 0);
});
$("details-open").addEventListener("click", async (event) => {
  if (!token.get()) return; // a link can send no token
  event.preventDefault();
  const blob = await (await request($("details-open").getAttribute("href"))).blob();
  open(URL.createObjectURL(blob), "_blank", "noopener");
});

const unfold = () => ($("panel").open = wide.matches);
wide.addEventListener("change", unfold);
unfold();

async function refresh() {
  const before = JSON.stringify(info?.label_counts) + info?.items;
  info = await json("/api/info");
  if (JSON.stringify(info.label_counts) + info.items !== before) filters.offer(info);
  const parts = [info.name, plural(info.items, "picture")];
  if (info.labels) parts.push(plural(info.labels, "label"));
  if (info.bits) parts.push(`${count(info.bits)}-bit codes`);
  $("about").textContent = parts.join(" · ");
}

async function start() {
  try {
    await refresh();
  } catch (error) {
    return failed(error, start);
  }
  if (info.fine !== "none") stage = info.fine;
  await arrive(history.state);
  addEventListener("visibilitychange", () => {
    if (!document.hidden) refresh().catch(() => {}); // the next search will say what is wrong
  });
}

start();
