// Show the query and its results, and turn clicks and keys into the next query.

import { NOTHING, fetchAnswer, fetchFolded } from "./answers.js";
import { image, request } from "./api.js";
import { drawChips } from "./chips.js";
import { focusResult, handleKeys, makeReachable, resultIndex } from "./keyboard.js";
import { acceptPictures, addPicture, pictureUrl } from "./pictures.js";
import { createPlace } from "./place.js";
import {
  HALFWAY,
  PAGE_SIZE,
  SAME_PHOTO,
  emptyQuery,
  fromUrl,
  hasPicture,
  idsIn,
  isEmpty,
  lookedUp,
  shorten,
  toUrl,
} from "./query.js";
import { drawResults, searchFrom, titleOf } from "./results.js";
import { copyFrom, toCommand, toLink } from "./share.js";
import { createViewer } from "./viewer.js";
import { drawRemedies, drawWelcome, statusText, titleText } from "./wording.js";

const $ = (id) => document.getElementById(id);
const box = $("text");
const SWITCHES = { cutoff: HALFWAY, fold: SAME_PHOTO }; // the value of each check box
const MAX_PARTS = 16; // the API's limit

let query = emptyQuery();
let answer = NOTHING; // what is shown
let running = null; // the AbortController of the current search
let index = null; // {dataset, place}, as soon as the server has told
let viewed = null; // the result in the viewer

const place = createPlace(() => ({ query, draft: box.value, scroll: scrollY }));

// ---- searching

// Change the query, add it to the history, and search. `keep` the number of results and the place; `keepText` in the
// box that has not been sent; if it is `sent` now, it is not remembered for Back.
function updateQuery(changes, { keep = false, keepText = keep, sent = false, focus = null } = {}) {
  const draft = keepText && box.value.trim() !== query.box.trim() ? box.value : null;
  go({ ...query, count: keep ? query.count : PAGE_SIZE, ...changes, view: null }, { draft }, sent ? { draft: null } : {});
  if (viewer.isOpen) viewer.close();
  return run({ scroll: keep ? scrollY : 0, draft, focus });
}

// Add an entry with another query to the history, after saving the place in the present one.
function go(next, state, left = {}) {
  place.push({ query: next, ...state }, toUrl(next), left);
  query = next;
}

// Search with the text in the box, which may not have been submitted yet, and with changed options.
function submit(changes = {}) {
  return updateQuery({ box: box.value.trim(), contains: $("contains").value, split: $("split").value, ...changes }, { sent: true });
}

// Fetch and show the results of the query; then `scroll` to a place and `focus` the result with this index.
async function run({ scroll = 0, draft = null, focus = null } = {}) {
  drawQuery(draft);
  const shown = await load(0, query.count, () => run({ scroll, draft, focus }));
  if (!shown) return;
  scrollTo({ top: scroll });
  if (focus !== null && answer.results.length) focusResult($("results"), Math.min(focus, answer.results.length - 1), { preventScroll: true });
  place.ready(true);
  await drawView();
}

// Fetch results, from the first `kept` on, and show them; return whether that succeeded.
async function load(kept, end, retry) {
  running?.abort();
  const controller = (running = new AbortController());
  place.ready(false);
  setBusy(true);
  $("error").hidden = true;
  try {
    const rest = await fetchAnswer(query, kept, end, controller.signal);
    if (controller !== running) return false;
    answer = { ...rest, results: [...(kept ? answer.results : []), ...rest.results] };
    drawAnswer(answer.results.length - rest.results.length);
    return true;
  } catch (error) {
    if (controller !== running || error.name === "AbortError") return false;
    showError(error, retry);
    if (!kept) {
      answer = NOTHING;
      drawAnswer(0);
      $("nothing").hidden = error.status !== 422 || !drawRemedies($("nothing"), query, submit);
      $("status").textContent = "";
    }
    return false;
  } finally {
    if (controller === running) setBusy(false);
  }
}

