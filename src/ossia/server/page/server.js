"use strict";

// Asking the server: a conversation as the Responses API has it, the stream of an answer, and what can go wrong.

let modelName = "";
let contextLength = null; // tokens of prompt and answer together, as the server tells it

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

const instructionsOf = chat => (chat.instructions ?? "").trim() || settings.instructions.trim();

/** The conversation up to `turn`, what that has so far included. */
async function inputItems(chat, turn) {
  const items = [];
  for (const one of chat.turns.slice(0, chat.turns.indexOf(turn) + 1)) {
    if (one.role === "user") {
      const isLast = one === chat.turns.findLast(other => other.role === "user");
      items.push({ type: "message", role: "user", content: await userContent(one, isLast) });
    } else items.push(...one.steps.flatMap(sentBack));
  }
  return items;
}

/** Text, or parts if files are attached to it. One that is gone is said to be; the last turn's is needed. */
async function userContent(turn, isLast) {
  if (!turn.files?.length) return turn.text;
  const parts = [];
  for (const { id, name } of turn.files) {
    const file = await readFile(id);
    if (!file && isLast) throw new Problem(`“${name}” is not in this browser any more. Attach it again, in a new message.`);
    parts.push(file ? await wirePart(file, runsCode()) : { type: "input_text", text: `File “${name}” is not there any more.\n\n` });
  }
  return turn.text ? [...parts, { type: "input_text", text: turn.text }] : parts;
}

/** What the prompt depends on. */
async function promptOf(chat, turn) {
  const body = { model: modelName || "gpt-oss", input: await inputItems(chat, turn), reasoning: { effort: settings.effort } };
  const instructions = instructionsOf(chat), tools = declaredTools();
  if (instructions) body.instructions = instructions;
  if (tools.length) body.tools = tools;
  return body;
}

async function requestBody(chat, turn, step) {
  const body = { ...await promptOf(chat, turn), stream: true, store: false, include: INCLUDE };
  if (step.opened !== null) body.continue_final_message = true;
  for (const [name, field] of Object.entries(NUMBERS)) if (settings[name] !== "" && Number.isFinite(Number(settings[name]))) body[field] = Number(settings[name]);
  return body;
}

async function post(path, body, signal) {
  let response;
  try {
    response = await fetch(path, { method: "POST", headers: headers(), body: JSON.stringify(body), signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await problemOf(response);
  return response;
}

/** One request: its stream into `step`. A step that has text already is gone on with. */
async function requestStep(chat, turn, step, signal, changed) {
  startClock(step);
  const body = await requestBody(chat, turn, step);
  const response = await post("v1/responses", body, signal);
  try {
    for await (const data of eventsOf(response)) {
      if (data === "[DONE]") continue;
      const event = JSON.parse(data);
      if (event.type === "response.output_item.done") await keepFigures(event.item);
      take(event, step);
      changed();
    }
  } catch (error) {
    if (signal.aborted || error instanceof Problem) throw error;
    throw new Problem("The connection broke before the answer was complete.");
  }
  if (step.finish === null) throw new Problem("The connection ended before the answer was complete.");
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

function startClock(step) {
  const now = performance.now(), opens = step.items.at(-1);
  step.opened = opens ? [...textOf(opens)].length : null;
  step.base = Math.max(0, step.items.length - 1);
  Object.assign(step, { finish: null, counted: false, earlier: step.tokens });
  step.pause = step.last === null ? null : now - step.last; // between this answer's two halves
  step.sent = step.last === null ? now : step.sent + step.pause;
  if (step.first !== null) step.first += step.pause;
}

/** How many tokens the conversation takes, where the answer itself does not tell: it took several samples. */
async function countContext(chat, turn) {
  const step = turn.steps.at(-1);
  if (!step || step.finish === null || step.context !== null) return;
  try {
    step.context = (await (await post("v1/responses/input_tokens", await promptOf(chat, turn))).json()).input_tokens;
  } catch { /* the gauge stays as it is */ }
}
