// Convert the query (the text in the box, the other parts and the options) to a URL, to a request to the API and to
// words. The names are those of the API.

export const PAGE_SIZE = 36; // divisible by 2, 3, 4 and 6 columns
const MAX_COUNT = 3600; // results restored from an address
export const HALFWAY = 0.5; // of the way from a typical score to the best; results below it are the irrelevant tail
export const SAME_PHOTO = 0.95; // the cosine above which two photos look the same
export const CAPTIONS_WEIGHT = 0.75; // of a photo's best caption in its score

// The filters. Each is a text in the query, empty if it is not set. Its key here is also the id of its field on the
// page, its name in addresses and its option of the command. The functions convert it to fields of an API request.
const FILTERS = {
  split: (text) => ({ splits: text ? [text] : null }),
  contains: (text) => ({ contains: text || null }),
};
export const FILTER_NAMES = Object.keys(FILTERS);
const WITHOUT_FILTERS = Object.fromEntries(FILTER_NAMES.map((name) => [name, ""]));

// A part is {text}, {image_id} or {picture: token, name: of the file}, with a weight; `box` is the text in the search
// box. `count`: how many results are shown; `seed`: which random sample an empty query shows; `view`: the id of the
// image that the viewer shows. Ids are strings: JavaScript would round large numbers.
export function emptyQuery(options = {}) {
  const place = { count: PAGE_SIZE, seed: null, view: null };
  return { box: "", parts: [], to: "images", ...WITHOUT_FILTERS, cutoff: null, fold: null, evidence: null, ...place, ...options };
}

// Return the filters that the query has, as pairs of name and text.
export function filtersOf(query) {
  return FILTER_NAMES.map((name) => [name, query[name].trim()]).filter(([, text]) => text);
}

// Return the fields of a request for all filters, by default for none.
export function filtersToRequest(query = WITHOUT_FILTERS) {
  return Object.assign({}, ...FILTER_NAMES.map((name) => FILTERS[name](query[name].trim())));
}

export function isEmpty(query) {
  return !query.box.trim() && query.parts.length === 0;
}

export function hasPicture(query) {
  return query.parts.some((part) => part.picture);
}

// Return the ids in a text such as "id:391895" or "id:1, id:2"; null if it is anything else.
export function idsIn(text) {
  return /^(\s*id:\s*\d{1,19}[\s,]*)+$/i.test(text) ? text.match(/\d+/g).map(withoutZeros) : null;
}

// Return the ids of the images that the query shows, rather than searches from; null if it is a search.
export function lookedUp(query) {
  return query.parts.length ? null : idsIn(query.box);
}

// Return all parts, those in the box first.
export function allParts(query) {
  const box = query.box.trim();
  const ids = idsIn(box);
  const inBox = ids ? ids.map((image_id) => ({ image_id, weight: 1 })) : box ? [{ text: box, weight: 1 }] : [];
  return [...inBox, ...query.parts];
}

// Captions can be evidence only for photos, and only if the query consists of words.
export function takesEvidence(query) {
  return query.to === "images" && !allParts(query).some((part) => part.picture || part.image_id);
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
  for (const [name, text] of filtersOf(query)) params.append(name, text);
  for (const name of ["cutoff", "fold", "evidence"]) if (query[name] !== null) params.append(name, query[name]);
  if (isEmpty(query) && query.seed !== null) params.append("seed", query.seed);
  if (query.count !== PAGE_SIZE) params.append("n", query.count);
  if (query.view !== null) params.append("view", query.view);
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
    if (name === "image_id" && isId(value)) parts.push({ image_id: withoutZeros(value), weight });
  }
  const view = params.get("view") ?? "";
  return emptyQuery({
    box: params.get("q") ?? "",
    parts,
    to: params.get("to") === "captions" ? "captions" : "images",
    ...Object.fromEntries(FILTER_NAMES.map((name) => [name, params.get(name) ?? ""])),
    cutoff: parseFraction(params.get("cutoff")),
    fold: parseFraction(params.get("fold")),
    evidence: parseFraction(params.get("evidence")) || null, // a weight is above 0
    count: Math.max(1, Math.min(MAX_COUNT, parseCount(params.get("n")) ?? PAGE_SIZE)),
    seed: parseCount(params.get("seed")),
    view: isId(view) ? withoutZeros(view) : null,
  });
}

function isId(text) {
  return /^\d+$/.test(text);
}

function withoutZeros(digits) {
  return digits.replace(/^0+(?=\d)/, "");
}

// Return a number from 0 to 1, or null.
function parseFraction(text) {
  const number = text?.trim() ? Number(text) : NaN;
  return number >= 0 && number <= 1 ? number : null;
}

// Return an integer of at most 15 digits, or null.
function parseCount(text) {
  return /^\d{1,15}$/.test(text ?? "") ? Number(text) : null;
}

export function toRequest(query) {
  return {
    parts: allParts(query).map(({ name, ...part }) => part),
    to: query.to,
    k: PAGE_SIZE,
    ...filtersToRequest(query),
    cutoff: query.cutoff,
    fold: query.fold,
    evidence: takesEvidence(query) ? query.evidence : null,
    group: query.to === "captions",
    total: true,
  };
}

// Return the query as a person reads it: “a red bus” + image 42 − ½ “people”.
export function describe(query) {
  return allParts(query)
    .map((part, index) => {
      const sign = part.weight < 0 ? "− " : index ? "+ " : "";
      const size = Math.abs(part.weight) === 1 ? "" : `${Math.abs(part.weight)} × `.replace("0.5", "½");
      return sign + size + (part.text !== undefined ? `“${shorten(part.text)}”` : nameOf(part));
    })
    .join(" ");
}

export function nameOf(part) {
  return part.text ?? (part.image_id !== undefined ? `image ${part.image_id}` : "your picture");
}

export function shorten(text, length = 60) {
  const characters = [...text];
  return characters.length > length ? `${characters.slice(0, length).join("").trim()}…` : text;
}