// Show the answer; the first `kept` results are there already.
function drawAnswer(kept) {
  const { results, more } = answer;
  const searched = !isEmpty(query) && !lookedUp(query);
  drawResults($("results"), results, query, kept);
  $("more").hidden = !more;
  $("welcome").hidden = !isEmpty(query);
  $("share").hidden = isEmpty(query);
  $("copy-command").hidden = !searched || !index;
  $("nothing").hidden = results.length > 0 || !drawRemedies($("nothing"), query, submit);
  $("status").textContent = statusText(query, answer);
}

async function loadMore() {
  const before = answer.results.length;
  const count = answer.results.filter((result) => !result.folded).length;
  if (!(await load(count, count + PAGE_SIZE, loadMore))) return false;
  query = { ...query, count: count + PAGE_SIZE };
  place.replace({ query }, toUrl(query));
  place.ready(true);
  return answer.results.length > before;
}

function setBusy(busy) {
  $("progress").hidden = !busy;
  $("results").setAttribute("aria-busy", busy);
  $("more").disabled = busy;
}

function showError(error, retry) {
  $("error").hidden = false;
  $("error").querySelector("p").textContent = error.message;
  const button = $("error").querySelector("button");
  button.hidden = !retry;
  button.onclick = () => {
    $("error").hidden = true;
    retry();
  };
}

// ---- changing the query

function addResult(result, weight) {
  const part = result.kind === "caption" ? { text: result.text, weight } : { image_id: result.image_id, weight };
  const focused = viewed ? answer.results.indexOf(viewed) : resultIndex($("results"), document.activeElement);
  addParts([part], {}, { keep: true, focus: focused < 0 ? null : focused });
}

// Add parts in place of equal ones, whose weight may differ.
function addParts(parts, changes, options) {
  const same = (one, other) => ["text", "image_id", "picture"].every((name) => one[name] === other[name]);
  const others = query.parts.filter((other) => !parts.some((part) => same(part, other)));
  const count = others.length + parts.length + 1; // with the text in the box
  if (count > MAX_PARTS) return showError(new Error(`A query has at most ${MAX_PARTS} parts: remove one first.`));
  updateQuery({ parts: [...others, ...parts], ...changes }, options);
}

function addText(weight) {
  const text = box.value.trim();
  const ids = idsIn(text);
  if (text) addParts(ids ? ids.map((image_id) => ({ image_id, weight })) : [{ text, weight }], { box: "" }, { sent: true });
  box.focus();
}

async function searchFromFile(file) {
  if (!file) return;
  setBusy(true);
  $("error").hidden = true;
  try {
    const picture = await addPicture(file);
    updateQuery({ box: "", parts: [{ picture, weight: 1, name: file.name }] });
  } catch (error) {
    setBusy(false);
    showError(error);
  }
}

function clear() {
  updateQuery(emptyQuery({ to: query.to, seed: query.seed }));
  box.focus();
}

// ---- showing the query

function drawQuery(draft) {
  const text = draft ?? query.box;
  if (box.value.trim() !== text.trim()) box.value = text;
  drawChips($("chips"), query.parts, { pictureUrl, onChange: (parts) => updateQuery({ parts }, { keep: true }) });
  document.querySelector(`[name=to][value=${query.to}]`).checked = true;
  const split = $("split");
  if (query.split && ![...split.options].some((option) => option.value === query.split)) {
    split.add(new Option(query.split, query.split));
  }
  split.value = query.split;
  $("contains").value = query.contains;
  for (const name of Object.keys(SWITCHES)) $(name).checked = query[name] !== null;
  const filters = [query.split, query.contains, ...Object.keys(SWITCHES).map((name) => query[name] !== null)].filter(Boolean).length;
  $("filters-button").textContent = filters ? `Filters (${filters})` : "Filters";
  $("clear").hidden = isEmpty(query) && !filters;
  drawBoxButtons();
  document.title = titleText(query);
}

