"use strict";

// The page: small helpers, what is kept in the browser, asking the server, showing turns, and the page around them.
// Markdown and the tools that the page runs are in markdown.js and tools.js, which come before it in the same script.

// ---- small things -------------------------------------------------------------------------------

const $ = id => document.getElementById(id);

/** An element. `props`: attributes; functions are listeners, by the event's name; false and null are left out. */
function h(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function icon(name, more = "") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", `icon ${more}`);
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

const iconButton = (name, label, click) =>
  h("button", { class: "icon-button", type: "button", "aria-label": label, title: label, click }, icon(name));

/** crypto.randomUUID is not there on pages that came over plain HTTP from another machine. */
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), b => b.toString(16).padStart(2, "0")).join("");

const seconds = ms => (ms < 9950 ? (ms / 1000).toFixed(1) : Math.round(ms / 1000)) + " s";

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard without HTTPS: the old way
    const area = h("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  announce("Copied");
}

async function copyFrom(button, text) {
  await copyText(text);
  const label = button.querySelector("svg") ? null : button.textContent;
  if (label === null) toast("Copied");
  else { button.textContent = "Copied"; setTimeout(() => { button.textContent = label; }, 1500); }
}

let toastTimer = 0;
function toast(text, action = null, undo = null) {
  clearTimeout(toastTimer);
  const bar = $("toast");
  bar.replaceChildren(text);
  if (action) bar.append(h("button", { type: "button", click: () => { bar.hidden = true; undo(); } }, action));
  bar.hidden = false;
  toastTimer = setTimeout(() => { bar.hidden = true; }, action ? 8000 : 2500);
}

function announce(text) {
  $("status").textContent = text;
}

// ---- what is kept -------------------------------------------------------------------------------
// A conversation: {id, title, changed, turns}. A turn of the user: {role, text}. A turn of the assistant: {role, state, steps,
// problem}; a step is what one request brought: {thought, text, calls, finish, usage and times}.

const PREFIX = "ossia.";
const NUMBERS = ["temperature", "top_p", "max_completion_tokens", "seed"];
const DEFAULTS = { effort: "medium", tools: true, theme: "system", instructions: "", temperature: "", top_p: "", max_completion_tokens: "", seed: "" };

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
  if (!store(`chat.${chat.id}`, chat)) return;
  index = load("index", index).filter(one => one.id !== chat.id); // another tab may have written it
  index.push({ id: chat.id, title: chat.title, changed: chat.changed });
  index.sort((a, b) => b.changed - a.changed);
  store("index", index);
}

function loadChat(id) {
  const kept = load(`chat.${id}`, null);
  if (kept === null || !Array.isArray(kept.turns)) return null;
  for (const turn of kept.turns) if (turn.state === "running") { turn.state = "stopped"; }
  return kept;
}

function dropChat(id) {
  localStorage.removeItem(PREFIX + `chat.${id}`);
  index = load("index", index).filter(one => one.id !== id);
  store("index", index);
}

const newChat = () => ({ id: newId(), title: "New chat", changed: Date.now(), turns: [] });

// ---- asking the server --------------------------------------------------------------------------

const ROUNDS = 16; // requests of one answer: a model that calls and calls is stopped
let modelName = "";

const apiKey = () => forTab("key");

