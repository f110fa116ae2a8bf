// Show the results as a grid of photos or a list of captions.

import { makeReachable } from "./keyboard.js";
import { toUrl } from "./query.js";
import { marked } from "./words.js";

const template = document.getElementById("result");

// Show `results`; the first `kept` items stay as they are. Captions are set as text, never as HTML.
export function drawResults(list, results, query, kept = 0) {
  list.className = results[0]?.kind === "caption" ? "captions" : "images";
  const open = new Set(results.map((each) => each.folded)); // results whose folded ones are shown after them
  const items = results.slice(kept).map((result) => createItem(result, query, open.has(result)));
  list.replaceChildren(...[...list.children].slice(0, kept), ...items);
  if (!list.querySelector("[tabindex='0']") && list.firstElementChild) makeReachable(list, list.firstElementChild);
}

function createItem(result, query, open) {
  const item = template.content.firstElementChild.cloneNode(true);
  const name = titleOf(result);
  item.classList.toggle("folded", Boolean(result.folded));
  const image = item.querySelector("img");
  image.alt = name;
  image.srcset = `${photoUrl(result, 360)} 360w, ${photoUrl(result, 720)} 720w`;
  image.sizes = "(max-width: 600px) 50vw, 300px";
  image.src = photoUrl(result, 360);
  image.addEventListener("error", () => item.classList.add("lost"));
  const photo = item.querySelector(".photo");
  photo.href = toUrl({ ...query, view: result.image_id });
  photo.setAttribute("aria-label", name); // also if the picture cannot be loaded
  const caption = item.querySelector(".caption");
  if (result.text) caption.replaceChildren(...marked(result.text, query.contains));
  else caption.textContent = name;
  caption.classList.toggle("file", !result.text);
  item.querySelector(".rank").textContent = result.rank === null ? "" : result.rank.toLocaleString("en");
  item.querySelector(".score").textContent = result.score === null ? "" : result.score.toFixed(3);
  const also = item.querySelector(".also");
  also.hidden = !result.also.length;
  also.textContent = open ? "hide them" : `and ${result.also.length} more`;
  also.setAttribute("aria-expanded", open);
  const from = item.querySelector("[data-do=from]");
  from.href = toUrl({ ...query, ...searchFrom(result), count: undefined, view: null });
  for (const control of item.querySelectorAll("a, button")) {
    control.tabIndex = -1;
    if (control.title) control.setAttribute("aria-label", `${control.title}: ${name}`);
  }
  return item;
}

// Return the changes to a query that search from a result instead.
export function searchFrom(result) {
  if (result.kind === "caption") return { box: result.text, parts: [] };
  return { box: "", parts: [{ image_id: result.image_id, weight: 1 }] };
}

export function titleOf(result) {
  return result.text || result.file || `image ${result.image_id}`;
}

// Return the URL of a result's photo, relative to the page's, with its longer side in pixels or in its own size.
export function photoUrl(result, size = null) {
  return `.${result.picture}${size ? `&size=${size}` : ""}`;
}

// The score, and the similarities that it was made of, if it is not the photo's alone.
export function scoreText(result) {
  const { score, cosine, caption_cosine: caption } = result;
  if (score === cosine) return score.toFixed(3);
  const ofCaption = caption === null ? "" : `, of the caption ${caption.toFixed(3)}`;
  return `${score.toFixed(3)} (similarity of the photo ${cosine.toFixed(3)}${ofCaption})`;
}
