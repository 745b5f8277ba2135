"use strict";

// Items of the Responses API, of which answers consist: read from the events of a stream, checked, and sent back. Knows no elements.

const INCLUDE = ["reasoning.encrypted_content", "code_interpreter_call.outputs", "web_search_call.action.sources"];
const CALLS = ["function_call", "shell_call", "apply_patch_call"]; // items whose results are items of their own
const HOSTED_CALLS = ["web_search_call", "code_interpreter_call", "mcp_call", "shell_call"]; // that the server carries out, and samples go on after

/** What one request brings. `prompt`, `context`: tokens that were read for it, and that the conversation takes after it. */
const newStep = () => ({ items: [], finish: null, tokens: 0, counted: false, prompt: null, context: null, times: {}, sent: 0, first: null, last: null });

const partsOf = item => (Array.isArray(item.content) ? item.content : []);
const textOf = item => partsOf(item).map(part => part.text ?? "").join("");
const textsOf = step => step.items.filter(item => item.type === "message").map(textOf).filter(Boolean);
const isWhole = item => !["in_progress", "searching", "interpreting"].includes(item.status);
const isRun = item => isWhole(item) && item.status !== "incomplete";
const ofType = (step, type) => step.items.filter(item => item.type === type);

const resultOf = (call, text) => ({ id: `fco_${newId()}`, type: "function_call_output", status: "completed", call_id: call.call_id, output: text });
const resultFor = (step, call) => step.items.find(item => item.type === `${call.type}_output` && item.call_id === call.call_id) ?? null;
const answerTo = (step, request) => step.items.find(item => item.type === "mcp_approval_response" && item.approval_request_id === request.id) ?? null;
const unanswered = step => ofType(step, "mcp_approval_request").filter(request => !answerTo(step, request));

/** Whether something that was kept or imported is an item; what its kind has beside this is looked at where it is shown. */
function isWireItem(item) {
  if (typeof item?.type !== "string" || typeof item.id !== "string") return false;
  const hasText = Array.isArray(item.content) && item.content.every(part => typeof part?.text === "string");
  if (item.type === "message" || item.type === "reasoning") return hasText;
  return item.type !== "function_call" || [item.call_id, item.name, item.arguments].every(value => typeof value === "string");
}

// ---- a stream

/** Where the text of an event goes. */
const GROWS = {
  "response.output_text.delta": (item, event) => { item.content[event.content_index].text += event.delta; },
  "response.reasoning_text.delta": (item, event) => { item.content[event.content_index].text += event.delta; },
  "response.function_call_arguments.delta": (item, event) => { item.arguments += event.delta; },
  "response.mcp_call_arguments.delta": (item, event) => { item.arguments += event.delta; },
  "response.code_interpreter_call_code.delta": (item, event) => { item.code += event.delta; },
};
const STATES = {
  "response.web_search_call.searching": "searching",
  "response.code_interpreter_call.interpreting": "interpreting",
};

/**
 * Takes an event of a stream into its step. `step.base` is the place of the first item that the stream brings; if that goes on
 * with a message which is there already, `step.opened` is the length of what it has, in code points, as citations count.
 */
function take(event, step) {
  const place = step.base + event.output_index, item = step.items[place], isOpened = event.output_index === 0 && step.opened !== null;
  if (GROWS[event.type]) {
    counted(step);
    GROWS[event.type](item, event);
  } else if (STATES[event.type]) item.status = STATES[event.type];
  switch (event.type) {
    case "response.created": step.missing = event.response["x-ossia"]?.unavailable_tools ?? []; break;
    case "response.output_item.added": isOpened ? item.status = "in_progress" : itemBegins(step, place, event.item); break;
    case "response.content_part.added": if (!isOpened) item.content[event.content_index] = { ...event.part }; break;
    case "response.output_text.annotation.added": annotate(item.content[event.content_index], event.annotation, isOpened ? step.opened : 0); break;
    case "response.output_item.done": isOpened ? item.status = event.item.status : itemEnds(step, place, event.item); break;
    case "response.completed": streamEnds(step, event.response, "stop"); break;
    case "response.incomplete": streamEnds(step, event.response, "length"); break;
    case "response.failed": throw new Problem(`The server failed in the midst of the answer. It says: ${event.response.error?.message ?? "nothing"}`);
    case "error": throw new Problem(`The server failed in the midst of the answer. It says: ${event.message ?? "nothing"}`);
  }
}

function itemBegins(step, place, item) {
  step.items[place] = structuredClone(item);
  step.last = performance.now();
  step.first ??= step.last;
  step.began = step.last;
}

function itemEnds(step, place, item) {
  if (item.type === "reasoning") {
    step.times[item.id] = performance.now() - step.began;
    item.encrypted_content = undefined; // its text is there
  }
  step.items[place] = item;
}

function annotate(part, annotation, shift) {
  (part.annotations ??= []).push({ ...annotation, start_index: annotation.start_index + shift, end_index: annotation.end_index + shift });
}

function counted(step) {
  step.last = performance.now();
  if (!step.counted) step.tokens++; // about: a delta is mostly a token
}

function streamEnds(step, response, reason) {
  step.finish = reason;
  const usage = response.usage;
  if (!usage) return;
  step.counted = true;
  step.tokens = step.earlier + usage.output_tokens;
  const isOneSample = !response.output.some(item => HOSTED_CALLS.includes(item.type));
  step.prompt = isOneSample ? usage.input_tokens : null; // else it is the sum of all samples' prompts
  step.context = isOneSample ? usage.total_tokens : null;
}

// ---- sending back

/** The items of a step that a later request needs. What was broken off is left out, but for text. */
function sentBack(step) {
  const answered = new Set(step.items.filter(item => item.type.endsWith("_output")).map(item => item.call_id));
  return step.items.filter(item => {
    if (item.type === "message") return textOf(item) !== "";
    if (CALLS.includes(item.type)) return answered.has(item.call_id);
    return isRun(item) && (item.type !== "reasoning" || textOf(item) !== "");
  }).map(item => item.outputs ? { ...item, outputs: item.outputs.map(withoutFile) } : item);
}

const withoutFile = output => output?.type === "image" ? { type: "image", url: "" } : output; // the model was told of it in words

/** Leaves of a step that broke off what was carried out, so that it need not be done again. False: that is nothing. */
function keepDone(step) {
  const isDone = item => item.type.endsWith("_output") || (HOSTED_CALLS.includes(item.type) && !CALLS.includes(item.type) && isRun(item));
  step.items.length = step.items.findLastIndex(isDone) + 1;
  return step.items.length > 0;
}
