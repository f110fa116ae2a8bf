// Convert the query (the text in the box, the other parts and the options) to a URL and to a request to the API.
// The names are those of the API. All URLs are relative to the page's, which may be below a path of a proxy.

const PAGE_SIZE = 36; // divisible by 2, 3, 4 and 6 columns
export const HALFWAY = 0.5; // of the way from a typical score to the best; results below it are the irrelevant tail
export const SAME_PHOTO = 0.95; // the cosine above which two photos look the same
export const CAPTIONS_WEIGHT = 0.75; // of a photo's best caption in its score

// A part is {text}, {image_id} or {picture: token}, with a weight; `box` is the text in the search box. Ids are
// strings: JavaScript would round large numbers.
export function emptyQuery(options = {}) {
  return { box: "", parts: [], to: "images", split: "", contains: "", cutoff: null, fold: null, evidence: null, ...options };
}

export function isEmpty(query) {
  return !query.box.trim() && query.parts.length === 0;
}

export function hasPicture(query) {
  return query.parts.some((part) => part.picture);
}

// Captions are evidence for photos, of what words ask for.
export function takesEvidence(query) {
  return query.to === "images" && !query.parts.some((part) => part.picture || part.image_id);
}

// Uploaded pictures are left out of the URL: only this browser and the server know them.
export function toUrl(query) {
  const params = new URLSearchParams();
  if (query.box.trim()) params.append("q", query.box.trim());
  const shared = query.parts.filter((part) => !part.picture);
  for (const part of shared) {
    if (part.text !== undefined) params.append("text", part.text);
    else params.append("image_id", part.image_id);
  }
  if (shared.some((part) => part.weight !== 1)) params.append("w", shared.map((part) => part.weight).join(","));
  if (query.to !== "images") params.append("to", query.to);
  if (query.split) params.append("split", query.split);
  if (query.contains.trim()) params.append("contains", query.contains.trim());
  for (const name of ["cutoff", "fold", "evidence"]) if (query[name] !== null) params.append(name, query[name]);
  const search = params.toString();
  return search ? `?${search}` : ".";
}

export function fromUrl(search) {
  const params = new URLSearchParams(search);
  const weights = (params.get("w") ?? "").split(",").map(Number);
  const parts = [];
  for (const [name, value] of params) {
    if (name !== "text" && name !== "image_id") continue;
    const weight = Math.max(-10, Math.min(10, weights[parts.length] || 1));
    if (name === "text" && value.trim()) parts.push({ text: value, weight });
    if (name === "image_id" && /^\d+$/.test(value)) parts.push({ image_id: value.replace(/^0+(?=\d)/, ""), weight });
  }
  return emptyQuery({
    box: params.get("q") ?? "",
    parts,
    to: params.get("to") === "captions" ? "captions" : "images",
    split: params.get("split") ?? "",
    contains: params.get("contains") ?? "",
    cutoff: parseFraction(params.get("cutoff")),
    fold: parseFraction(params.get("fold")),
    evidence: parseFraction(params.get("evidence")) || null, // a weight is above 0
  });
}

// Return a number from 0 to 1, or null.
function parseFraction(text) {
  const number = text?.trim() ? Number(text) : NaN;
  return number >= 0 && number <= 1 ? number : null;
}

export function toRequest(query, offset) {
  const parts = [...query.parts];
  if (query.box.trim()) parts.unshift({ text: query.box.trim(), weight: 1 });
  return {
    parts,
    to: query.to,
    k: PAGE_SIZE,
    offset,
    splits: query.split ? [query.split] : null,
    contains: query.contains.trim() || null,
    cutoff: query.cutoff,
    fold: query.fold,
    evidence: takesEvidence(query) ? query.evidence : null,
    group: query.to === "captions",
  };
}

// Return the parsed response; throw an Error with a readable message and the HTTP `status`, 0 if there is no response.
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The server does not respond. Is it still running?"), { status: 0 });
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw Object.assign(new Error(body.error ?? `The server responded with status ${response.status}.`), { status: response.status });
  }
  return body;
}

export function search(query, offset, signal) {
  return request("api/search", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(toRequest(query, offset)),
    signal,
  });
}

// Upload a picture and return the token that names it in queries.
export async function upload(file) {
  const type = file.type.startsWith("image/") ? file.type : "image/unknown";
  return (await request("api/pictures", { method: "POST", headers: { "Content-Type": type }, body: file })).picture;
}
