// The query: the text in the box, the parts beside it and the options, as an address and as a request to the API.
// The names are those of the API. All addresses are relative to the page's, which may lie below a path of a proxy.

export const PAGE = 36; // results at a time: divisible by 2, 3, 4 and 6 columns
export const HALFWAY = 0.5; // from a typical score to the best: what scores less is the irrelevant tail
export const SAME_PHOTO = 0.95; // the cosine above which two photos look the same

// A part is {text}, {image_id} or {picture: token}, with a weight; `box` is the text being written. Ids are strings:
// JavaScript would round the larger numbers.
export function emptyQuery(kept = {}) {
  return { box: "", parts: [], to: "images", split: "", contains: "", cutoff: null, fold: null, ...kept };
}

export function isEmpty(query) {
  return !query.box.trim() && query.parts.length === 0;
}

export function hasPicture(query) {
  return query.parts.some((part) => part.picture);
}

// A picture handed in cannot be in an address: only this browser and its server have it.
export function toAddress(query) {
  const given = new URLSearchParams();
  if (query.box.trim()) given.append("q", query.box.trim());
  const shared = query.parts.filter((part) => !part.picture);
  for (const part of shared) {
    if (part.text !== undefined) given.append("text", part.text);
    else given.append("image_id", part.image_id);
  }
  if (shared.some((part) => part.weight !== 1)) given.append("w", shared.map((part) => part.weight).join(","));
  if (query.to !== "images") given.append("to", query.to);
  if (query.split) given.append("split", query.split);
  if (query.contains.trim()) given.append("contains", query.contains.trim());
  for (const name of ["cutoff", "fold"]) if (query[name] !== null) given.append(name, query[name]);
  const written = given.toString();
  return written ? `?${written}` : ".";
}

export function fromAddress(search) {
  const given = new URLSearchParams(search);
  const weights = (given.get("w") ?? "").split(",").map(Number);
  const parts = [];
  for (const [name, value] of given) {
    if (name !== "text" && name !== "image_id") continue;
    const weight = Math.max(-10, Math.min(10, weights[parts.length] || 1));
    if (name === "text" && value.trim()) parts.push({ text: value, weight });
    if (name === "image_id" && /^\d+$/.test(value)) parts.push({ image_id: value.replace(/^0+(?=\d)/, ""), weight });
  }
  return emptyQuery({
    box: given.get("q") ?? "",
    parts,
    to: given.get("to") === "captions" ? "captions" : "images",
    split: given.get("split") ?? "",
    contains: given.get("contains") ?? "",
    cutoff: fraction(given.get("cutoff")),
    fold: fraction(given.get("fold")),
  });
}

// A number from 0 to 1, or null.
function fraction(text) {
  const number = text ? Number(text) : NaN;
  return number >= 0 && number <= 1 ? number : null;
}

export function toRequest(query, offset) {
  const parts = [...query.parts];
  if (query.box.trim()) parts.unshift({ text: query.box.trim(), weight: 1 });
  return {
    parts,
    to: query.to,
    k: PAGE,
    offset,
    splits: query.split ? [query.split] : null,
    contains: query.contains.trim() || null,
    cutoff: query.cutoff,
    fold: query.fold,
    group: query.to === "captions",
  };
}

// The answer as JSON; throws an Error whose message a person can read, and whose `status` is 0 where nobody answered.
export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The server does not answer: is it still running?"), { status: 0 });
  }
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    throw Object.assign(new Error(said.error ?? `The server answered ${answer.status}`), { status: answer.status });
  }
  return said;
}

export function search(query, offset, signal) {
  return ask("api/search", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(toRequest(query, offset)),
    signal,
  });
}

export async function handIn(file) {
  const type = file.type.startsWith("image/") ? file.type : "image/unknown";
  return (await ask("api/pictures", { method: "POST", headers: { "Content-Type": type }, body: file })).picture;
}
