// Show the query and its results, and turn clicks and keys into the next query.

import {
  HALFWAY,
  CAPTIONS_WEIGHT,
  SAME_PHOTO,
  emptyQuery,
  fromUrl,
  hasPicture,
  isEmpty,
  request,
  search,
  takesEvidence,
  toRequest,
  toUrl,
  upload,
} from "./query.js";
import { drawChips } from "./chips.js";
import { countColumns, createViewer, drawResults, indexAfterKey } from "./results.js";

const $ = (id) => document.getElementById(id);
const box = $("text");
const SWITCHES = { cutoff: HALFWAY, fold: SAME_PHOTO, evidence: CAPTIONS_WEIGHT }; // the value of each check box
const MAX_PARTS = 16; // the API's limit
const uploads = new Map(); // token -> {file, url}: the pictures uploaded by this page

let query = emptyQuery();
let results = []; // those shown
let running = null; // the AbortController of the current search

// ---- searching

// Change the query, add it to the history, and search.
function updateQuery(changes) {
  query = { ...query, box: box.value.trim(), ...changes }; // with the text that has not been submitted
  history.pushState(query, "", toUrl(query));
  runQuery();
}

async function runQuery() {
  drawQuery();
  running?.abort();
  $("error").hidden = true;
  if (isEmpty(query)) {
    running = null;
    setBusy(false);
    results = [];
    drawResults($("results"), results, query.to);
    $("status").textContent = "";
    $("more").hidden = true;
    $("welcome").hidden = false;
    return;
  }
  $("welcome").hidden = true;
  await fetchResults(0);
}

async function fetchResults(offset) {
  const controller = (running = new AbortController());
  setBusy(true);
  try {
    const answer = await searchWithUploads(offset, controller.signal);
    if (controller !== running) return;
    results = offset ? [...results, ...answer.results] : answer.results;
    drawResults($("results"), answer.results, query.to, offset);
    $("more").hidden = !answer.more;
    $("status").textContent = [statusText(answer.more), ...answer.truncated.map(truncatedText)].join(" ");
    if (!offset) window.scrollTo({ top: 0 });
  } catch (error) {
    if (controller !== running || error.name === "AbortError") return;
    showError(error, () => fetchResults(offset));
    if (!offset) {
      results = [];
      drawResults($("results"), results, query.to);
      $("more").hidden = true;
      $("status").textContent = "";
    }
  } finally {
    if (controller === running) setBusy(false);
  }
}

// Search; upload the pictures of the query again if the server has dropped them.
async function searchWithUploads(offset, signal) {
  try {
    return await search(query, offset, signal);
  } catch (error) {
    const uploaded = query.parts.map((part) => uploads.get(part.picture)).filter(Boolean);
    if (error.status !== 404 || !uploaded.length) throw error;
    for (const { file } of uploaded) await upload(file);
    return search(query, offset, signal);
  }
}

function statusText(more) {
  const noun = query.to === "captions" ? "caption" : "photo";
  if (!results.length) return `No ${noun}s found${query.split || query.contains ? ": try other filters" : ""}.`;
  const count = `${more ? "The nearest " : ""}${results.length.toLocaleString("en")} ${noun}${results.length > 1 ? "s" : ""}`;
  return hasPicture(query) ? `${count}. Your picture is not part of this page's address, so the link does not share it.` : count;
}

