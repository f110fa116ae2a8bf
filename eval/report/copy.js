for (const line of document.querySelectorAll(".copy")) line.hidden = false; // without scripts there are no buttons

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-copy]");
  if (!button) return;
  const copied = await copy(button.dataset.copy);
  button.parentElement.querySelector("[role=status]").textContent = copied ? " Copied." : " The browser did not allow it.";
  button.focus();
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea"); // for browsers that keep the clipboard from files
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    return copied;
  }
}
