// Move through the page and its results with the keyboard.

const KEYS = { "+": "add", "-": "subtract", "−": "subtract", s: "from", v: "view" }; // on a result

// Let Tab stop at the controls of one item only, so that it takes few steps past the results.
export function makeReachable(list, item) {
  for (const control of list.querySelectorAll("[tabindex='0']")) control.tabIndex = -1;
  for (const control of item.querySelectorAll("a, button")) control.tabIndex = 0;
}

// Return how many results are side by side.
function countColumns(list) {
  const tops = [...list.children].map((item) => item.offsetTop);
  return Math.max(1, tops.filter((top) => top === tops[0]).length);
}

// Return the index that a key moves to from `current`: -1 above the first row, null if the key does not move.
function indexAfterKey(key, current, count, columns) {
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

export function focusResult(list, number, options) {
  list.children[number]?.querySelector(".photo").focus(options);
}

// Return the index of the result that contains an element, or -1.
export function resultIndex(list, element) {
  return list.contains(element) ? [...list.children].indexOf(element.closest("li")) : -1;
}

// Set up the keys. `act(name, index)` is called for those of a result, `help` and `clear` for "?" and Esc.
export function handleKeys(list, box, { act, help, clear }) {
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.ctrlKey || event.metaKey || event.altKey) return; // an input method may take Esc
    if (document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") return clear();
    const count = list.children.length;
    const focus = (number) => {
      event.preventDefault();
      if (number === -1) box.focus();
      else focusResult(list, number);
    };
    if (event.key === "ArrowDown" && event.target === box && count) return focus(0);
    if (event.target.matches("input[type=text], input[type=radio], input[type=checkbox], select")) return;
    const current = resultIndex(list, event.target);
    if (event.key === "/") {
      focus(-1);
      box.select();
    } else if (event.key === "?") {
      help();
    } else if (current >= 0 && KEYS[event.key]) {
      event.preventDefault();
      act(KEYS[event.key], current);
    } else if (current >= 0) {
      const next = indexAfterKey(event.key, current, count, countColumns(list));
      if (next !== null) focus(next);
    } else if (event.key === "ArrowDown" && event.target === document.body && count) focus(0);
  });
  list.addEventListener("focusin", (event) => {
    const item = event.target.closest("li");
    if (item) makeReachable(list, item);
  });
}
