// Copy the query, as a link or as a command for a terminal.

import { allParts, filtersOf, takesEvidence, toRequest, toUrl } from "./query.js";

export function toLink(query, base = location.href) {
  return new URL(toUrl({ ...query, view: null }), base).href;
}

// Return the command that finds the same results. `index` is {dataset, place}: of the index that the page shows.
export function toCommand(query, index) {
  const from = [/^\w+:\/\//.test(index.place) ? "--url" : "--path", index.place, "--dataset", index.dataset];
  const parts = allParts(query);
  const first = parts.find((part) => part.weight > 0);
  if (!first) {
    const { total, ...request } = { ...toRequest(query), k: query.count };
    const given = Object.fromEntries(Object.entries(request).filter(([, value]) => value !== null));
    return `printf '%s\\n' ${quote(JSON.stringify(given))} | python -m search batch - ${from.map(quote).join(" ")}`;
  }
  const words = [first.text !== undefined ? "text" : "image"];
  const options = ["--to", query.to, "-k", query.count, ...from];
  for (const part of parts.filter((each) => each !== first)) {
    const name = `--${part.weight < 0 ? "minus" : "plus"}${part.text !== undefined ? "" : "-image"}`;
    options.push(...(valueOf(part).startsWith("-") ? [`${name}=${valueOf(part)}`] : [name, valueOf(part)]));
  }
  if (query.to === "captions") options.push("--group");
  for (const [name, text] of filtersOf(query)) options.push(`--${name}`, text);
  for (const name of ["cutoff", "fold"]) if (query[name] !== null) options.push(`--${name}`, query[name]);
  if (query.evidence !== null && takesEvidence(query)) options.push("--evidence", `captions=${query.evidence}`);
  const value = valueOf(first);
  words.push(...(value.startsWith("-") ? [...options, "--", value] : [value, ...options]));
  return `python -m search ${words.map(quote).join(" ")}`;
}

// Return a part as the options of the command take it: with its weight, unless that is 1 or -1.
function valueOf(part) {
  const name = part.text ?? part.image_id ?? fileName(part);
  const weight = Math.abs(part.weight);
  if (weight === 1 && !/\^(\d+(\.\d*)?|\.\d+)$/.test(name)) return name;
  return `${name}^${String(weight).includes("e") ? weight.toFixed(12) : weight}`;
}

function fileName(part) {
  return /^\d+$|^-/.test(part.name) ? `./${part.name}` : part.name || "PICTURE";
}

// Quote for bash and zsh. Control characters are escaped: a terminal would obey them when they are pasted.
export function quote(word) {
  const text = String(word);
  if (/^[\w@%+=:,./-]+$/.test(text)) return text;
  if (!/[\x00-\x1f\x7f-\x9f]/.test(text)) return `'${text.replaceAll("'", `'\\''`)}'`;
  const escape = (character) => (/[\\']/.test(character) ? `\\${character}` : `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return `$'${text.replace(/[\x00-\x1f\x7f-\x9f\\']/g, escape)}'`;
}

// Copy a text, and say so on the button and in the status `notice`. Throw an Error with the text if that is not allowed.
export async function copyFrom(button, text, notice) {
  if (!(await copy(text))) throw new Error(`The browser does not allow copying. Copy this yourself: ${text}`);
  button.dataset.label ??= button.textContent;
  button.textContent = "Copied";
  notice.textContent = `Copied: ${text}`;
  setTimeout(() => (button.textContent = button.dataset.label), 1500);
}

// Copy a text; return whether that was possible. Browsers offer the clipboard to https and to this machine only.
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text, className: "unseen" });
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    const focused = document.activeElement;
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    focused?.focus();
    return copied;
  }
}
