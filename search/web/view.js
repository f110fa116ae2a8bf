// Show the photo that the address names in the viewer, and keep address and history in step with it.

import { actions } from "./actions.js";
import { image } from "./api.js";
import { focusResult } from "./keyboard.js";
import { shorten } from "./query.js";
import { titleOf } from "./results.js";
import { loadMore } from "./search.js";
import { $, amend, answer, box, go, place, query, setQuery, showError } from "./state.js";
import { createViewer } from "./viewer.js";
import { titleText } from "./wording.js";

export let viewed = null; // the result in the viewer

const viewer = createViewer($("view"), { onStep: step, onAction: (name, result) => actions[name](result), onClose: leaveView });

// Show the photo that the address names; it may not be among the results.
export async function drawView() {
  if (query.view === null) {
    closeView();
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

export function view(result) {
  go({ ...query, view: result.image_id }, { draft: box.value, scroll: scrollY, opened: true });
  place.ready(true);
  drawView();
}

async function step(by) {
  const number = answer.results.indexOf(viewed) + by;
  if (number === answer.results.length && !(answer.more && (await loadMore()))) return;
  if (!answer.results[number] || query.view === null) return;
  amend({ view: answer.results[number].image_id });
  drawView();
}

// Return to the results: by Back, if the viewer was opened from them, so that Forward opens it again.
function leaveView() {
  const number = answer.results.indexOf(viewed);
  viewed = null;
  document.title = titleText(query);
  if (query.view === null) return number >= 0 && document.activeElement === document.body ? focusResult($("results"), number) : undefined;
  if (history.state?.opened) {
    setQuery({ ...query, view: null });
    history.back();
  } else amend({ view: null });
  if (number >= 0) focusResult($("results"), number);
}

export function closeView() {
  if (viewer.isOpen) viewer.close();
}
