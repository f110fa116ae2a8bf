// Put into words what is shown, what is indexed, and what to change if nothing is found.

import { describe, filtersOf, hasPicture, isEmpty, lookedUp, shorten, toRequest } from "./query.js";

const $ = (id) => document.getElementById(id);

// Say how many results are shown, of how many, and what the model did not read of the query.
export function statusText(query, answer) {
  return [countText(query, answer), ...answer.truncated.map((text) => truncatedText(query, text))].join(" ");
}

// Say that the model does not read the end of a text. A part's number is that in the request.
function truncatedText(query, { part, read, given }) {
  const text = toRequest(query).parts[part].text;
  return `The model reads only the first ${read} of the ${given.toLocaleString("en")} tokens of “${shorten(text, 40)}”.`;
}

function countText(query, { results, more, total }) {
  const count = results.filter((result) => !result.folded).length;
  const number = (value) => value.toLocaleString("en");
  if (lookedUp(query)) return describe(query);
  const words = wordsOf(query);
  const filters = [query.split && `in ${query.split}`, words.length && `with the word${words.length === 1 ? "" : "s"} “${words.join(" ")}”`].filter(Boolean);
  const noun = (amount) => `${query.to === "captions" && !isEmpty(query) ? "caption" : "photo"}${amount === 1 ? "" : "s"}`;
  if (isEmpty(query)) {
    if (!results.length) return filters.length ? `No ${noun(0)} ${filters.join(", ")}.` : "There are no photos in this data set yet.";
    const shown = total === null ? `${number(count)} ${noun(count)}` : `${number(count)} of ${number(total)} ${noun(total)}`;
    return [[shown, ...filters].join(" "), "at random"].join(", ");
  }
  const wanted = [`for ${describe(query)}`, ...filters].join(", ");
  if (!results.length) return `No ${noun(0)} ${wanted}.`;
  const counted = total === null || total === count ? `${more ? "The nearest " : ""}${number(count)} ${noun(count)}` : `${number(count)} of ${number(total)} ${noun(total)}`;
  const unshared = hasPicture(query) ? " Your picture is not part of this page's address, so the link does not share it." : "";
  return `${counted} ${wanted}${query.to === "captions" ? ", the best of each photo" : ""}${unshared ? "." : ""}${unshared}`;
}

function wordsOf(query) {
  return query.contains.trim().split(/\s+/).filter(Boolean);
}

export function titleText(query) {
  const text = isEmpty(query) ? "" : query.parts.length ? describe(query) : query.box.trim();
  return text ? `${shorten(text)} · coco-search` : "coco-search";
}

// Offer to remove filters, with buttons that call `submit` with a changed query; return whether there are any.
export function drawRemedies(section, query, submit) {
  const words = wordsOf(query);
  const remedies = words.length > 1 ? words.map((word, place) => [`Without the word “${word}”`, { contains: words.filter((_, other) => other !== place).join(" ") }]) : [];
  if (words.length) remedies.push([words.length > 1 ? "Without all these words" : `Without the word “${words[0]}”`, { contains: "" }]);
  if (query.split) remedies.push(["In all splits", { split: "" }]);
  const filters = filtersOf(query);
  if (filters.length > 1) remedies.push(["Without any filter", Object.fromEntries(filters.map(([name]) => [name, ""]))]);
  section.querySelector("ul").replaceChildren(
    ...remedies.map(([label, changes]) => {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "pill", textContent: label });
      button.addEventListener("click", () => submit(changes));
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
  return remedies.length > 0;
}

// Describe the data set and its model, offer examples, and hide the options that it has no use for.
export function drawWelcome({ dataset, collections }, examples, onExample) {
  const [images, captions] = collections;
  const count = (amount, noun) => `${amount.toLocaleString("en")} ${noun}${amount === 1 ? "" : "s"}`;
  const hasCaptions = Boolean(captions?.points);
  for (const name of Object.keys(images.splits)) {
    if (![...$("split").options].some((option) => option.value === name)) $("split").add(new Option(name, name));
  }
  $("to").hidden = $("contains-field").hidden = $("evidence").parentElement.hidden = !hasCaptions;
  $("split-field").hidden = Object.keys(images.splits).length < 2;
  $("about").textContent =
    `${count(images.points, "photo")}${hasCaptions ? ` and ${count(captions.points, "caption")}` : ""} of ${dataset}, ` +
    `embedded by ${images.model_name}. Describe a photo, ${examples.length ? "drop or paste a picture, or try:" : "or drop or paste a picture."}`;
  for (const caption of examples) {
    const button = Object.assign(document.createElement("button"), { type: "button", className: "pill", textContent: caption });
    button.addEventListener("click", () => onExample(caption));
    const item = document.createElement("li");
    item.append(button);
    $("examples").append(item);
  }
}
