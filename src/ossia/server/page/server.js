"use strict";

// Asking the server: a conversation as the API has it, the stream of an answer, and what can go wrong.

const ROUNDS = 16; // requests of one answer: a model that calls and calls is stopped
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

/** The conversation up to `turn`, what that has so far included, as the API has it. */
async function wireMessages(chat, turn) {
  const instructions = instructionsOf(chat);
  const messages = instructions ? [{ role: "system", content: instructions }] : [];
  for (const one of chat.turns.slice(0, chat.turns.indexOf(turn) + 1)) {
    if (one.role === "user") {
      const isLast = one === chat.turns.findLast(other => other.role === "user");
      messages.push({ role: "user", content: await userContent(one, isLast) });
      continue;
    }
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

/** Text, or parts if files are attached to it. One that is gone is said to be; the last turn's is needed. */
async function userContent(turn, isLast) {
  if (!turn.files?.length) return turn.text;
  const parts = [];
  for (const { id, name } of turn.files) {
    const file = await readFile(id);
    if (!file && isLast) throw new Problem(`“${name}” is not in this browser any more. Attach it again, in a new message.`);
    parts.push(file ? wirePart(file) : { type: "text", text: `File “${name}” is not there any more.\n\n` });
  }
  return turn.text ? [...parts, { type: "text", text: turn.text }] : parts;
}

async function requestBody(chat, turn, step) {
  const body = {
    model: modelName || "gpt-oss", messages: await wireMessages(chat, turn), stream: true,
    stream_options: { include_usage: true, continuous_usage_stats: true }, reasoning_effort: settings.effort,
  };
  if (step.text) Object.assign(body, { continue_final_message: true, add_generation_prompt: false }); // it goes on
  if (settings.tools) body.tools = DECLARED;
  for (const name of NUMBERS) if (settings[name] !== "" && Number.isFinite(Number(settings[name]))) body[name] = Number(settings[name]);
  return body;
}

const newStep = () => ({ thought: "", text: "", calls: [], finish: null, tokens: 0, counted: false, prompt: null, sent: 0, first: null, last: null, thoughtMs: null });

/** One request: its stream into `step`. A step that has text already is gone on with. */
async function requestStep(chat, turn, step, signal, changed) {
  const body = JSON.stringify(await requestBody(chat, turn, step));
  startClock(step);
  let response;
  try {
    response = await fetch("v1/chat/completions", { method: "POST", headers: headers(), body, signal });
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

function startClock(step) {
  const now = performance.now();
  Object.assign(step, { finish: null, counted: false, earlier: step.tokens });
  step.pause = step.last === null ? null : now - step.last; // between this answer's two halves
  step.sent = step.last === null ? now : step.sent + step.pause;
  if (step.first !== null) step.first += step.pause;
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
    step.tokens = step.earlier + chunk.usage.completion_tokens;
    step.prompt = chunk.usage.prompt_tokens;
  }
}

function endThought(step) {
  if (step.thought && step.thoughtMs === null) step.thoughtMs = performance.now() - step.first;
}

const running = new Map(); // a conversation's id -> {stop, turn}

/** Asks until the turn is answered: every call is carried out, and its result sent back. */
async function answer(chat, turn, goesOn = false) {
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
      const step = goesOn && round === 0 ? turn.steps.at(-1) : newStep();
      if (step !== turn.steps.at(-1)) turn.steps.push(step);
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
    if (chat === current) drawGauge();
    announce({ done: "The answer is complete.", stopped: "Stopped.", failed: turn.problem?.words }[turn.state]);
  }
}

/** Again, from the last step that came to its end; what was being gone on with is gone on with. */
function retry(chat, turn) {
  if (running.has(chat.id)) return;
  const last = turn.steps.at(-1);
  if (last?.earlier && canContinue(turn)) { goOn(chat, turn); return; }
  if (last && !(last.calls.length && last.calls.every(call => call.result !== undefined))) turn.steps.pop();
  redraw();
  answer(chat, turn);
}

/** Another answer; the one before stays as a version. */
function regenerate(chat, turn) {
  if (running.has(chat.id)) return;
  ask(chat, newVersion(chat, turn));
}

/** Whether an answer that was cut off can be gone on with. */
const canContinue = turn => Boolean(turn.steps.at(-1)?.text) && !turn.steps.at(-1).calls.length
  && (turn.state !== "done" || turn.steps.at(-1).finish === "length");

function goOn(chat, turn) {
  if (running.has(chat.id) || !canContinue(turn)) return;
  answer(chat, turn, true);
}

function ask(chat, versions = null) {
  const turn = { role: "assistant", state: "running", steps: [], problem: null };
  if (versions) turn.versions = versions;
  chat.turns.push(turn);
  redraw();
  toEnd();
  answer(chat, turn);
}
