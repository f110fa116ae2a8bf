// Remember the user's place in each entry of the history, so that Back and a reload return to it.

history.scrollRestoration = "manual"; // the browser would scroll before the results are there

// `current()` returns what an entry holds: {query, draft, scroll}. Nothing is saved until `ready(true)` is called.
export function createPlace(current) {
  let timer = null;
  let isReady = false;

  function save(changes = {}) {
    clearTimeout(timer);
    if (isReady) history.replaceState({ ...history.state, ...current(), ...changes }, "");
  }

  function saveSoon() {
    clearTimeout(timer);
    timer = setTimeout(() => save(), 150); // browsers limit how often the history may change
  }

  addEventListener("scroll", saveSoon, { passive: true });
  addEventListener("pagehide", () => save());
  return {
    saveSoon,
    // Say whether the page shows the results of its query. While they are loading it has another height.
    ready(value) {
      isReady = value;
      if (!value) clearTimeout(timer);
    },
    // Add an entry; `left` changes what the present one remembers.
    push(state, url, left) {
      save(left);
      isReady = false;
      history.pushState(state, "", url);
    },
    replace(state, url) {
      clearTimeout(timer);
      history.replaceState({ ...history.state, ...state }, "", url);
    },
  };
}