function headers() {
  const key = apiKey();
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

/** What is wrong, in words for the user. `kind` "key": a key would help. */
class Problem extends Error {
  constructor(message, kind = "") { super(message); this.kind = kind; }
}

async function problemOf(response) {
  let told = "";
  try { told = (await response.json()).error?.message ?? ""; } catch { /* not our server's words */ }
  const said = told ? ` The server says: ${told}` : "";
  const wait = response.headers.get("Retry-After");
  switch (response.status) {
    case 401: return new Problem(apiKey() ? "The server does not accept this API key." : "The server wants an API key.", "key");
    case 403: return new Problem(`This API key may not do that.${said}`, "key");
    case 404: return new Problem(`The server does not have what was asked for.${said}`);
    case 413: return new Problem("The conversation is too large for the server. Begin a new one.");
    case 429: return new Problem(`The server is busy.${wait ? ` Try again in ${wait} seconds.` : " Try again in a moment."}`);
    case 503: return new Problem(`The server is starting or stopping.${wait ? ` Try again in ${wait} seconds.` : ""}`);
    default:
      if (response.status >= 500) return new Problem(`The server failed (${response.status}).${said}`);
      return new Problem(`The server does not accept the request.${said}`);
  }
}

/** The conversation up to `turn`, what that has so far included, as the API has it. */
function wireMessages(chat, turn) {
  const messages = settings.instructions.trim() ? [{ role: "system", content: settings.instructions }] : [];
  for (const one of chat.turns.slice(0, chat.turns.indexOf(turn) + 1)) {
    if (one.role === "user") { messages.push({ role: "user", content: one.text }); continue; }
    for (const step of one.steps) {
      const calls = step.calls.filter(call => call.result !== undefined);
      if (!step.text && !calls.length) continue;
      const message = { role: "assistant", content: step.text || null };
      if (one === turn && step.thought) message.reasoning = step.thought; // why it called; earlier turns' is not wanted
      if (calls.length) message.tool_calls = calls.map(call => ({ id: call.id, type: "function", function: { name: call.name, arguments: call.arguments } }));
      messages.push(message, ...calls.map(call => ({ role: "tool", tool_call_id: call.id, content: call.result })));
    }
  }
  return messages;
}

function requestBody(chat, turn) {
  const body = {
    model: modelName || "gpt-oss", messages: wireMessages(chat, turn), stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true }, reasoning_effort: settings.effort,
  };
  if (settings.tools) body.tools = DECLARED;
  for (const name of NUMBERS) if (settings[name] !== "" && Number.isFinite(Number(settings[name]))) body[name] = Number(settings[name]);
  return body;
}

const newStep = () => ({ thought: "", text: "", calls: [], finish: null, tokens: 0, counted: false, prompt: null, sent: 0, first: null, last: null, thoughtMs: null });