function drawBoxButtons() {
  $("add-text").hidden = $("subtract-text").hidden = !box.value.trim();
}

// ---- the viewer

const viewer = createViewer($("view"), { onStep: step, onAction: (name, result) => actions[name](result), onClose: leaveView });

// Show the photo that the address names; it may not be among the results.
async function drawView() {
  if (query.view === null) {
    if (viewer.isOpen) viewer.close();
    return;
  }
  const id = query.view;
  let result = answer.results.find((each) => each.image_id === id);
  try {
    result ??= await image(id);
  } catch (error) {
    if (query.view === id) showError(error);
    return;
  }
  if (query.view !== id) return;
  viewed = result;
  const number = answer.results.indexOf(result);
  viewer.show(result, {
    contains: query.contains,
    previous: number > 0,
    next: number >= 0 && (number < answer.results.length - 1 || answer.more),
    position: number < 0 ? "" : `${(number + 1).toLocaleString("en")} of ${answer.results.length.toLocaleString("en")}${answer.more ? " shown" : ""}`,
  });
  document.title = `${shorten(titleOf(result))} · coco-search`;
}

function view(result) {
  go({ ...query, view: result.image_id }, { draft: box.value, scroll: scrollY, opened: true });
  place.ready(true);
  drawView();
}

async function step(by) {
  const number = answer.results.indexOf(viewed) + by;
  if (number === answer.results.length && !(answer.more && (await loadMore()))) return;
  if (!answer.results[number] || query.view === null) return;
  query = { ...query, view: answer.results[number].image_id };
  place.replace({ query }, toUrl(query));
  drawView();
}

// Return to the results: by Back, if the viewer was opened from them, so that Forward opens it again.
function leaveView() {
  const number = answer.results.indexOf(viewed);
  viewed = null;
  document.title = titleText(query);
  if (query.view === null) return number >= 0 && document.activeElement === document.body ? focusResult($("results"), number) : undefined;
  query = { ...query, view: null };
  if (history.state?.opened) history.back();
  else place.replace({ query }, toUrl(query));
  if (number >= 0) focusResult($("results"), number);
}

// ---- events

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
box.addEventListener("input", () => {
  drawBoxButtons();
  place.saveSoon();
});
$("add-text").addEventListener("click", () => addText(1));
$("subtract-text").addEventListener("click", () => addText(-1));
$("file").addEventListener("change", (event) => {
  searchFromFile(event.target.files[0]);
  event.target.value = "";
});
for (const radio of document.querySelectorAll("[name=to]")) {
  radio.addEventListener("change", () => submit({ to: radio.value }));
}
$("split").addEventListener("change", () => submit());
$("contains").addEventListener("change", () => submit());
for (const [name, value] of Object.entries(SWITCHES)) {
  $(name).addEventListener("change", () => submit({ [name]: $(name).checked ? value : null }));
}
$("filters-button").addEventListener("click", () => {
  const open = $("filters").classList.toggle("open");
  $("filters-button").setAttribute("aria-expanded", open);
});
$("clear").addEventListener("click", clear);
$("shuffle").addEventListener("click", () => updateQuery({ seed: randomSeed() }, { keepText: true }));
$("help-button").addEventListener("click", () => $("help").showModal());
$("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment would become part of the address
  if (answer.results.length) focusResult($("results"), 0);
  else $("results").focus();
});
$("more").addEventListener("click", async () => {
  const before = answer.results.length;
  if (await loadMore()) focusResult($("results"), before);
});

function offerCopy(button, text) {
  copyFrom(button, text, $("notice")).catch((error) => showError(error));
}
$("copy-link").addEventListener("click", () => offerCopy($("copy-link"), toLink(query)));
$("copy-command").addEventListener("click", () => offerCopy($("copy-command"), toCommand(query, index)));

