// The results: a grid of photos or a list of captions, how the arrow keys move in it, and one photo in full.

const template = document.getElementById("result");

// Shows `results` after the first `offset` ones, which stay. All words of captions are set as text, never as HTML.
export function drawResults(list, results, to, offset = 0) {
  list.className = to;
  const items = results.map((result, number) => item(result, offset + number === 0));
  list.replaceChildren(...[...list.children].slice(0, offset), ...items);
}

function item(result, first) {
  const made = template.content.firstElementChild.cloneNode(true);
  const image = made.querySelector("img");
  image.alt = result.text || `image ${result.image_id}`;
  image.srcset = `${picture(result, 360)} 360w, ${picture(result, 720)} 720w`;
  image.sizes = "(max-width: 600px) 50vw, 260px";
  image.src = picture(result, 360);
  image.addEventListener("error", () => made.classList.add("lost"));
  made.querySelector(".caption").textContent = result.text;
  const others = result.captions.filter((caption) => caption !== result.text);
  made.querySelector(".others").replaceChildren(...others.map((caption) => line("span", caption)));
  const also = result.also.length ? ` · and ${result.also.length} more` : "";
  made.querySelector(".score").textContent = result.score.toFixed(3) + also;
  for (const button of made.querySelectorAll("button")) {
    button.tabIndex = first ? 0 : -1;
    if (button.dataset.do !== "from") button.setAttribute("aria-label", `${button.title}: ${result.text}`);
  }
  return made;
}

// The address of a result's picture, relative to the page's.
function picture(result, size) {
  return `.${result.picture}&size=${size}`;
}

function line(kind, text) {
  return Object.assign(document.createElement(kind), { textContent: text });
}

// How many results stand side by side.
export function columns(list) {
  const tops = [...list.children].map((each) => each.offsetTop);
  return Math.max(1, tops.filter((top) => top === tops[0]).length);
}

// The number of the result that a key leads to: -1 is above the first row, null is nowhere.
export function neighbour(key, here, count, wide) {
  const next = {
    ArrowLeft: here - 1,
    ArrowRight: here + 1,
    ArrowUp: here < wide ? -1 : here - wide,
    ArrowDown: here + wide,
    Home: 0,
    End: count - 1,
  }[key];
  if (next === undefined || next >= count || (next < 0 && key !== "ArrowUp")) return null;
  return next;
}

// The dialog with one photo; the arrow keys show its neighbours.
export function viewer(dialog, act) {
  let results = [];
  let here = 0;

  function draw() {
    const result = results[here];
    const image = dialog.querySelector("img");
    image.alt = result.text;
    image.src = picture(result, 1600);
    dialog.querySelector("h2").textContent = result.text;
    const others = result.captions.filter((caption) => caption !== result.text);
    dialog.querySelector(".captions").replaceChildren(...others.map((caption) => line("li", caption)));
    dialog.querySelector(".facts").textContent =
      `image ${result.image_id} · split ${result.split} · similarity ${result.score.toFixed(3)} · ${result.rank} of ${results.length} shown`;
  }

  dialog.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !results[here + step]) return;
    event.preventDefault();
    here += step;
    draw();
  });
  dialog.addEventListener("click", (event) => {
    const wish = event.target === dialog ? "close" : event.target.closest("button")?.dataset.do;
    if (!wish) return;
    dialog.close();
    if (wish !== "close") act[wish](results[here]);
  });
  return {
    open(shown, number) {
      results = shown;
      here = number;
      draw();
      dialog.showModal();
    },
  };
}