/** One request: its stream into `step`. */
async function requestStep(chat, turn, step, signal, changed) {
  step.sent = performance.now();
  let response;
  try {
    response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body: JSON.stringify(requestBody(chat, turn)), signal });
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Problem("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await problemOf(response);
  let ended = false;
  try {
    for await (const data of eventsOf(response)) {
      if (data === "[DONE]") { ended = true; continue; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Problem(`The server failed in the midst of the answer. It says: ${chunk.error.message ?? "nothing"}`);
      take(chunk, step);
      changed();
    }
  } catch (error) {
    if (signal.aborted || error instanceof Problem) throw error;
    throw new Problem("The connection broke before the answer was complete.");
  }
  if (!ended && step.finish === null) throw new Problem("The connection ended before the answer was complete.");
  endThought(step);
}

/** The data of server-sent events. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      for (const raw of lines) {
        const line = raw.endsWith("\r") ? raw.slice(0, -1) : raw;
        if (line === "" && data.length) { yield data.join("\n"); data = []; }
        else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
      }
    }
  } finally { reader.cancel().catch(() => {}); } // who listens no longer lets the server stop
}

function take(chunk, step) {
  const choice = chunk.choices?.[0], delta = choice?.delta ?? {}, now = performance.now();
  const thought = delta.reasoning ?? delta.reasoning_content ?? "", text = delta.content ?? "", calls = delta.tool_calls ?? [];
  if (thought || text || calls.length) {
    step.first ??= now;
    step.last = now;
    if (!step.counted) step.tokens++; // about: a chunk is mostly a token
  }
  step.thought += thought;
  if (text || calls.length) endThought(step);
  step.text += text;
  for (const part of calls) {
    const call = (step.calls[part.index ?? step.calls.length] ??= { id: "", name: "", arguments: "" });
    call.id ||= part.id ?? "";
    call.name ||= part.function?.name ?? "";
    call.arguments += part.function?.arguments ?? "";
  }
  if (choice?.finish_reason) step.finish = choice.finish_reason;
  if (chunk.usage) {
    step.counted = true;
    step.tokens = chunk.usage.completion_tokens;
    step.prompt = chunk.usage.prompt_tokens;
  }
}

function endThought(step) {
  if (step.thought && step.thoughtMs === null) step.thoughtMs = performance.now() - step.first;
}

const running = new Map(); // a conversation's id -> {stop, turn}

/** Asks until the turn is answered: every call is carried out, and its result sent back. */
async function answer(chat, turn) {
  const control = new AbortController();
  running.set(chat.id, { stop: () => control.abort(), turn });
  Object.assign(turn, { state: "running", problem: null });
  let saved = performance.now();
  const changed = () => {
    show(turn);
    if (performance.now() - saved > 2000 && chats.has(chat.id)) { saved = performance.now(); saveChat(chat, false); }
  };
  saveChat(chat);
  startedOrEnded(chat);
  try {
    for (let round = 0; ; round++) {
      if (round === ROUNDS) throw new Problem(`The model called tools ${ROUNDS} times in a row. Go on?`);
      const step = newStep();
      turn.steps.push(step);
      changed();
      await requestStep(chat, turn, step, control.signal, changed);
      if (!step.calls.length || step.finish === "length") break;
      for (const call of step.calls) { call.id ||= newId(); runCall(call); changed(); }
    }
    turn.state = "done";
  } catch (error) {
    if (!control.signal.aborted && !(error instanceof Problem)) console.error(error);
    turn.state = control.signal.aborted ? "stopped" : "failed";
    const words = error instanceof Problem ? error.message : `The page failed: ${error.message}`;
    if (turn.state === "failed") turn.problem = { words, kind: error.kind ?? "" };
    endThought(turn.steps.at(-1));
  } finally {
    running.delete(chat.id);
    if (chats.has(chat.id)) saveChat(chat);
    show(turn, true);
    startedOrEnded(chat);
    announce({ done: "The answer is complete.", stopped: "Stopped.", failed: turn.problem?.words }[turn.state]);
  }
}

/** Again, from the last step that came to its end. */
function retry(chat, turn) {
  const last = turn.steps.at(-1);
  if (last && !(last.calls.length && last.calls.every(call => call.result !== undefined))) turn.steps.pop();
  redraw();
  answer(chat, turn);
}

function regenerate(chat, turn) {
  if (running.has(chat.id)) return;
  chat.turns.splice(chat.turns.indexOf(turn));
  ask(chat);
}

function ask(chat) {
  const turn = { role: "assistant", state: "running", steps: [], problem: null };
  chat.turns.push(turn);
  redraw();
  toEnd();
  answer(chat, turn);
}

// ---- showing turns ------------------------------------------------------------------------------

const views = new Map(); // a turn of the conversation that is shown -> its view
const waiting = new Set(); // turns that have changed since they were drawn
let drawing = false, idleUntil = 0;

/** Draws soon: at most once a frame, and never for more than a quarter of the time, however long the answer. */
function show(turn, now = false) {
  if (!views.has(turn)) return;
  waiting.add(turn);
  if (now) draw();
  else if (!drawing) {
    drawing = true;
    setTimeout(() => requestAnimationFrame(draw), Math.max(0, idleUntil - performance.now()));
  }
}

function draw() {
  drawing = false;
  const began = performance.now(), atEnd = isAtEnd();
  for (const turn of waiting) views.get(turn)?.update();
  waiting.clear();
  if (atEnd && following) toEnd();
  $("latest").hidden = isAtEnd();
  const took = performance.now() - began; // with the layout, which isAtEnd asks for
  idleUntil = performance.now() + 3 * took;
}

class UserView {
  constructor(chat, turn) {
    this.chat = chat;
    this.turn = turn;
    this.root = h("article", { class: "turn user", "aria-label": "You" });
    this.rest();
  }

  update() {}

  rest() {
    this.root.replaceChildren(h("div", { class: "said" }, this.turn.text), h("div", { class: "row actions" },
      iconButton("copy", "Copy message", event => copyFrom(event.currentTarget, this.turn.text)),
      iconButton("pen", "Edit message", () => this.edit())));
  }

  edit() {
    const area = h("textarea", { "aria-label": "Edit message", keydown: event => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); this.save(area.value); }
      if (event.key === "Escape") { event.stopPropagation(); this.rest(); this.root.querySelector("[aria-label='Edit message']").focus(); }
    } });
    area.value = this.turn.text;
    this.root.replaceChildren(area, h("div", { class: "row editing" },
      h("button", { class: "button", type: "button", click: () => this.rest() }, "Cancel"),
      h("button", { class: "button main", type: "button", click: () => this.save(area.value) }, "Send")));
    area.focus();
  }

  /** What followed is replaced. */
  save(text) {
    if (!text.trim()) return;
    running.get(this.chat.id)?.stop();
    const { chat, turn } = this;
    const at = chat.turns.indexOf(turn);
    chat.turns.splice(at, Infinity, { role: "user", text });
    if (at === 0 && !chat.named) chat.title = titleOf(text);
    whenIdle(chat, () => { ask(chat); $("text").focus(); });
  }
}