const viewButton = (name) => $("view").querySelector(`[data-do=${name}]`);

// By the `data-do` attributes of links and buttons.
const actions = {
  view,
  from: (result) => updateQuery(searchFrom(result), { keepText: true, focus: 0 }),
  add: (result) => addResult(result, 1),
  subtract: (result) => addResult(result, -1),
  also: toggleFolded,
  "copy-id": (result) => offerCopy(viewButton("copy-id"), result.image_id),
  "copy-file": (result) => offerCopy(viewButton("copy-file"), result.file),
  "copy-view": () => offerCopy(viewButton("copy-view"), location.href),
};

// Show the results that one stands for after it, or hide them.
async function toggleFolded(result) {
  const number = answer.results.indexOf(result);
  let { results } = answer;
  if (results[number + 1]?.folded === result) {
    results = results.filter((each) => each.folded !== result);
  } else {
    const shown = query;
    const inserted = await fetchFolded(query, result).catch((error) => (showError(error), []));
    if (shown !== query) return;
    results = [...results.slice(0, number + 1), ...inserted, ...results.slice(number + 1)];
  }
  answer = { ...answer, results };
  const open = results[number + 1]?.folded === result;
  drawResults($("results"), results, query);
  const button = $("results").children[number].querySelector(".also");
  button.textContent = open ? "hide them" : button.textContent;
  button.setAttribute("aria-expanded", open);
  makeReachable($("results"), $("results").children[number]);
  button.focus();
}

$("results").addEventListener("click", (event) => {
  const control = event.target.closest("[data-do]");
  if (!control || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // a new tab or window
  event.preventDefault();
  actions[control.dataset.do](answer.results[resultIndex($("results"), control)]);
});
handleKeys($("results"), box, {
  act: (name, number) => actions[name](answer.results[number]),
  help: () => $("help").showModal(),
  clear,
});
acceptPictures($("drop"), searchFromFile, showError);

addEventListener("popstate", (event) => {
  const before = query;
  query = readEntry(event.state);
  const search = (of) => JSON.stringify({ ...of, view: null, count: null });
  if (search(query) !== search(before) || !answer.results.length) {
    run({ scroll: event.state?.scroll, draft: event.state?.draft });
  } else { // only the viewer differs, which may have loaded more results
    query = { ...query, count: Math.max(query.count, before.count) };
    place.replace({ query }, toUrl(query));
    drawView();
  }
});

// ---- start

function randomSeed() {
  return Math.floor(Math.random() * 1e6);
}

// Return the query of an entry of the history, which may be missing.
function readEntry(state) {
  const known = emptyQuery(state?.query ?? fromUrl(location.search));
  return { ...known, seed: known.seed ?? query.seed ?? randomSeed() };
}

// The header covers what is behind it: let the browser scroll a focused result to below it.
new ResizeObserver(([entry]) => {
  const covers = getComputedStyle(entry.target).position === "sticky";
  document.documentElement.style.scrollPaddingTop = covers ? `${entry.target.offsetHeight + 12}px` : "";
}).observe(document.querySelector("header"));

async function start() {
  query = readEntry(history.state);
  history.replaceState({ ...history.state, query }, "", hasPicture(query) ? undefined : toUrl(query));
  if (isEmpty(query) && query.view === null && matchMedia("(hover: hover)").matches) box.focus();
  await Promise.all([run({ scroll: history.state.scroll, draft: history.state.draft }), describeIndex()]);
}

async function describeIndex() {
  const [collections, examples] = await Promise.all([request("api/collections"), request("api/examples")]);
  index = collections;
  drawWelcome(collections, examples.captions, (caption) => updateQuery({ box: caption, parts: [] }));
  drawQuery(box.value);
  $("copy-command").hidden = isEmpty(query) || Boolean(lookedUp(query));
}

start().catch((error) => showError(error, () => location.reload()));
