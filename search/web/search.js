// Search: change the query, fetch its results, and show both.

import { NOTHING, fetchAnswer } from "./answers.js";
import { drawChips } from "./chips.js";
import { focusResult } from "./keyboard.js";
import { pictureUrl } from "./pictures.js";
import { CAPTIONS_WEIGHT, FILTER_NAMES, HALFWAY, PAGE_SIZE, SAME_PHOTO, filtersOf, isEmpty, lookedUp, takesEvidence } from "./query.js";
import { drawResults } from "./results.js";
import { $, amend, answer, box, go, place, query, setAnswer, showError } from "./state.js";
import { closeView, drawView } from "./view.js";
import { drawRemedies, statusText, titleText } from "./wording.js";

export const SWITCHES = { cutoff: HALFWAY, fold: SAME_PHOTO, evidence: CAPTIONS_WEIGHT }; // the value of each check box
let running = null; // the AbortController of the current search

// Change the query, add it to the history, and search. `keep` the number of results and the place; `keepText` in the
// box that has not been sent; if it is `sent` now, it is not remembered for Back.
export function updateQuery(changes, { keep = false, keepText = keep, sent = false, focus = null } = {}) {
  const draft = keepText && box.value.trim() !== query.box.trim() ? box.value : null;
  go({ ...query, count: keep ? query.count : PAGE_SIZE, ...changes, view: null }, { draft }, sent ? { draft: null } : {});
  closeView();
  return run({ scroll: keep ? scrollY : 0, draft, focus });
}

// Search with the text in the box, which may not have been submitted yet, and with changed options.
export function submit(changes = {}) {
  const filters = Object.fromEntries(FILTER_NAMES.map((name) => [name, $(name).value]));
  return updateQuery({ box: box.value.trim(), ...filters, ...changes }, { sent: true });
}

// Fetch and show the results of the query; then `scroll` to a place and `focus` the result with this index.
export async function run({ scroll = 0, draft = null, focus = null } = {}) {
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
    setAnswer({ ...rest, results: [...(kept ? answer.results : []), ...rest.results] });
    drawAnswer(answer.results.length - rest.results.length);
    return true;
  } catch (error) {
    if (controller !== running || error.name === "AbortError") return false;
    showError(error, retry);
    if (!kept) {
      setAnswer(NOTHING);
      drawAnswer(0);
      $("nothing").hidden = error.status !== 422 || !drawRemedies($("nothing"), query, submit);
      $("status").textContent = "";
    } else place.ready(true); // the results that are shown are still those of the query
    return false;
  } finally {
    if (controller === running) setBusy(false);
  }
}

// Show the answer; the first `kept` results are there already.
export function drawAnswer(kept) {
  const { results, more } = answer;
  const searched = !isEmpty(query) && !lookedUp(query);
  drawResults($("results"), results, query, kept);
  $("more").hidden = !more;
  $("welcome").hidden = !isEmpty(query);
  $("shuffle").hidden = !isEmpty(query) || !(more || results.length > PAGE_SIZE);
  $("share").hidden = isEmpty(query);
  $("copy-command").hidden = !searched;
  $("nothing").hidden = results.length > 0 || !drawRemedies($("nothing"), query, submit);
  $("status").textContent = statusText(query, answer);
}

export async function loadMore() {
  const before = answer.results.length;
  const count = answer.results.filter((result) => !result.folded).length;
  if (!(await load(count, count + PAGE_SIZE, loadMore))) return false;
  amend({ count: count + PAGE_SIZE });
  place.ready(true);
  return answer.results.length > before;
}

export function setBusy(busy) {
  $("progress").hidden = !busy;
  $("results").setAttribute("aria-busy", busy);
  $("more").disabled = busy;
}

export function drawQuery(draft) {
  const text = draft ?? query.box;
  if (box.value.trim() !== text.trim()) box.value = text;
  drawChips($("chips"), query.parts, { pictureUrl, onChange: (parts) => updateQuery({ parts }, { keep: true }) });
  document.querySelector(`[name=to][value=${query.to}]`).checked = true;
  const split = $("split");
  if (query.split && ![...split.options].some((option) => option.value === query.split)) {
    split.add(new Option(query.split, query.split));
  }
  for (const name of FILTER_NAMES) $(name).value = query[name];
  for (const name of Object.keys(SWITCHES)) $(name).checked = query[name] !== null;
  $("evidence").disabled = !takesEvidence(query);
  const filters = filtersOf(query).length + Object.keys(SWITCHES).filter((name) => query[name] !== null).length;
  $("filters-button").textContent = filters ? `Filters (${filters})` : "Filters";
  $("clear").hidden = isEmpty(query) && !filters;
  drawBoxButtons();
  document.title = titleText(query);
}

export function drawBoxButtons() {
  $("add-text").hidden = $("subtract-text").hidden = !box.value.trim();
}
