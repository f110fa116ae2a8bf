// The page: shows the query and its results, and turns clicks and keys into the next query.

import {
  HALFWAY,
  SAME_PHOTO,
  ask,
  emptyQuery,
  fromAddress,
  handIn,
  hasPicture,
  isEmpty,
  search,
  toAddress,
} from "./query.js";
import { drawChips } from "./chips.js";
import { columns, drawResults, neighbour, viewer } from "./results.js";

const $ = (id) => document.getElementById(id);
const box = $("text");
const SWITCHES = { cutoff: HALFWAY, fold: SAME_PHOTO }; // the value that each check box stands for
const pictures = new Map(); // token -> {file, address}: what was handed in on this page

let query = emptyQuery();
let found = []; // the results shown
let running = null; // the AbortController of the search under way

// ---- searching

// Makes `changes` to the query, remembers it in the history, and searches.
function go(changes) {
  query = { ...query, ...changes };
  history.pushState(query, "", toAddress(query));
  show();
}

async function show() {
  drawQuery();
  running?.abort();
  $("error").hidden = true;
  if (isEmpty(query)) {
    running = null;
    busy(false);
    found = [];
    drawResults($("results"), found, query.to);
    $("status").textContent = "";
    $("more").hidden = true;
    $("welcome").hidden = false;
    return;
  }
  $("welcome").hidden = true;
  await fetchResults(0);
}

async function fetchResults(offset) {
  const mine = (running = new AbortController());
  busy(true);
  try {
    const answer = await searchAgain(offset, mine.signal);
    if (mine !== running) return;
    found = offset ? [...found, ...answer.results] : answer.results;
    drawResults($("results"), answer.results, query.to, offset);
    $("more").hidden = !answer.more;
    $("status").textContent = said(answer.more);
    if (!offset) window.scrollTo({ top: 0 });
  } catch (error) {
    if (mine !== running || error.name === "AbortError") return;
    fail(error, () => fetchResults(offset));
    if (!offset) {
      found = [];
      drawResults($("results"), found, query.to);
      $("more").hidden = true;
      $("status").textContent = "";
    }
  } finally {
    if (mine === running) busy(false);
  }
}

// Searches; a picture that the server has forgotten meanwhile is handed in again.
async function searchAgain(offset, signal) {
  try {
    return await search(query, offset, signal);
  } catch (error) {
    const mine = query.parts.map((part) => pictures.get(part.picture)).filter(Boolean);
    if (error.status !== 404 || !mine.length) throw error;
    for (const { file } of mine) await handIn(file);
    return search(query, offset, signal);
  }
}

function said(more) {
  const things = query.to === "captions" ? "caption" : "photo";
  if (!found.length) return `No ${things} fits${query.split || query.contains ? ": the filters leave nothing" : ""}.`;
  const count = `${more ? "The nearest " : ""}${found.length.toLocaleString("en")} ${things}${found.length > 1 ? "s" : ""}`;
  return hasPicture(query) ? `${count}. The address leaves out your own picture: it is not shared.` : count;
}

function busy(is) {
  $("progress").hidden = !is;
  $("results").setAttribute("aria-busy", is);
  $("more").disabled = is;
}

function fail(error, again) {
  $("error").hidden = false;
  $("error").querySelector("p").textContent = error.message;
  const button = $("error").querySelector("button");
  button.hidden = !again;
  button.onclick = () => {
    $("error").hidden = true;
    again();
  };
}

// ---- changing the query

function from(result) {
  if (result.kind === "caption") go({ box: result.text, parts: [] });
  else go({ box: "", parts: [{ image_id: result.image_id, weight: 1 }] });
}

function add(result, weight) {
  const part = result.kind === "caption" ? { text: result.text, weight } : { image_id: result.image_id, weight };
  addPart(part);
}

// A part that is there already only changes its sign.
function addPart(part, changes = {}) {
  const same = (other) => ["text", "image_id", "picture"].every((name) => other[name] === part[name]);
  const others = query.parts.filter((other) => !same(other));
  if (others.length > 14) return fail(new Error("A query has at most 16 parts."));
  go({ parts: [...others, part], ...changes });
}

function addText(weight) {
  const text = box.value.trim();
  if (text) addPart({ text, weight }, { box: "" });
  box.focus();
}

async function withPicture(file) {
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) return fail(new Error(`${file.name} is not a picture.`));
  busy(true);
  try {
    const picture = await handIn(file);
    if (!pictures.has(picture)) pictures.set(picture, { file, address: URL.createObjectURL(file) });
    go({ box: "", parts: [{ picture, weight: 1 }] });
  } catch (error) {
    busy(false);
    fail(error);
  }
}

function clear() {
  go(emptyQuery({ to: query.to }));
  box.focus();
}

// ---- showing the query

function drawQuery() {
  if (box.value.trim() !== query.box.trim()) box.value = query.box;
  drawChips($("chips"), query.parts, {
    picture: (token) => pictures.get(token)?.address,
    change: (parts) => go({ parts }),
  });
  document.querySelector(`[name=to][value=${query.to}]`).checked = true;
  const split = $("split");
  if (query.split && ![...split.options].some((option) => option.value === query.split)) {
    split.add(new Option(query.split, query.split));
  }
  split.value = query.split;
  $("contains").value = query.contains;
  for (const name of Object.keys(SWITCHES)) $(name).checked = query[name] !== null;
  $("clear").hidden = isEmpty(query) && !query.split && !query.contains && !Object.keys(SWITCHES).some((name) => query[name] !== null);
  drawBox();
  const title = query.box.trim() || query.parts.map((part) => part.text ?? (part.image_id ? `image ${part.image_id}` : "a picture"))[0];
  document.title = title ? `${title} · coco-search` : "coco-search";
}

