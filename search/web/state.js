// The query and the answer that the page shows, with the place of both in the history.

import { NOTHING } from "./answers.js";
import { createPlace } from "./place.js";
import { emptyQuery, fromUrl, toUrl } from "./query.js";

export const $ = (id) => document.getElementById(id);
export const box = $("text");
export const place = createPlace(() => ({ query, draft: box.value, scroll: scrollY }));

export let query = emptyQuery();
export let answer = NOTHING;

export function setQuery(changed) {
  query = changed;
}

export function setAnswer(changed) {
  answer = changed;
}

// Add an entry with another query to the history, after saving the place in the present one; `left` changes that.
export function go(next, state, left = {}) {
  place.push({ query: next, ...state }, toUrl(next), left);
  query = next;
}

// Change the query of the present entry, which shows the same results.
export function amend(changes) {
  query = { ...query, ...changes };
  place.replace({ query }, toUrl(query));
}

// Return the query of an entry of the history, which may be missing.
export function readEntry(state) {
  const known = emptyQuery(state?.query ?? fromUrl(location.search));
  return { ...known, seed: known.seed ?? query.seed ?? randomSeed() };
}

export function randomSeed() {
  return Math.floor(Math.random() * 1e6);
}

// Show an error in front of everything, with a button if `retry` is given.
export function showError(error, retry) {
  const dialog = document.querySelector("dialog[open] .about");
  if (dialog) dialog.prepend($("error"));
  else $("results").before($("error"));
  $("error").hidden = false;
  $("error").querySelector("p").textContent = error.message;
  const button = $("error").querySelector("button");
  button.hidden = !retry;
  button.onclick = () => {
    $("error").hidden = true;
    retry();
  };
}