// Say that the model does not read the end of a text. A part's number is that in the request.
function truncatedText({ part, read, given }) {
  const text = toRequest(query, 0).parts[part].text;
  return `The model reads only the first ${read} of the ${given.toLocaleString("en")} tokens of “${text.slice(0, 40).trim()}…”.`;
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

function searchFrom(result) {
  if (result.kind === "caption") updateQuery({ box: result.text, parts: [] });
  else updateQuery({ box: "", parts: [{ image_id: result.image_id, weight: 1 }] });
}

function addResult(result, weight) {
  const part = result.kind === "caption" ? { text: result.text, weight } : { image_id: result.image_id, weight };
  addPart(part);
}

// Add a part in place of an equal one, whose weight may differ.
function addPart(part, changes = {}) {
  const same = (other) => ["text", "image_id", "picture"].every((name) => other[name] === part[name]);
  const others = query.parts.filter((other) => !same(other));
  const count = others.length + 2; // with the new part and the text in the box
  if (count > MAX_PARTS) return showError(new Error(`A query has at most ${MAX_PARTS} parts: remove one first.`));
  updateQuery({ parts: [...others, part], ...changes });
}

function addText(weight) {
  const text = box.value.trim();
  if (text) addPart({ text, weight }, { box: "" });
  box.focus();
}

async function searchFromFile(file) {
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) return showError(new Error(`${file.name} is not a picture. Choose a JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF file.`));
  setBusy(true);
  try {
    const picture = await upload(file);
    if (!uploads.has(picture)) uploads.set(picture, { file, url: URL.createObjectURL(file) });
    updateQuery({ box: "", parts: [{ picture, weight: 1 }] });
  } catch (error) {
    setBusy(false);
    showError(error);
  }
}

function clear() {
  updateQuery(emptyQuery({ to: query.to }));
  box.focus();
}

// ---- showing the query

function drawQuery() {
  if (box.value.trim() !== query.box.trim()) box.value = query.box;
  drawChips($("chips"), query.parts, {
    pictureUrl: (token) => uploads.get(token)?.url,
    onChange: (parts) => updateQuery({ parts }),
  });
  document.querySelector(`[name=to][value=${query.to}]`).checked = true;
  const split = $("split");
  if (query.split && ![...split.options].some((option) => option.value === query.split)) {
    split.add(new Option(query.split, query.split));
  }
  split.value = query.split;
  $("contains").value = query.contains;
  for (const name of Object.keys(SWITCHES)) $(name).checked = query[name] !== null;
  $("evidence").disabled = !takesEvidence(query);
  $("clear").hidden = isEmpty(query) && !query.split && !query.contains && !Object.keys(SWITCHES).some((name) => query[name] !== null);
  drawBoxButtons();
  const title = query.box.trim() || query.parts.map((part) => part.text ?? (part.image_id ? `image ${part.image_id}` : "a picture"))[0];
  document.title = title ? `${title} · coco-search` : "coco-search";
}

function drawBoxButtons() {
  $("add-text").hidden = $("subtract-text").hidden = !box.value.trim();
}

// ---- events

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  updateQuery({ contains: $("contains").value, split: $("split").value });
});
box.addEventListener("input", drawBoxButtons);
$("add-text").addEventListener("click", () => addText(1));
$("subtract-text").addEventListener("click", () => addText(-1));
$("file").addEventListener("change", (event) => {
  searchFromFile(event.target.files[0]);
  event.target.value = "";
});
for (const radio of document.querySelectorAll("[name=to]")) {
  radio.addEventListener("change", () => updateQuery({ to: radio.value }));
}
$("split").addEventListener("change", () => updateQuery({ split: $("split").value }));
$("contains").addEventListener("change", () => updateQuery({ contains: $("contains").value }));
for (const [name, value] of Object.entries(SWITCHES)) {
  $(name).addEventListener("change", () => updateQuery({ [name]: $(name).checked ? value : null }));
}
$("clear").addEventListener("click", clear);
$("help-button").addEventListener("click", () => $("help").showModal());
$("more").addEventListener("click", async () => {
  const before = results.length;
  await fetchResults(before);
  $("results").children[before]?.querySelector(".photo").focus();
});

// By the `data-do` attributes of buttons.
const actions = {
  from: searchFrom,
  add: (result) => addResult(result, 1),
  subtract: (result) => addResult(result, -1),
  view: (result) => viewer.open(results, results.indexOf(result)),
};
const viewer = createViewer($("view"), actions);

