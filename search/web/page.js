// Turn clicks and keys into the next query. The other scripts: `search` fetches and shows what `state` holds, `view`
// shows one photo, `actions` are those of a result; the rest are parts of these.

import { actions, addParts, offerCopy } from "./actions.js";
import { request } from "./api.js";
import { focusResult, handleKeys, resultIndex } from "./keyboard.js";
import { acceptPictures, addPicture } from "./pictures.js";
import { FILTER_NAMES, emptyQuery, hasPicture, idsIn, isEmpty, toUrl } from "./query.js";
import { SWITCHES, drawBoxButtons, drawQuery, loadMore, run, setBusy, submit, updateQuery } from "./search.js";
import { toCommand, toLink } from "./share.js";
import { $, amend, answer, box, place, query, randomSeed, readEntry, setQuery, showError } from "./state.js";
import { drawView } from "./view.js";
import { drawWelcome } from "./wording.js";

let index = null; // {dataset, place}, as soon as the server has told

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
for (const name of FILTER_NAMES) $(name).addEventListener("change", () => submit());
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

$("copy-link").addEventListener("click", () => offerCopy($("copy-link"), toLink(query)));
$("copy-command").addEventListener("click", () => index && offerCopy($("copy-command"), toCommand(query, index)));

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
  setQuery(readEntry(event.state));
  const search = (of) => JSON.stringify({ ...of, view: null, count: null });
  if (search(query) !== search(before) || !answer.results.length) {
    run({ scroll: event.state?.scroll, draft: event.state?.draft });
  } else { // only the viewer differs, which may have loaded more results
    amend({ count: Math.max(query.count, before.count) });
    drawView();
  }
});

// The header covers what is behind it: let the browser scroll a focused result to below it.
new ResizeObserver(([entry]) => {
  const covers = getComputedStyle(entry.target).position === "sticky";
  document.documentElement.style.scrollPaddingTop = covers ? `${entry.target.offsetHeight + 12}px` : "";
}).observe(document.querySelector("header"));

async function start() {
  setQuery(readEntry(history.state));
  history.replaceState({ ...history.state, query }, "", hasPicture(query) ? undefined : toUrl(query));
  if (isEmpty(query) && query.view === null && matchMedia("(hover: hover)").matches) box.focus();
  await Promise.all([run({ scroll: history.state.scroll, draft: history.state.draft }), describeIndex()]);
}

async function describeIndex() {
  const [collections, examples] = await Promise.all([request("api/collections"), request("api/examples")]);
  index = collections;
  drawWelcome(collections, examples.captions, (caption) => updateQuery({ box: caption, parts: [] }));
  drawQuery(box.value);
}

start().catch((error) => showError(error, () => location.reload()));
