// Show the results as a grid of photos or a list of captions, with arrow-key navigation, and one photo in full.

const template = document.getElementById("result");

// Show `results` after the first `offset` items, which stay. Captions are set as text, never as HTML.
export function drawResults(list, results, to, offset = 0) {
  list.className = to;
  const items = results.map((result, index) => createItem(result, offset + index === 0));
  list.replaceChildren(...[...list.children].slice(0, offset), ...items);
}

function createItem(result, isFirst) {
  const item = template.content.firstElementChild.cloneNode(true);
  const image = item.querySelector("img");
  image.alt = result.text || `image ${result.image_id}`;
  image.srcset = `${photoUrl(result, 360)} 360w, ${photoUrl(result, 720)} 720w`;
  image.sizes = "(max-width: 600px) 50vw, 260px";
  image.src = photoUrl(result, 360);
  image.addEventListener("error", () => item.classList.add("lost"));
  item.querySelector(".caption").textContent = result.text;
  const others = result.captions.filter((caption) => caption !== result.text);
  item.querySelector(".others").replaceChildren(...others.map((caption) => textElement("span", caption)));
  const also = result.also.length ? ` · and ${result.also.length} more` : "";
  item.querySelector(".score").textContent = result.score.toFixed(3) + also;
  for (const button of item.querySelectorAll("button")) {
    button.tabIndex = isFirst ? 0 : -1;
    if (button.dataset.do !== "from") button.setAttribute("aria-label", `${button.title}: ${result.text}`);
  }
  return item;
}

// Return the URL of a result's photo, relative to the page's.
function photoUrl(result, size) {
  return `.${result.picture}&size=${size}`;
}

function textElement(tag, text) {
  return Object.assign(document.createElement(tag), { textContent: text });
}

// Return how many results are side by side.
export function countColumns(list) {
  const tops = [...list.children].map((item) => item.offsetTop);
  return Math.max(1, tops.filter((top) => top === tops[0]).length);
}

// Return the index that a key moves to from `current`: -1 above the first row, null if the key does not move.
export function indexAfterKey(key, current, count, columns) {
  const next = {
    ArrowLeft: current - 1,
    ArrowRight: current + 1,
    ArrowUp: current < columns ? -1 : current - columns,
    ArrowDown: current + columns,
    Home: 0,
    End: count - 1,
  }[key];
  if (next === undefined || next >= count || (next < 0 && key !== "ArrowUp")) return null;
  return next;
}

// Set up the dialog with one photo, where the arrow keys move to its neighbours. `actions` are called with a result.
export function createViewer(dialog, actions) {
  let results = [];
  let current = 0;

  function draw() {
    const result = results[current];
    const image = dialog.querySelector("img");
    image.alt = result.text;
    image.src = photoUrl(result, 1600);
    dialog.querySelector("h2").textContent = result.text;
    const others = result.captions.filter((caption) => caption !== result.text);
    dialog.querySelector(".captions").replaceChildren(...others.map((caption) => textElement("li", caption)));
    dialog.querySelector(".facts").textContent =
      `image ${result.image_id} · split ${result.split} · ${scoreText(result)} · ${result.rank} of ${results.length} shown`;
  }

  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !results[current + step]) return;
    event.preventDefault();
    current += step;
    draw();
  });
  dialog.addEventListener("click", (event) => {
    const action = event.target === dialog ? "close" : event.target.closest("button")?.dataset.do;
    if (!action) return;
    dialog.close();
    if (action !== "close") actions[action](results[current]);
  });
  return {
    open(shownResults, index) {
      results = shownResults;
      current = index;
      draw();
      dialog.showModal();
    },
  };
}

// The score, and the similarities that it was made of, if it is not the photo's alone.
function scoreText(result) {
  const { score, cosine, caption_cosine: caption } = result;
  if (score === cosine) return `similarity ${cosine.toFixed(3)}`;
  const ofCaption = caption === null ? "" : ` and of the caption ${caption.toFixed(3)}`;
  return `score ${score.toFixed(3)}, similarity of the photo ${cosine.toFixed(3)}${ofCaption}`;
}
