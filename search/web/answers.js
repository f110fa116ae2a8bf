// Fetch what a query shows: a random sample, images that are looked up, or the results of a search.

import { image, sample, search } from "./api.js";
import { uploadAgain } from "./pictures.js";
import { filtersToRequest, isEmpty, lookedUp } from "./query.js";

const AT_ONCE = 180; // results in one request; the API's limit is 200
const MAX_IDS = 1000; // the API's limit

export const NOTHING = { results: [], more: false, total: null, truncated: [] };

// Return the results from `start` to `end`: {results, more, total, truncated}.
export async function fetchAnswer(query, start, end, signal) {
  let all = null;
  for (let offset = start; offset < end && (all?.more ?? true); offset += AT_ONCE) {
    const page = await fetchPage(query, offset, Math.min(AT_ONCE, end - offset), signal);
    all = { ...page, results: [...(all?.results ?? []), ...page.results] };
  }
  return { ...NOTHING, ...all };
}

async function fetchPage(query, offset, k, signal) {
  const ids = lookedUp(query);
  if (isEmpty(query)) return sample(query, offset, k, signal);
  if (ids) return { results: await Promise.all(ids.map((id) => image(id, signal))), more: false, total: ids.length };
  try {
    return await search(query, { offset, k }, signal);
  } catch (error) {
    if (error.status !== 404 || !(await uploadAgain(query.parts))) throw error; // the server drops old pictures
    return search(query, { offset, k }, signal);
  }
}

// Return the results that one stands for, each with that one as `folded`.
export async function fetchFolded(query, result) {
  const images = [...new Set(result.also_images)].slice(0, MAX_IDS);
  const k = Math.min(AT_ONCE, 10 * images.length + result.also.length);
  const all = { image_ids: images, k, offset: 0, fold: null, cutoff: null, ...filtersToRequest(), group: false, total: false };
  const { results } = await search(query, all);
  const ids = new Set(result.also);
  return results.filter((each) => ids.has(each.id)).map((each) => ({ ...each, also: [], rank: null, folded: result }));
}