function drawBox() {
  const written = Boolean(box.value.trim());
  $("add-text").hidden = $("subtract-text").hidden = !written;
}

// ---- events

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const changes = { contains: $("contains").value, split: $("split").value };
  if (box.value.trim() || query.parts.length) go({ ...changes, box: box.value.trim() });
  else go({ ...changes, box: "" });
});
box.addEventListener("input", drawBox);
$("add-text").addEventListener("click", () => addText(1));
$("subtract-text").addEventListener("click", () => addText(-1));
$("file").addEventListener("change", (event) => {
  withPicture(event.target.files[0]);
  event.target.value = "";
});
for (const radio of document.querySelectorAll("[name=to]")) {
  radio.addEventListener("change", () => go({ to: radio.value, box: box.value.trim() }));
}
$("split").addEventListener("change", () => go({ split: $("split").value, box: box.value.trim() }));
$("contains").addEventListener("change", () => go({ contains: $("contains").value, box: box.value.trim() }));
for (const [name, value] of Object.entries(SWITCHES)) {
  $(name).addEventListener("change", () => go({ [name]: $(name).checked ? value : null, box: box.value.trim() }));
}
$("clear").addEventListener("click", clear);
$("help-button").addEventListener("click", () => $("help").showModal());
$("more").addEventListener("click", async () => {
  const before = found.length;
  await fetchResults(before);
  $("results").children[before]?.querySelector(".photo").focus();
});

const act = { from, add: (result) => add(result, 1), subtract: (result) => add(result, -1), view: (result) => view.open(found, found.indexOf(result)) };
const view = viewer($("view"), act);

$("results").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (button) act[button.dataset.do](found[place(button)]);
});
$("results").addEventListener("focusin", (event) => {
  for (const button of document.querySelectorAll("#results button[tabindex='0']")) button.tabIndex = -1;
  for (const button of event.target.closest("li")?.querySelectorAll("button") ?? []) button.tabIndex = 0;
});

function place(element) {
  return [...$("results").children].indexOf(element.closest("li"));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") return clear();
  const writing = event.target.matches("input[type=text], select");
  if (event.key === "ArrowDown" && event.target === box) return focusResult(event, 0);
  if (writing || event.target.matches("input[type=radio], input[type=checkbox]")) return;
  const here = $("results").contains(event.target) ? place(event.target) : -1;
  const keys = { "+": "add", "-": "subtract", "−": "subtract", v: "view" };
  if (event.key === "/") {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "?") {
    $("help").showModal();
  } else if (here >= 0 && keys[event.key]) {
    event.preventDefault();
    act[keys[event.key]](found[here]);
  } else if (here >= 0) {
    const next = neighbour(event.key, here, found.length, columns($("results")));
    if (next === -1) {
      event.preventDefault();
      box.focus();
    } else if (next !== null) focusResult(event, next);
  } else if (event.key === "ArrowDown" && event.target === document.body) focusResult(event, 0);
});

function focusResult(event, number) {
  const button = $("results").children[number]?.querySelector(".photo");
  if (!button) return;
  event.preventDefault();
  button.focus();
}

document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
  if (file) {
    event.preventDefault();
    withPicture(file);
  }
});
let inside = 0; // how many nested elements a dragged picture is over
const dragsFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragenter", (event) => {
  if (dragsFiles(event)) $("drop").hidden = ++inside === 0;
});
document.addEventListener("dragleave", (event) => {
  if (dragsFiles(event)) $("drop").hidden = --inside <= 0;
});
document.addEventListener("dragover", (event) => dragsFiles(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  inside = 0;
  $("drop").hidden = true;
  if (!dragsFiles(event)) return;
  event.preventDefault();
  withPicture(event.dataTransfer.files[0]);
});
window.addEventListener("popstate", (event) => {
  query = event.state ?? fromAddress(location.search);
  show();
});

// ---- the beginning

async function welcome() {
  const [about, examples] = await Promise.all([ask("api/collections"), ask("api/examples")]);
  const [images, captions] = about.collections;
  for (const name of Object.keys(images.splits)) {
    if (![...$("split").options].some((option) => option.value === name)) $("split").add(new Option(name, name));
  }
  const many = (count, thing) => `${count.toLocaleString("en")} ${thing}`;
  $("about").textContent =
    `${many(images.points, "photos")} and ${many(captions.points, "captions")} of ${about.dataset}. ` +
    "Describe one, drop or paste a picture, or try:";
  for (const caption of examples.captions) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: caption });
    button.addEventListener("click", () => go({ box: caption, parts: [] }));
    const item = document.createElement("li");
    item.append(button);
    $("examples").append(item);
  }
}

query = history.state ?? fromAddress(location.search);
history.replaceState(query, "", hasPicture(query) ? undefined : toAddress(query));
show();
welcome().catch((error) => fail(error, () => location.reload()));
if (isEmpty(query) && matchMedia("(hover: hover)").matches) box.focus();
