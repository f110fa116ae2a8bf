// Show one photo in full: zoom, all captions, where it is from; move to its neighbours.

import { photoUrl, scoreText, titleOf } from "./results.js";
import { marked } from "./words.js";

const SWIPE = 50; // pixels

// Set up the dialog. `handlers`: `onStep(by)` moves to a neighbour, `onAction(name)` is called for other buttons,
// `onClose()` after it was closed.
export function createViewer(dialog, handlers) {
  const $ = (selector) => dialog.querySelector(selector);
  const frame = $(".frame");
  const image = $(".frame img");
  let result = null;

  function draw(shown, { previous, next, position, contains }) {
    const isNew = shown !== result;
    result = shown;
    if (isNew) {
      zoom(false);
      drawPhoto();
    }
    $("[data-do=previous]").setAttribute("aria-disabled", !previous); // a disabled button would lose the focus
    $("[data-do=next]").setAttribute("aria-disabled", !next);
    $("h2").replaceChildren(...marked(titleOf(result), result.text ? contains : ""));
    const captions = result.captions.map((caption) => createCaption(caption, contains));
    $(".captions").replaceChildren(...captions);
    $(".captions").hidden = $("h3").hidden = !captions.length;
    $(".position").textContent = position;
    $(".id").textContent = result.image_id;
    $(".file").textContent = result.file ?? "";
    $(".file").parentElement.hidden = !result.file;
    $(".split").textContent = result.split;
    $(".score").textContent = result.score === null ? "" : scoreText(result);
    $(".score").parentElement.hidden = result.score === null;
    const source = sourceOf(result);
    $(".source").closest("div").hidden = !source;
    if (source) Object.assign($(".source"), { href: source.href, textContent: source.host });
    const download = $(".download");
    download.href = `pictures/${result.image_id}/original`;
    download.download = result.file?.split("/").pop() ?? "";
  }

  function createCaption(caption, contains) {
    const item = document.createElement("li");
    item.append(...marked(caption, contains));
    if (caption === result.text && result.score !== null) {
      item.className = "nearest";
      item.append(Object.assign(document.createElement("span"), { className: "tag", textContent: "nearest to the query" }));
    }
    return item;
  }

  // Show the thumbnail until the photo is there; a slow network may take seconds.
  function drawPhoto() {
    const shown = result;
    frame.classList.remove("lost");
    image.alt = titleOf(result);
    image.src = photoUrl(result, 360);
    const large = new Image();
    large.src = photoUrl(result, 1600);
    large.decode().then(
      () => shown === result && !isZoomed() && (image.src = large.src),
      () => shown === result && frame.classList.toggle("lost", !image.naturalWidth),
    );
  }

  function isZoomed() {
    return frame.classList.contains("zoomed");
  }

  // Show the photo in its own pixels, around the point (x, y: fractions of its size), or fitted to the screen.
  function zoom(on, x = 0.5, y = 0.5) {
    const button = $("[data-do=zoom]");
    button.setAttribute("aria-pressed", on);
    button.title = on ? "Fit to the screen" : "Zoom to original pixels";
    frame.tabIndex = on ? 0 : -1;
    frame.classList.toggle("zoomed", on);
    if (!on) return;
    const shown = result;
    image.src = photoUrl(result);
    const centre = () => {
      if (shown !== result || !isZoomed()) return;
      frame.scrollLeft = image.offsetWidth * x - frame.clientWidth / 2;
      frame.scrollTop = image.offsetHeight * y - frame.clientHeight / 2;
    };
    image.decode().then(centre, () => {});
  }

  const actions = {
    previous: () => handlers.onStep(-1),
    next: () => handlers.onStep(1),
    zoom: () => zoom(!isZoomed()),
    close: () => dialog.close(),
  };
  const keys = { ArrowLeft: "previous", ArrowRight: "next", z: "zoom", s: "from", "+": "add", "-": "subtract", "−": "subtract" };

  function act(name) {
    if (dialog.querySelector(`[data-do=${name}]`)?.getAttribute("aria-disabled") === "true") return;
    if (actions[name]) actions[name]();
    else handlers.onAction(name, result);
  }

  dialog.addEventListener("keydown", (event) => {
    const name = keys[event.key];
    const scrolls = isZoomed() && event.target === frame && event.key.startsWith("Arrow");
    if (!name || scrolls || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act(name);
  });
  dialog.addEventListener("click", (event) => {
    const control = event.target.closest("[data-do]");
    if (event.target === dialog) dialog.close();
    else if (event.target === image && event.timeStamp > swiped + 500) {
      const box = image.getBoundingClientRect();
      zoom(!isZoomed(), (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    } else if (control) act(control.dataset.do);
  });
  dialog.addEventListener("close", () => {
    result = null;
    image.removeAttribute("src");
    handlers.onClose();
  });

  let start = null;
  let swiped = -Infinity; // when: the click that may follow a swipe does not zoom
  frame.addEventListener("touchstart", (event) => {
    start = event.touches.length === 1 && !isZoomed() ? event.touches[0] : null;
  }, { passive: true });
  frame.addEventListener("touchend", (event) => {
    if (!start) return;
    const [x, y] = [event.changedTouches[0].clientX - start.clientX, event.changedTouches[0].clientY - start.clientY];
    start = null;
    if (Math.abs(x) < SWIPE || Math.abs(x) < 2 * Math.abs(y)) return;
    swiped = event.timeStamp;
    act(x < 0 ? "next" : "previous");
  });

  return {
    get isOpen() {
      return dialog.open;
    },
    show(shown, context) {
      draw(shown, context);
      if (!dialog.open) {
        dialog.showModal();
        $("[data-do=next]").focus();
      }
    },
    close: () => dialog.close(),
  };
}

// Return the address where the photo was published, if it is one of the web: payloads may hold anything.
function sourceOf(result) {
  try {
    const url = new URL(result.url ?? "");
    return ["http:", "https:"].includes(url.protocol) ? url : null;
  } catch {
    return null;
  }
}
