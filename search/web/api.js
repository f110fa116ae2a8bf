// Call the API. All URLs are relative to the page's, which may be below a path of a proxy.

import { filtersToRequest, toRequest } from "./query.js";

// Return the parsed response; throw an Error with a readable message and the HTTP `status`, 0 if there is no response.
export async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The server does not respond. Is it still running?"), { status: 0 });
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  const reason = response.ok ? "The response is incomplete, or not from this server: reload the page." : `The server responded with status ${response.status}.`;
  throw Object.assign(new Error(body?.error ?? reason), { status: response.status });
}

// Return {results, more, total, truncated}; `changes` replace fields of the request.
export function search(query, changes, signal) {
  return request("api/search", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ ...toRequest(query), ...changes }),
    signal,
  });
}

// Return stored images that pass the filters of a query as results, in a random order: {results, more, total}.
export async function sample(query, offset, k, signal) {
  const params = new URLSearchParams({ seed: query.seed, offset, k });
  for (const [name, value] of Object.entries(filtersToRequest(query))) {
    for (const each of value === null ? [] : [value].flat()) params.append(name, each);
  }
  const { images, more, total } = await request(`api/sample?${params}`, { signal });
  return { results: images.map(toResult), more, total };
}

export async function image(id, signal) {
  return toResult(await request(`api/images/${id}`, { signal }));
}

// Return a stored image in the form of a result, which has no rank and no score.
function toResult(record) {
  const text = record.captions[0] ?? "";
  return { ...record, kind: "image", image_id: record.id, text, also: [], also_images: [], rank: null, score: null };
}

// Upload a picture and return the token that names it in queries.
export async function upload(file) {
  const type = file.type.startsWith("image/") ? file.type : "image/unknown";
  return (await request("api/pictures", { method: "POST", headers: { "Content-Type": type }, body: file })).picture;
}