class AnswerView {
  constructor(chat, turn) {
    this.chat = chat;
    this.turn = turn;
    this.steps = [];
    this.body = h("div");
    this.foot = h("div");
    this.stats = h("span", { class: "stats" });
    this.root = h("article", { class: "turn assistant", "aria-label": "Answer" }, this.body, this.foot);
    this.state = null;
    this.update();
  }

  update() {
    const { turn } = this, live = turn.state === "running";
    turn.steps.forEach((step, n) => {
      if (!this.steps[n]) this.body.append((this.steps[n] = new StepView(step)).root);
      if (n >= turn.steps.length - 2 || !live) this.steps[n].update(live && n === turn.steps.length - 1);
    });
    this.root.setAttribute("aria-busy", String(live));
    this.stats.textContent = statsOf(turn);
    if (this.state !== turn.state) { this.state = turn.state; this.foot.replaceChildren(...this.footer()); }
  }

  footer() {
    const { turn, chat } = this, made = [], live = turn.state === "running";
    if (turn.state === "stopped") made.push(h("p", { class: "note" }, "Stopped."));
    if (turn.state === "done" && turn.steps.at(-1)?.finish === "length") made.push(h("p", { class: "note" }, "The answer was cut off: no more tokens were allowed."));
    if (turn.problem) {
      const box = h("div", { class: "problem", role: "alert" }, h("p", {}, turn.problem.words));
      if (turn.problem.kind === "key") box.append(h("button", { class: "button", type: "button", click: () => openSettings("s-key") }, "Enter a key"));
      box.append(h("button", { class: "button", type: "button", click: () => retry(chat, turn) }, "Try again"));
      made.push(box);
    }
    const row = h("div", { class: "row actions" });
    if (!live) row.append(
      iconButton("copy", "Copy answer", event => copyFrom(event.currentTarget, turn.steps.map(step => step.text).filter(Boolean).join("\n\n"))),
      iconButton("again", "Regenerate answer", () => regenerate(chat, turn)));
    row.append(this.stats);
    return [...made, row];
  }
}

function statsOf(turn) {
  const asked = turn.steps.filter(step => step.first !== null);
  if (!asked.length) return "";
  const total = (list, of) => list.reduce((sum, one) => sum + of(one), 0);
  const tokens = total(asked, step => step.tokens), time = total(asked, step => step.last - step.first) / 1000;
  const speed = (tokens - asked.length) / time; // the first token of a step begins its clock
  const parts = [`${tokens.toLocaleString("en")} ${tokens === 1 ? "token" : "tokens"}`];
  if (time > 0.02 && speed > 0) parts.push(`${speed < 100 ? speed.toFixed(1) : Math.round(speed).toLocaleString("en")} tokens/s`);
  parts.push(`first after ${((asked[0].first - asked[0].sent) / 1000).toFixed(2)} s`);
  const prompt = asked.at(-1).prompt;
  if (prompt !== null) parts.push(`prompt ${prompt.toLocaleString("en")}`);
  return parts.join(" · ");
}

class StepView {
  constructor(step) {
    this.step = step;
    this.root = h("div");
    this.calls = [];
    this.isOpen = null; // as the user wants it; null: open while it thinks
  }

