"use strict";

// What is kept in this browser: settings, conversations and their versions, and the key until the tab is closed.
//
// A conversation: {id, title, changed, turns, instructions, allowed}. A turn of the user: {role, text, files}. A turn of the
// assistant: {role, state, steps, problem, made}; a step is what one request brought: {items, finish, tokens and times}. Items are
// those of the Responses API (items.js), with the results that the page adds. `allowed`: calls that need no approval here;
// `made`: files that code left.
// A turn that has other versions has `versions`: {at, ends}; ends[n] are the turns from there on in version n, null for the
// one that is shown. So a version keeps what followed it, and versions within versions.

const PREFIX = "ossia.";
const NUMBERS = { temperature: "temperature", top_p: "top_p", max_completion_tokens: "max_output_tokens", seed: "seed" }; // by the API's names
const DEFAULTS = { effort: "medium", tools: true, hosted: {}, source: "", theme: "system", instructions: "", temperature: "", top_p: "", max_completion_tokens: "", seed: "" };

function load(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + name)) ?? otherwise;
  } catch { // not ours, or damaged, or no storage
    return otherwise;
  }
}

function store(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
    return true;
  } catch {
    toast("This browser’s storage is full or closed: conversations are not kept. Delete some.");
    return false;
  }
}

/** What is kept until the tab is closed: read, or written. */
function forTab(name, value = null) {
  try {
    if (value !== null) sessionStorage.setItem(PREFIX + name, value);
    return sessionStorage.getItem(PREFIX + name) ?? "";
  } catch { // no storage: then the field is all that knows
    return name === "key" ? $("s-key").value.trim() : "";
  }
}

const settings = { ...DEFAULTS, ...load("settings", {}) };
let index = load("index", []); // [{id, title, changed}], the newest first
if (!Array.isArray(index)) index = [];

function saveChat(chat, touched = true) {
  if (touched) chat.changed = Date.now();
  if (!store(`chat.${chat.id}`, chat)) return false;
  index = load("index", index).filter(one => one.id !== chat.id); // another tab may have written it
  index.push({ id: chat.id, title: chat.title, changed: chat.changed });
  index.sort((a, b) => b.changed - a.changed);
  return store("index", index);
}

function loadChat(id) {
  const kept = load(`chat.${id}`, null);
  if (kept === null || !Array.isArray(kept.turns)) return null;
  for (const turn of allTurns(kept.turns)) {
    if (turn.state === "running") turn.state = "stopped";
    turn.steps &&= turn.steps.map(wholeStep);
  }
  return kept;
}

/** A step with all its fields, whatever was kept or imported. */
function wholeStep(step) {
  const made = { ...newStep(), ...(Array.isArray(step.items) ? step : modernStep(step)) };
  for (const name of ["tokens", "prompt", "context", "sent", "first", "last"]) if (!Number.isFinite(made[name])) made[name] = newStep()[name];
  made.times ??= {};
  return made;
}

/** A step of version 1: {thought, text, calls}, a call {id, name, arguments, result}. */
function modernStep(step) {
  const { thought, text, calls, thoughtMs, prompt, ...more } = step, items = [], times = {};
  if (thought) {
    const item = { id: `rs_${newId()}`, type: "reasoning", status: "completed", summary: [], content: [{ type: "reasoning_text", text: thought }] };
    items.push(item);
    times[item.id] = thoughtMs ?? null;
  }
  const phase = calls.length ? "commentary" : "final_answer";
  if (text) items.push({ id: `msg_${newId()}`, type: "message", role: "assistant", status: "completed", phase, content: [{ type: "output_text", text, annotations: [] }] });
  for (const call of calls) {
    items.push({ id: `fc_${newId()}`, type: "function_call", status: "completed", call_id: call.id || newId(), name: call.name, arguments: call.arguments });
    if (typeof call.result === "string") items.push(resultOf(items.at(-1), call.result));
  }
  const context = typeof prompt === "number" ? prompt + step.tokens - (step.earlier ?? 0) : null;
  return { ...more, items, times, prompt: prompt ?? null, context };
}

function dropChat(id) {
  localStorage.removeItem(PREFIX + `chat.${id}`);
  index = load("index", index).filter(one => one.id !== id);
  store("index", index);
}

const newChat = () => ({ id: newId(), title: "New chat", changed: Date.now(), turns: [] });

// ---- versions

