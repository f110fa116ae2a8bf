// Show the parts of the query as chips: sign, picture or text, weight, button to remove.

import { nameOf } from "./query.js";

const template = document.getElementById("chip");

// `pictureUrl(token)` returns the URL of an uploaded picture; `onChange(parts)` is called with the new parts.
export function drawChips(list, parts, { pictureUrl, onChange }) {
  // The chips are rebuilt: keep the focus on the same control.
  const focused = [...list.children].findIndex((item) => item.contains(document.activeElement));
  const control = focused >= 0 ? [...list.children[focused].children].indexOf(document.activeElement) : -1;
  list.replaceChildren(...parts.map((part, index) => createChip(part, index, parts, pictureUrl, onChange)));
  if (focused >= 0) {
    const item = list.children[Math.min(focused, parts.length - 1)];
    (item?.children[control] ?? document.getElementById("text")).focus();
  }
}

function createChip(part, index, parts, pictureUrl, onChange) {
  const item = template.content.firstElementChild.cloneNode(true);
  const name = nameOf(part);
  const update = (changes) => onChange(parts.map((other, place) => (place === index ? { ...part, ...changes } : other)));

  const sign = item.querySelector(".sign");
  sign.textContent = part.weight < 0 ? "−" : "+";
  sign.title = part.weight < 0 ? "Subtracted: click to add" : "Added: click to subtract";
  sign.setAttribute("aria-label", `${name}: ${part.weight < 0 ? "subtracted, click to add" : "added, click to subtract"}`);
  sign.addEventListener("click", () => update({ weight: -part.weight }));
  item.classList.toggle("minus", part.weight < 0);

  const image = item.querySelector("img");
  const url = part.image_id !== undefined ? `pictures/${part.image_id}?size=360` : pictureUrl(part.picture);
  image.addEventListener("error", () => image.remove()); // the browser may not show what it can send
  if (url) image.src = url;
  else image.remove();
  item.querySelector(".what").textContent = name;
  item.querySelector(".what").title = part.name ?? "";

  const weight = item.querySelector("select");
  const size = String(Math.abs(part.weight));
  if (![...weight.options].some((option) => option.value === size)) weight.add(new Option(`×${size}`, size));
  weight.value = size;
  weight.setAttribute("aria-label", `Weight of ${name}`);
  weight.addEventListener("change", () => update({ weight: Math.sign(part.weight) * Number(weight.value) }));

  const remove = item.querySelector(".remove");
  remove.setAttribute("aria-label", `Remove ${name}`);
  remove.addEventListener("click", () => onChange(parts.filter((_, place) => place !== index)));
  return item;
}