  update(live) {
    const { step } = this;
    const thinking = live && !step.text && !step.calls.length;
    this.wait(thinking && !step.thought);
    if (step.thought) this.updateThought(thinking);
    if (step.text) {
      this.text ??= this.add(new MarkdownView(h("div", { class: "md" })));
      if (this.text.text !== step.text || this.live !== live) this.text.update(step.text, !live);
    }
    step.calls.forEach((call, n) => { (this.calls[n] ??= this.add(new CallView(call))).update(); });
    this.live = live;
  }

  add(view) { this.root.append(view.root); return view; }

  wait(on) {
    if (on && !this.dots) this.root.append(this.dots = h("div", { class: "waiting" }, "Reading"));
    if (!on && this.dots) { this.dots.remove(); this.dots = null; }
  }

  updateThought(thinking) {
    if (!this.thought) {
      this.label = h("span");
      const text = h("div", { class: "thought-text" });
      this.plain = new PlainView(text);
      const summary = h("summary", { click: () => { this.isOpen = !this.thought.open; } }, icon("right", "turner"), this.label);
      this.root.prepend(this.thought = h("details", { class: "thought" }, summary, text));
    }
    const { step, thought } = this;
    if (this.plain.done !== step.thought.length) this.plain.update(step.thought);
    thought.classList.toggle("live", thinking);
    thought.open = this.isOpen ?? thinking;
    this.label.textContent = thinking ? `Thinking, ${seconds(performance.now() - step.first)}` : step.thoughtMs === null ? "Thought" : `Thought for ${seconds(step.thoughtMs)}`;
  }
}

class CallView {
  constructor(call) {
    this.call = call;
    this.name = h("span", { class: "name" });
    this.brief = h("span", { class: "brief" });
    this.outcome = h("span", { class: "outcome" });
    this.given = h("pre", { tabindex: "0" });
    this.result = h("pre", { tabindex: "0" });
    this.root = h("details", { class: "call" },
      h("summary", {}, icon("tool"), this.name, this.brief, this.outcome, icon("right", "turner")),
      h("dl", {}, h("dt", {}, "Arguments"), h("dd", {}, this.given), h("dt", {}, "Result"), h("dd", {}, this.result)));
  }

  update() {
    const { call } = this;
    let brief = call.arguments;
    try {
      const given = JSON.parse(call.arguments);
      this.given.textContent = JSON.stringify(given, null, 2);
      brief = Object.values(given).map(value => typeof value === "string" ? value : JSON.stringify(value)).join(", ");
    } catch { this.given.textContent = call.arguments; }
    this.name.textContent = call.name;
    this.brief.textContent = brief;
    this.outcome.textContent = call.result === undefined ? "" : `= ${call.result}`;
    this.result.textContent = call.result ?? "None yet.";
    this.root.classList.toggle("failed", Boolean(call.failed));
  }
}

// ---- the page around them -----------------------------------------------------------------------

const chats = new Map(); // those that have been opened in this tab, by id
let current = newChat();
let following = true; // whether the end of the conversation is to stay in sight

const isAtEnd = () => { const s = $("scroll"); return s.scrollHeight - s.scrollTop - s.clientHeight < 80; };
const titleOf = text => { const line = text.trim().split("\n")[0]; return line.length > 60 ? line.slice(0, 58).trimEnd() + "…" : line; };

function toEnd() {
  following = true;
  const s = $("scroll");
  s.scrollTop = s.scrollHeight;
}

/** After the running answer has been stopped, if one is. */
async function whenIdle(chat, then) {
  while (running.has(chat.id)) await new Promise(go => setTimeout(go, 5));
  then();
}

function redraw() {
  views.clear();
  waiting.clear();
  for (const turn of current.turns) views.set(turn, turn.role === "user" ? new UserView(current, turn) : new AnswerView(current, turn));
  $("log").replaceChildren(...Array.from(views.values(), view => view.root));
  const isNew = current.turns.length === 0;
  $("hello").hidden = !isNew;
  $("log").hidden = isNew;
  $("title").textContent = current.title;
  document.title = isNew ? "ossia" : `${current.title} – ossia`;
  drawList();
  startedOrEnded(current);
}

