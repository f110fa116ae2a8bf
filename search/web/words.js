// Mark the words of a filter in a caption, as the filter finds them: whatever their case and accents.

// Scripts without spaces between words, as in search/index/where.py: their text is found inside other text.
const UNSPACED = "\\u0e00-\\u0eff\\u1000-\\u109f\\u1780-\\u17ff\\u3005-\\u3007\\u3040-\\u30ff\\u3400-\\u4dbf\\u4e00-\\u9fff\\uac00-\\ud7af\\uf900-\\ufaff\\u{20000}-\\u{3ffff}";
const PIECE = new RegExp(`[${UNSPACED}]+|[^${UNSPACED}\\P{L}][\\p{L}\\p{N}]*|[\\p{L}\\p{N}]+`, "gu");
const SEPARATE = new RegExp(`[${UNSPACED}]`, "u");

// Return nodes that show `text`, with each word of `filter` in a <mark>.
export function marked(text, filter) {
  const words = new Set(fold(filter).match(PIECE) ?? []);
  if (!words.size) return [document.createTextNode(text)];
  const nodes = [];
  let end = 0;
  for (const [start, stop] of rangesOf(text, words)) {
    nodes.push(document.createTextNode(text.slice(end, start)), Object.assign(document.createElement("mark"), { textContent: text.slice(start, stop) }));
    end = stop;
  }
  nodes.push(document.createTextNode(text.slice(end)));
  return nodes;
}

function rangesOf(text, words) {
  let folded = "";
  const places = []; // of each folded code unit in `text`
  let place = 0;
  for (const character of text) {
    const plain = fold(character);
    for (let unit = 0; unit < plain.length; unit++) places.push(place);
    folded += plain;
    place += character.length;
  }
  places.push(text.length);
  const ranges = [];
  for (const found of folded.matchAll(PIECE)) {
    const [piece, start] = [found[0], found.index];
    if (words.has(piece)) ranges.push([places[start], places[start + piece.length]]);
    else if (SEPARATE.test(piece)) {
      for (const word of words) {
        const inside = SEPARATE.test(word) ? piece.indexOf(word) : -1;
        if (inside >= 0) ranges.push([places[start + inside], places[start + inside + word.length]]);
      }
    }
  }
  return ranges.sort((one, other) => one[0] - other[0]).filter(([start], index, all) => !index || start >= all[index - 1][1]);
}

function fold(text) {
  return text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().normalize("NFKC");
}
