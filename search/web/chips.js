// The parts of the query as chips: sign, picture or words, weight, remove.

const template = document.getElementById("chip");

// `picture(token)` is the address of a picture that was handed in; `change(parts)` is called with the new parts.
export function drawChips(list, parts, { picture, change }) {
  const focused = [...list.children].findIndex((item) => item.contains(document.activeElement));
  const control = focused >= 0 ? [...list.children[focused].children].indexOf(document.activeElement) : -1;
  list.replaceChildren(...parts.map((part, number) => chip(part, number, parts, picture, change)));
  if (focused >= 0) {
    const item = list.children[Math.min(focused, parts.length - 1)];
    (item?.children[control] ?? document.getElementById("text")).focus();
  }
}

function chip(part, number, parts, picture, change) {
  const item = template.content.firstElementChild.cloneNode(true);
  const name = part.text ?? (part.image_id !== undefined ? `image ${part.image_id}` : "your picture");
  const put = (changed) => change(parts.map((other, place) => (place === number ? { ...part, ...changed } : other)));

  const sign = item.querySelector(".sign");
  sign.textContent = part.weight < 0 ? "−" : "+";
  sign.title = part.weight < 0 ? "Taken away: click to add" : "Added: click to take away";
  sign.setAttribute("aria-label", `${name}: ${part.weight < 0 ? "taken away, add it" : "added, take it away"}`);
  sign.addEventListener("click", () => put({ weight: -part.weight }));
  item.classList.toggle("minus", part.weight < 0);

  const shown = item.querySelector("img");
  const address = part.image_id !== undefined ? `pictures/${part.image_id}?size=360` : picture(part.picture);
  if (address) shown.src = address;
  else shown.remove();
  item.querySelector(".what").textContent = name;

  const weight = item.querySelector("select");
  const size = String(Math.abs(part.weight));
  if (![...weight.options].some((option) => option.value === size)) weight.add(new Option(`×${size}`, size));
  weight.value = size;
  weight.setAttribute("aria-label", `Weight of ${name}`);
  weight.addEventListener("change", () => put({ weight: Math.sign(part.weight) * Number(weight.value) }));

  const remove = item.querySelector(".remove");
  remove.setAttribute("aria-label", `Remove ${name}`);
  remove.addEventListener("click", () => change(parts.filter((_, place) => place !== number)));
  return item;
}