function startedOrEnded(chat) {
  if (chat === current) {
    const busy = running.has(chat.id), hadFocus = [$("send"), $("stop")].includes(document.activeElement);
    $("send").hidden = busy;
    $("stop").hidden = !busy;
    if (hadFocus) $("text").focus();
  }
  drawList();
}

function drawList() {
  if ($("chats").querySelector("input")) return; // a name is being written
  const focused = document.activeElement?.closest?.("#chats button")?.dataset.key;
  $("chats").replaceChildren(...index.map(({ id, title }) => h("li", { class: `${id === current.id ? "current" : ""} ${running.has(id) ? "busy" : ""}` },
    h("button", { class: "chat-name", type: "button", title, "data-key": `${id} open`, "aria-current": id === current.id ? "true" : null, click: () => { openChat(id); closeSide(); } }, title),
    keyed(iconButton("pen", `Rename ${title}`, event => rename(id, event.currentTarget.closest("li"))), `${id} rename`),
    keyed(iconButton("bin", `Delete ${title}`, () => remove(id)), `${id} delete`))));
  if (!index.length) $("chats").append(h("li", { class: "none" }, "No conversations yet."));
  if (focused) $("chats").querySelector(`[data-key="${focused}"]`)?.focus();
}

function keyed(button, key) { button.dataset.key = key; return button; }

function openChat(id) {
  const chat = chats.get(id) ?? loadChat(id);
  if (!chat) { dropChat(id); toast("This conversation cannot be read any more."); redraw(); return; }
  use(chat);
}

function use(chat) {
  current = chat;
  remember(chat);
  redraw();
  toEnd();
  $("latest").hidden = true;
}

/** What a reload comes back to. */
function remember(chat) {
  chats.set(chat.id, chat);
  forTab("current", chat.id);
  store("current", chat.id);
}

function startNew() {
  if (current.turns.length) use(newChat());
  closeSide();
  $("text").focus();
}

function rename(id, item) {
  const named = index.find(one => one.id === id);
  let done = false;
  const finish = keep => {
    if (done) return;
    done = true;
    const chat = chats.get(id) ?? loadChat(id), title = field.value.trim();
    field.remove();
    if (keep && title && chat) { Object.assign(chat, { title, named: true }); saveChat(chat, false); }
    if (id === current.id) redraw(); else drawList();
    $("chats").querySelector(`[data-key="${id} open"]`)?.focus();
  };
  const field = h("input", { "aria-label": "Name of the conversation", maxlength: "120", blur: () => finish(true), keydown: event => {
    if (event.key === "Enter" && !event.isComposing) finish(true);
    if (event.key === "Escape") { event.stopPropagation(); finish(false); }
  } });
  field.value = named.title;
  item.replaceChildren(field);
  field.select();
}

function remove(id) {
  const chat = chats.get(id) ?? loadChat(id);
  running.get(id)?.stop();
  chats.delete(id);
  dropChat(id);
  if (id === current.id) use(newChat()); else drawList();
  $("new").focus();
  toast("Deleted.", "Undo", () => { if (chat) { saveChat(chat, false); use(chat); } });
}

function send(text) {
  if (!text.trim() || running.has(current.id)) return;
  if (!current.turns.length) current.title = titleOf(text);
  remember(current);
  current.turns.push({ role: "user", text });
  $("text").value = "";
  fit();
  ask(current);
}

function fit() {
  const area = $("text");
  area.style.height = "auto";
  area.style.height = `${area.scrollHeight}px`;
}

function closeSide() {
  $("side").classList.remove("open");
  $("menu").setAttribute("aria-expanded", "false");
}

const isDark = () => settings.theme === "dark" || (settings.theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);

