"use strict";

// Attached files: what kinds are taken, and where their contents lie (IndexedDB; a conversation has their names and ids).
// A file: {id, name, type, size, added, text} or {..., data}: a data URL, of a PDF, which the server takes text out of, and of what
// only code can read. Figures that code drew lie there, too: an item of an answer has their ids.

const MOST_TEXT = 2 << 20; // bytes that the model reads
const MOST_DATA = 20 << 20;
const PDF = "application/pdf", BYTES = "application/octet-stream";
const DAY = 86400000; // milliseconds
const attached = []; // files that the next message takes along
const unkept = new Map(); // where the browser has no storage: until the page is left

/** Reads what the user chose. Throws an Error that says what is wrong. `forCode`: code can open whatever it is. */
async function fileOf(chosen, forCode) {
  const head = new Uint8Array(await chosen.slice(0, 5).arrayBuffer());
  const isPdf = String.fromCharCode(...head) === "%PDF-", most = isPdf || forCode ? MOST_DATA : MOST_TEXT;
  if (chosen.size > most) throw new Error(`“${chosen.name}” is larger than ${most >> 20} MB.`);
  const file = { id: newId(), name: chosen.name, type: isPdf ? PDF : "text/plain", size: chosen.size, added: Date.now() };
  if (isPdf) return { ...file, data: await dataUrl(chosen, PDF) };
  try {
    if (chosen.size <= MOST_TEXT) return { ...file, text: decoded(await chosen.arrayBuffer(), chosen.name) };
  } catch (error) { if (!forCode) throw error; }
  return { ...file, type: BYTES, data: await dataUrl(chosen, BYTES) };
}

function decoded(buffer, name) {
  const [first, second] = new Uint8Array(buffer, 0, Math.min(2, buffer.byteLength));
  const big = first === 0xfe && second === 0xff, little = first === 0xff && second === 0xfe; // marks of UTF-16
  const encoding = big ? "utf-16be" : little ? "utf-16le" : "utf-8";
  let text;
  try { text = new TextDecoder(encoding, { fatal: true }).decode(buffer); } catch { text = "\0"; }
  if (text.includes("\0")) throw new Error(`“${name}” is neither text nor a PDF.`);
  if (!text.trim()) throw new Error(`“${name}” is empty.`);
  return text;
}

const dataUrl = (blob, type) => new Promise((take, fail) => {
  const reader = new FileReader();
  reader.onload = () => take(reader.result.replace(/^data:[^,]*?(?=;base64|,)/, `data:${type}`));
  reader.onerror = () => fail(new Error(`“${blob.name}” cannot be read.`));
  reader.readAsDataURL(blob);
});

/** What the API is sent of a file. `forCode`: the server puts it where code finds it, and says so to the model. */
async function wirePart(file, forCode) {
  if (forCode || file.type === PDF) {
    const data = file.data ?? await dataUrl(new Blob([file.text]), BYTES);
    return { type: "input_file", filename: file.name, file_data: data };
  }
  if (file.data) return { type: "input_text", text: `File “${file.name}” is not text, and no code runs that could open it.\n\n` };
  return { type: "input_text", text: `File “${file.name}”:\n\n${file.text}\n\nEnd of file “${file.name}”.\n\n` };
}

// ---- where they lie

let opening = null;

function database() {
  opening ??= new Promise((take, fail) => {
    const request = indexedDB.open("ossia", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("files", { keyPath: "id" });
    request.onsuccess = () => take(request.result);
    request.onerror = () => fail(request.error);
  });
  return opening;
}

/** One request to the store of files. */
async function inStore(mode, act) {
  const db = await database();
  return new Promise((take, fail) => {
    const transaction = db.transaction("files", mode), request = act(transaction.objectStore("files"));
    transaction.oncomplete = () => take(request.result);
    transaction.onabort = () => fail(transaction.error);
    transaction.onerror = () => fail(transaction.error);
  });
}

async function keepFile(file) {
  try {
    await inStore("readwrite", files => files.put(file));
  } catch {
    unkept.set(file.id, file);
    toast(`This browser does not keep “${file.name}”: it is there until the page is left.`);
  }
}

/** The file, or null if this browser has it no more. */
async function readFile(id) {
  try {
    return unkept.get(id) ?? await inStore("readonly", files => files.get(id)) ?? null;
  } catch {
    return null;
  }
}

const isFile = file => /^\w{1,64}$/.test(file?.id) && typeof file.name === "string" && typeof (file.data ?? file.text) === "string";

function fileIds(conversations) {
  const ids = new Set();
  for (const chat of conversations) for (const turn of allTurns(chat.turns)) {
    for (const file of turn.files ?? []) ids.add(file.id);
    for (const item of (turn.steps ?? []).flatMap(step => step.items)) for (const output of outputsOf(item)) if (output.file) ids.add(output.file);
  }
  return ids;
}

// ---- figures

const FIGURE = /^data:image\/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+$/;
const outputsOf = item => (Array.isArray(item.outputs) ? item.outputs.filter(Boolean) : []);

/** Puts the figures of a call that ran code among the files, for they are large. */
async function keepFigures(item) {
  for (const output of outputsOf(item)) {
    if (output.type !== "image" || !FIGURE.test(output.url)) continue;
    const file = { id: newId(), name: "figure.png", type: "image/png", size: output.url.length, added: Date.now(), data: output.url };
    await keepFile(file);
    Object.assign(output, { url: "", file: file.id });
  }
}

/** Deletes files that no conversation names and that are not attached. Those of today stay: another tab may send them. */
async function forgetFiles(before = Date.now() - DAY) {
  const named = fileIds(index.map(({ id }) => loadChat(id)).filter(Boolean));
  for (const file of attached) named.add(file.id);
  try {
    for (const file of await inStore("readonly", files => files.getAll()))
      if (!named.has(file.id) && file.added < before) await inStore("readwrite", files => files.delete(file.id));
  } catch { /* no storage, no files */ }
}
