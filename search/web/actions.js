// What the links and buttons of a result do, here and in the viewer.

import { fetchFolded } from "./answers.js";
import { makeReachable, resultIndex } from "./keyboard.js";
import { drawResults, searchFrom } from "./results.js";
import { updateQuery } from "./search.js";
import { copyFrom } from "./share.js";
import { $, answer, query, setAnswer, showError } from "./state.js";
import { view, viewed } from "./view.js";

const MAX_PARTS = 16; // the API's limit

const viewButton = (name) => $("view").querySelector(`[data-do=${name}]`);

// By the `data-do` attributes of links and buttons.
export const actions = {
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
  const isOpen = () => answer.results.some((each) => each.folded === result);
  let inserted = [];
  if (!isOpen()) {
    const shown = query;
    inserted = await fetchFolded(query, result).catch((error) => (showError(error), []));
    if (shown !== query || isOpen()) return; // clicked twice
  }
  const results = answer.results.filter((each) => each.folded !== result);
  const number = results.indexOf(result);
  results.splice(number + 1, 0, ...inserted);
  setAnswer({ ...answer, results });
  drawResults($("results"), results, query);
  const item = $("results").children[number];
  makeReachable($("results"), item);
  item.querySelector(".also").focus();
}

function addResult(result, weight) {
  const part = result.kind === "caption" ? { text: result.text, weight } : { image_id: result.image_id, weight };
  const focused = viewed ? answer.results.indexOf(viewed) : resultIndex($("results"), document.activeElement);
  addParts([part], {}, { keep: true, focus: focused < 0 ? null : focused });
}

// Add parts in place of equal ones, whose weight may differ.
export function addParts(parts, changes, options) {
  const same = (one, other) => ["text", "image_id", "picture"].every((name) => one[name] === other[name]);
  const others = query.parts.filter((other) => !parts.some((part) => same(part, other)));
  const count = others.length + parts.length + 1; // with the text in the box
  if (count > MAX_PARTS) return showError(new Error(`A query has at most ${MAX_PARTS} parts: remove one first.`));
  updateQuery({ parts: [...others, ...parts], ...changes }, options);
}

export function offerCopy(button, text) {
  copyFrom(button, text, $("notice")).catch((error) => showError(error));
}