/** The turns that are shown and those of all other versions. */
function* allTurns(turns) {
  for (const turn of turns) {
    yield turn;
    for (const end of turn.versions?.ends ?? []) if (end) yield* allTurns(end);
  }
}

/** Makes room for another version from `turn` on. What was there is kept; the versions, for the turn that comes, are returned. */
function newVersion(chat, turn) {
  const old = chat.turns.splice(chat.turns.indexOf(turn));
  const versions = turn.versions ?? { at: 0, ends: [null] };
  delete turn.versions;
  versions.ends[versions.at] = old;
  versions.at = versions.ends.push(null) - 1;
  return versions;
}

/** Shows version `n` from `turn` on. */
function showVersion(chat, turn, n) {
  const { versions } = turn, at = chat.turns.indexOf(turn);
  delete turn.versions;
  versions.ends[versions.at] = chat.turns.splice(at);
  chat.turns.push(...versions.ends[n]);
  versions.ends[n] = null;
  versions.at = n;
  chat.turns[at].versions = versions;
}

// ---- searching, exporting

/** The conversations whose title or words have all of what is looked for. */
function foundChats(query) {
  const wanted = query.toLowerCase().split(/\s+/).filter(Boolean);
  if (!wanted.length) return index;
  return index.filter(({ id, title }) => {
    const texts = [title];
    for (const turn of allTurns(loadChat(id)?.turns ?? [])) texts.push(turn.text ?? "", ...(turn.steps ?? []).flatMap(textsOf));
    const all = texts.join("\n").toLowerCase();
    return wanted.every(word => all.includes(word));
  });
}

const FORMAT = "ossia-conversations";
const VERSION = 2;

/** Everything that is kept, but for settings and the key: a text that `importAll` reads. */
async function exportAll() {
  const chats = index.map(({ id }) => loadChat(id)).filter(Boolean);
  const files = [];
  for (const id of fileIds(chats)) {
    const file = await readFile(id);
    if (file) files.push(file);
  }
  return JSON.stringify({ format: FORMAT, version: VERSION, exported: new Date().toISOString(), conversations: chats, files }, null, 1);
}

/**
 * Adds what `exportAll` wrote. A conversation that is there already is replaced by a newer one, unless it is being
 * answered. How many were added. Throws an Error that says what is wrong.
 */
async function importAll(text) {
  let given;
  try { given = JSON.parse(text); } catch { throw new Error("This file is not JSON."); }
  if (given?.format !== FORMAT || !Array.isArray(given.conversations)) throw new Error("This file holds no conversations that were exported here.");
  if (given.version !== 1 && given.version !== VERSION) throw new Error(`This file has version ${given.version}; this page reads versions 1 and ${VERSION}.`);
  if (!given.conversations.every(isChat)) throw new Error("A conversation in this file is damaged; nothing was added.");
  if (!(given.files ?? []).every(isFile)) throw new Error("A file in this export is damaged; nothing was added.");
  for (const file of given.files ?? []) if (!await readFile(file.id)) await keepFile(file);
  let added = 0;
  for (const chat of given.conversations) {
    const here = loadChat(chat.id);
    delete chat.allowed; // nobody's word for calls comes from a file
    if (running.has(chat.id) || (here && here.changed >= chat.changed)) continue;
    if (!saveChat(chat, false)) throw new Error(`The browser’s storage is full: ${added} of ${given.conversations.length} conversations were added.`);
    added++;
  }
  return added;
}

function isChat(chat) {
  if (typeof chat?.id !== "string" || !/^\w{1,64}$/.test(chat.id) || typeof chat.title !== "string") return false;
  return Number.isFinite(chat.changed) && Array.isArray(chat.turns) && [...allTurns(chat.turns)].every(isTurn);
}

function isTurn(turn) {
  if (turn?.role === "user") return typeof turn.text === "string";
  return turn?.role === "assistant" && Array.isArray(turn.steps) && turn.steps.every(isStep);
}

function isStep(step) {
  if (Array.isArray(step?.items)) return step.items.every(isWireItem);
  return typeof step?.text === "string" && typeof step.thought === "string" && Array.isArray(step.calls);
}

/** A conversation as Markdown, for people. */
function asMarkdown(chat) {
  const parts = [`# ${chat.title}`];
  for (const turn of chat.turns) {
    if (turn.role === "user") parts.push("## You", ...(turn.files ?? []).map(file => `*Attached: ${file.name}*`), turn.text);
    else parts.push("## Answer", ...turn.steps.flatMap(textsOf));
  }
  return parts.join("\n\n") + "\n";
}