$("results").addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do]");
  if (button) actions[button.dataset.do](results[resultIndex(button)]);
});
$("results").addEventListener("focusin", (event) => {
  for (const button of document.querySelectorAll("#results button[tabindex='0']")) button.tabIndex = -1;
  for (const button of event.target.closest("li")?.querySelectorAll("button") ?? []) button.tabIndex = 0;
});

function resultIndex(element) {
  return [...$("results").children].indexOf(element.closest("li"));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") return clear();
  const typing = event.target.matches("input[type=text], select");
  if (event.key === "ArrowDown" && event.target === box) return focusResult(event, 0);
  if (typing || event.target.matches("input[type=radio], input[type=checkbox]")) return;
  const current = $("results").contains(event.target) ? resultIndex(event.target) : -1;
  const keys = { "+": "add", "-": "subtract", "−": "subtract", v: "view" };
  if (event.key === "/") {
    event.preventDefault();
    box.focus();
    box.select();
  } else if (event.key === "?") {
    $("help").showModal();
  } else if (current >= 0 && keys[event.key]) {
    event.preventDefault();
    actions[keys[event.key]](results[current]);
  } else if (current >= 0) {
    const next = indexAfterKey(event.key, current, results.length, countColumns($("results")));
    if (next === -1) {
      event.preventDefault();
      box.focus();
    } else if (next !== null) focusResult(event, next);
  } else if (event.key === "ArrowDown" && event.target === document.body) focusResult(event, 0);
});

function focusResult(event, index) {
  const button = $("results").children[index]?.querySelector(".photo");
  if (!button) return;
  event.preventDefault();
  button.focus();
}

document.addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find((candidate) => candidate.type.startsWith("image/"));
  if (file) {
    event.preventDefault();
    searchFromFile(file);
  }
});
let dragDepth = 0; // nested elements that a dragged picture is over: each fires its own dragenter and dragleave
const dragsFiles = (event) => event.dataTransfer?.types.includes("Files");
document.addEventListener("dragenter", (event) => {
  if (dragsFiles(event)) $("drop").hidden = ++dragDepth === 0;
});
document.addEventListener("dragleave", (event) => {
  if (dragsFiles(event)) $("drop").hidden = --dragDepth <= 0;
});
document.addEventListener("dragover", (event) => dragsFiles(event) && event.preventDefault());
document.addEventListener("drop", (event) => {
  dragDepth = 0;
  $("drop").hidden = true;
  if (!dragsFiles(event)) return;
  event.preventDefault();
  searchFromFile(event.dataTransfer.files[0]);
});
window.addEventListener("popstate", (event) => {
  query = emptyQuery(event.state ?? fromUrl(location.search));
  runQuery();
});

// ---- start

async function drawWelcome() {
  const [{ dataset, collections }, examples] = await Promise.all([request("api/collections"), request("api/examples")]);
  const [images, captions] = collections;
  for (const name of Object.keys(images.splits)) {
    if (![...$("split").options].some((option) => option.value === name)) $("split").add(new Option(name, name));
  }
  const formatCount = (count, noun) => `${count.toLocaleString("en")} ${noun}`;
  $("about").textContent =
    `${formatCount(images.points, "photos")} and ${formatCount(captions?.points ?? 0, "captions")} of ${dataset}. ` +
    `Describe a photo, ${examples.captions.length ? "drop or paste a picture, or try:" : "or drop or paste a picture."}`;
  for (const caption of examples.captions) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: caption });
    button.addEventListener("click", () => updateQuery({ box: caption, parts: [] }));
    const item = document.createElement("li");
    item.append(button);
    $("examples").append(item);
  }
}

query = emptyQuery(history.state ?? fromUrl(location.search)); // the state may be of an older page
history.replaceState(query, "", hasPicture(query) ? undefined : toUrl(query));
runQuery();
drawWelcome().catch((error) => showError(error, () => location.reload()));
if (isEmpty(query) && matchMedia("(hover: hover)").matches) box.focus();
