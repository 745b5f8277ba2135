"use strict";

// Answers on their way: asked for until nothing is left to be done, stopped, asked for again, gone on with, approved.

const ROUNDS = 16; // requests of one answer: a model that calls and calls is stopped
const running = new Map(); // a conversation's id -> {stop, turn}

/** Asks until the turn is answered: calls of the page's tools are carried out, and approvals waited for. */
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
    await askRounds(chat, turn, goesOn, control.signal, changed);
  } catch (error) {
    if (!control.signal.aborted && !(error instanceof Problem)) console.error(error);
    turn.state = control.signal.aborted ? "stopped" : "failed";
    const words = error instanceof Problem ? error.message : `The page failed: ${error.message}`;
    if (turn.state === "failed") turn.problem = { words, kind: error.kind ?? "" };
  } finally {
    running.delete(chat.id);
    if (chats.has(chat.id)) saveChat(chat);
    show(turn, true);
    startedOrEnded(chat);
    announce({ done: "The answer is complete.", stopped: "Stopped.", failed: turn.problem?.words, asking: "The model asks for your approval." }[turn.state]);
    afterwards(chat, turn);
  }
}

/** Sets how the turn ended, or throws. */
async function askRounds(chat, turn, goesOn, signal, changed) {
  for (let round = 0; ; round++) {
    if (round === ROUNDS) throw new Problem(`The model called tools ${ROUNDS} times in a row. Go on?`);
    const step = goesOn && round === 0 ? turn.steps.at(-1) : newStep();
    if (step !== turn.steps.at(-1)) turn.steps.push(step);
    changed();
    await requestStep(chat, turn, step, signal, changed);
    if (step.missing?.length) findModel(); // it does not offer what it did
    const calls = ofType(step, "function_call"), requests = unanswered(step);
    if (step.finish === "length" || !(calls.length || requests.length)) break;
    for (const call of calls) step.items.push(resultOf(call, runCall(call)));
    for (const request of requests) if (chat.allowed?.includes(nameOfCall(request))) step.items.push(approval(request, true));
    changed();
    if (unanswered(step).length) { turn.state = "asking"; return; }
  }
  turn.state = "done";
}

/** What is found out when the answer is over: files that code left, and how full the context is. */
async function afterwards(chat, turn) {
  const usesServer = turn.steps.some(step => step.items.some(item => HOSTED_CALLS.includes(item.type)));
  if (usesServer) {
    const [made] = await Promise.all([filesMade(chat, turn), countContext(chat, turn)]);
    turn.made = made;
    if (chats.has(chat.id)) saveChat(chat, false);
    show(turn, true);
  }
  if (!modelName) findModel(); // it could not be asked before
  if (chat === current) drawGauge();
}

// ---- approvals

const nameOfCall = request => `${request.server_label}.${request.name}`;
const approval = (request, approve, reason = "") =>
  ({ id: `mcpa_${newId()}`, type: "mcp_approval_response", approval_request_id: request.id, approve, ...(reason ? { reason } : {}) });

/** The user's word for a call; when all that the model asked for have it, the answer goes on. `always`: in this conversation. */
function decide(chat, turn, request, approve, { reason = "", always = false } = {}) {
  if (running.has(chat.id)) return;
  const step = turn.steps.at(-1);
  if (always) chat.allowed = [...new Set([...(chat.allowed ?? []), nameOfCall(request)])];
  step.items.push(approval(request, approve, reason.trim()));
  for (const other of unanswered(step)) if (chat.allowed?.includes(nameOfCall(other))) step.items.push(approval(other, true));
  if (unanswered(step).length) { saveChat(chat); show(turn, true); } else answer(chat, turn);
  $("text").focus();
}

// ---- again

/** Again, from what came to its end; what was being gone on with is gone on with. */
function retry(chat, turn) {
  if (running.has(chat.id)) return;
  const last = turn.steps.at(-1);
  if (last?.earlier && canContinue(turn)) { goOn(chat, turn); return; }
  if (last && !keepDone(last)) turn.steps.pop();
  redraw();
  answer(chat, turn);
}

/** Another answer; the one before stays as a version. */
function regenerate(chat, turn) {
  if (running.has(chat.id)) return;
  ask(chat, newVersion(chat, turn));
}

/** Whether an answer that was cut off can be gone on with. */
function canContinue(turn) {
  const step = turn.steps.at(-1), last = step?.items.at(-1);
  return last?.type === "message" && textOf(last) !== "" && (["stopped", "failed"].includes(turn.state) || step.finish === "length");
}

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