function applyTheme() {
  if (settings.theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = settings.theme;
  $("theme").setAttribute("aria-pressed", String(isDark()));
  $("s-theme").value = settings.theme;
}

function set(name, value) {
  settings[name] = value;
  store("settings", settings);
}

function openSettings(focus = null) {
  $("settings").showModal();
  if (focus) $(focus).focus();
}

/** The model's name, to show it and to ask for it. */
async function findModel() {
  try {
    const response = await fetch("v1/models", { headers: headers() });
    const [model] = response.ok ? (await response.json()).data ?? [] : [];
    modelName = model?.id ?? "";
    if (model?.max_model_len) $("model").title = `The model that this server has. Its context: ${model.max_model_len.toLocaleString("en")} tokens`;
  } catch { /* the first question will say so, in words */ }
  $("model").textContent = modelName;
}

function listen() {
  const on = (id, event, act) => $(id).addEventListener(event, act);
  on("ask", "submit", event => { event.preventDefault(); send($("text").value); });
  on("text", "input", fit);
  on("text", "keydown", event => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send($("text").value); }
  });
  on("stop", "click", () => running.get(current.id)?.stop());
  on("new", "click", startNew);
  on("menu", "click", () => { $("side").classList.add("open"); $("menu").setAttribute("aria-expanded", "true"); $("new").focus(); });
  on("shut", "click", () => { closeSide(); $("menu").focus(); });
  on("veil", "click", closeSide);
  on("tune", "click", () => openSettings());
  on("settings-shut", "click", () => $("settings").close());
  on("settings", "click", event => { if (event.target === $("settings")) $("settings").close(); });
  on("theme", "click", () => { set("theme", isDark() ? "light" : "dark"); applyTheme(); });
  on("s-theme", "change", () => { set("theme", $("s-theme").value); applyTheme(); });
  on("latest", "click", () => { toEnd(); $("text").focus(); });
  on("effort", "change", event => set("effort", event.target.value));
  on("tools", "change", () => set("tools", $("tools").checked));
  for (const name of ["instructions", ...NUMBERS]) on(`s-${name}`, "input", event => set(name, event.target.validity.valid ? event.target.value : settings[name]));
  on("s-key", "input", () => { forTab("key", $("s-key").value.trim()); });
  on("s-key", "change", findModel);
  on("forget", "click", forget);
  on("scroll", "scroll", () => {
    following = isAtEnd();
    $("latest").hidden = following || !current.turns.length;
  });
  on("log", "click", event => {
    const button = event.target.closest("[data-copy]");
    if (button) copyFrom(button, button.closest(".code").querySelector("code").textContent);
  });
  document.addEventListener("keydown", shortcut);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
  addEventListener("pagehide", () => { for (const id of running.keys()) if (chats.has(id)) saveChat(chats.get(id), false); });
  addEventListener("storage", event => { if (event.key === PREFIX + "index") { index = load("index", []); drawList(); } });
}

function shortcut(event) {
  if ((event.ctrlKey || event.metaKey) && !event.altKey && !event.shiftKey && event.key.toLowerCase() === "k") {
    event.preventDefault();
    $("settings").close();
    startNew();
  }
  if (event.key !== "Escape" || $("settings").open) return;
  if ($("side").classList.contains("open")) { closeSide(); $("menu").focus(); }
  else running.get(current.id)?.stop();
}

function forget() {
  if (!confirm("Delete all conversations in this browser?")) return;
  for (const { id } of [...index]) { running.get(id)?.stop(); chats.delete(id); dropChat(id); }
  use(newChat());
  $("settings").close();
}

function begin() {
  $("tools").checked = settings.tools;
  for (const radio of document.getElementsByName("effort")) radio.checked = radio.value === settings.effort;
  for (const name of ["instructions", ...NUMBERS]) $(`s-${name}`).value = settings[name];
  $("s-key").value = apiKey();
  for (const idea of ["What is 37 + 48?", "What day is it today?", "Explain attention sinks in a few words."])
    $("ideas").append(h("button", { class: "button", type: "button", click: () => { send(idea); $("text").focus(); } }, idea));
  applyTheme();
  listen();
  const id = forTab("current") || load("current", null);
  const kept = id && loadChat(id);
  if (kept) use(kept); else redraw();
  if (matchMedia("(hover: hover)").matches) $("text").focus();
  findModel();
}

begin();
