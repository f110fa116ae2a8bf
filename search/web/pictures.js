// Take the user's pictures: chosen, dropped or pasted, and upload them.

import { upload } from "./api.js";

const MAX_MEGABYTES = 20; // the API's limit
const READABLE = "a JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC or AVIF file";
const uploads = new Map(); // token -> {file, url}: the pictures uploaded by this page

export function pictureUrl(token) {
  return uploads.get(token)?.url;
}

// Upload a picture and return its token. Throw an Error that names the file and its format.
export async function addPicture(file) {
  const name = `${file.name || "The picture"} (${formatOf(file)})`;
  if (file.type && !file.type.startsWith("image/")) throw new Error(`${name} is not a picture. Choose ${READABLE}.`);
  if (file.size > MAX_MEGABYTES * 2 ** 20) throw new Error(`${name} has ${Math.ceil(file.size / 2 ** 20)} MB: the limit is ${MAX_MEGABYTES} MB. Save a smaller copy.`);
  try {
    await file.slice(0, 1).arrayBuffer();
  } catch {
    throw new Error(`${name}: the browser cannot read the file. Save it on this device, for example as a JPEG, and choose it again.`);
  }
  try {
    const token = await upload(file);
    if (!uploads.has(token)) uploads.set(token, { file, url: URL.createObjectURL(file) });
    return token;
  } catch (error) {
    throw Object.assign(new Error(`${name}: ${error.message}`), { status: error.status });
  }
}

// Upload again the pictures that a query names, and return whether this page has any of them.
export async function uploadAgain(parts) {
  const known = parts.map((part) => uploads.get(part.picture)).filter(Boolean);
  for (const { file } of known) await upload(file);
  return known.length > 0;
}

function formatOf(file) {
  const extension = /\.(\w{1,8})$/.exec(file.name ?? "")?.[1];
  return (extension ?? file.type.replace(/^image\//, "").replace(/\+xml$/, "")).toUpperCase() || "unknown format";
}

// Call `onFile` with each picture that is dropped or pasted, `onError` with the reason why one cannot be taken.
export function acceptPictures(overlay, onFile, onError) {
  document.addEventListener("paste", (event) => {
    const items = [...(event.clipboardData?.items ?? [])];
    const file = event.clipboardData?.files[0];
    if (!file && !items.some((item) => item.kind === "file")) return;
    if (!file?.type.startsWith("image/") && items.some((item) => item.type === "text/plain")) return; // the text is meant
    event.preventDefault();
    if (file) onFile(file);
    else onError(new Error(`The browser does not pass on the pasted ${items[0].type || "file"}. Save it as a JPEG, and choose or drop that.`));
  });
  let depth = 0; // nested elements that a dragged picture is over: each fires its own dragenter and dragleave
  const dragsFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (dragsFiles(event)) overlay.hidden = ++depth === 0;
  });
  document.addEventListener("dragleave", (event) => {
    if (dragsFiles(event)) overlay.hidden = --depth <= 0;
  });
  document.addEventListener("dragover", (event) => dragsFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    depth = 0;
    overlay.hidden = true;
    if (!dragsFiles(event)) return;
    event.preventDefault();
    if (event.dataTransfer.files[0]) onFile(event.dataTransfer.files[0]);
  });
}
