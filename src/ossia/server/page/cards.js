"use strict";

// Calls of tools, and what came of them, as cards: one line that says what happened, and behind it the rest. All that comes from a
// tool or from the model is text; links lead into the web.

const TRACEBACK = /^Traceback \(most recent call last\):$/m;
const LONGEST_SHOWN = 20000; // characters of an output
const cut = text => text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN)}\n… ${(text.length - LONGEST_SHOWN).toLocaleString("en")} characters more` : text;
const text = value => typeof value === "string" ? value : value === null || value === undefined ? "" : JSON.stringify(value, null, 2);
const firstLine = value => text(value).trim().split("\n")[0].slice(0, 200);
/** As it is, but for marks that turn the direction of what is read. */
const straight = value => text(value).replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
const isList = value => Array.isArray(value) ? value : [];

/** Arguments as one line, and as they are shown in full: all that is written, in the digits that are written. */
function argumentsOf(written) {
  try {
    const given = JSON.parse(text(written).replace(NUMBERS_IN_JSON, word => isExact(word) ? word : `"${word}"`) || "{}");
    const values = given !== null && typeof given === "object" ? Object.values(given) : [given];
    return [values.map(value => typeof value === "string" ? value : JSON.stringify(value)).join(", "), indented(text(written) || "{}")];
  } catch { return [text(written), text(written)]; }
}

// A string without its end goes to the end of the text: it is not begun anew at every quotation mark in it.
const NUMBERS_IN_JSON = /"(?:[^"\\]|\\[^]?)*"?|-?\d[\d.eE+-]*/g;
const WORDS_IN_JSON = /"(?:[^"\\]|\\[^]?)*"?|[{}[\],:]|[^\s{}[\],:"]+/g;
const isExact = word => word.startsWith('"') || String(Number(word)) === word;

/** JSON on lines, word for word: a reader of JSON rounds large numbers, and forgets keys that come twice. */
function indented(json) {
  let depth = 0, out = "", before = "";
  const line = () => `\n${"  ".repeat(depth)}`;
  for (const [word] of json.matchAll(WORDS_IN_JSON)) {
    const closes = "]}".includes(word), isEmpty = closes && "[{".includes(before);
    if (closes) depth--;
    if (!isEmpty && before && (closes || "[{,".includes(before))) out += line();
    out += word.startsWith('"') ? JSON.stringify(JSON.parse(word)) : word === ":" ? ": " : word;
    if ("[{".includes(word)) depth++;
    before = word;
  }
  return out;
}

/** A link into the web, which is all that tools may lead to. */
function webLink(url) {
  const link = linkTo(text(url));
  return ["http:", "https:"].includes(link?.protocol) ? link : null;
}

/** An address for people. A link, if it may be one. */
function addressOf(url, words = "") {
  let shown = words || text(url);
  if (!words) try { shown = decodeURI(shown).replace(/^https?:\/\//, "").replace(/\/$/, ""); } catch { /* as it is */ }
  const link = webLink(url);
  return link ? withText(link, shown.slice(0, 200)) : h("span", {}, shown.slice(0, 200));
}

const entry = (name, ...shown) => [h("dt", {}, name), h("dd", {}, ...shown)];
const plain = value => h("pre", { tabindex: "0" }, cut(text(value)));
const programOf = (code, language) => h("div", { class: "code" },
  h("div", {}, h("span", {}, language), h("button", { type: "button", "data-copy": "code" }, "Copy")),
  h("pre", { tabindex: "0", role: "group", "aria-label": `Code, ${language}` }, h("code", {}, ...coloured(code, language))));

/**
 * What there is to say of an item: `icon`, `name`, `brief` and `outcome` in its line; `body`: a function that makes the rest.
 * `state`: running, failed, broken (it was interrupted), done.
 */
const CARDS = {
  function_call: (item, step) => {
    const result = resultFor(step, item), [brief, whole] = argumentsOf(item.arguments), output = text(result?.output);
    return {
      icon: "tool", name: item.name, brief, outcome: result ? `= ${output}` : "", state: result && !output.startsWith(FAILED) ? "done" : result ? "failed" : null,
      body: () => [...entry("Arguments", plain(whole)), ...entry("Result", plain(result ? output : "None yet."))],
    };
  },
  web_search_call: item => {
    const action = item.action ?? {}, card = (SEARCH_CARDS[action.type] ?? SEARCH_CARDS.search)(action, item);
    return item.error ? { ...card, outcome: "failed", body: () => [...card.body(), ...entry("Error", plain(item.error))] } : card;
  },
  code_interpreter_call: (item, step, live) => {
    const logs = outputsOf(item).filter(one => one.type === "logs").map(one => text(one.logs)).join("\n").trim();
    const figures = outputsOf(item).filter(one => one.type === "image").length;
    const running = item.status === "interpreting" ? "Running Python" : "Writing Python", isWrong = TRACEBACK.test(logs);
    return {
      icon: "code", name: live ? running : "Ran Python", brief: firstLine(item.code), isOpen: live,
      state: isWrong ? "failed" : null, outcome: isWrong ? logs.split("\n").at(-1) : logs ? `= ${firstLine(logs)}` : figures ? `${figures} ${figures === 1 ? "figure" : "figures"}` : "",
      body: () => [...entry("Code", programOf(text(item.code), "python")), ...logs ? entry("Output", plain(logs)) : [],
        ...outputsOf(item).filter(one => one.type === "image").flatMap((one, n) => entry(`Figure ${n + 1}`, figureOf(one, n)))],
    };
  },
  mcp_call: item => {
    const [brief, whole] = argumentsOf(item.arguments), error = item.error ? errorOf(item.error) : "";
    return {
      icon: "plug", name: `${text(item.server_label)}: ${text(item.name)}`, brief, outcome: error ? firstLine(error) : item.output ? `= ${firstLine(item.output)}` : "",
      state: error ? "failed" : null,
      body: () => [...entry("Arguments", plain(whole)), ...error ? entry("Error", plain(error)) : [], ...item.output ? entry("Output", plain(item.output)) : []],
    };
  },
  mcp_list_tools: item => {
    const tools = isList(item.tools), error = item.error ? errorOf(item.error) : "";
    return {
      icon: "plug", name: text(item.server_label), brief: error || `${tools.length} ${tools.length === 1 ? "tool" : "tools"}`, state: error ? "failed" : "done",
      body: () => error ? entry("Error", plain(error)) : tools.flatMap(tool => entry(text(tool?.name), h("span", {}, cut(text(tool?.description))))),
    };
  },
  shell_call: (item, step) => {
    const commands = isList(item.action?.commands).map(text), outputs = isList(resultFor(step, item)?.output);
    const code = outputs.find(one => one?.outcome?.exit_code)?.outcome.exit_code;
    const timedOut = outputs.some(one => one?.outcome?.type === "timeout");
    return {
      icon: "code", name: outputs.length ? "Ran commands" : "Running commands", brief: firstLine(commands[0]), state: code || timedOut ? "failed" : null,
      outcome: timedOut ? "out of time" : code ? `exit code ${code}` : outputs.length ? `= ${firstLine(outputs[0]?.stdout)}` : "",
      body: () => commands.flatMap((command, n) => [...entry(`Command ${n + 1}`, programOf(command, "sh")),
        ...outputs[n]?.stdout ? entry("Output", plain(outputs[n].stdout)) : [], ...outputs[n]?.stderr ? entry("Errors", plain(outputs[n].stderr)) : []]),
    };
  },
  apply_patch_call: item => {
    const { type, path, diff } = item.operation ?? {};
    const name = { create_file: "New file", update_file: "Changed file", delete_file: "Deleted file" }[type] ?? "Patch";
    return { icon: "pen", name, brief: text(path), outcome: "", body: () => entry("Patch", programOf(text(diff), "diff")) };
  },
};

const SEARCH_CARDS = {
  search: (action, item) => {
    const sources = isList(action.sources);
    const query = text(action.query) || isList(action.queries).map(text).join(", ");
    return {
      icon: "find", name: !isWhole(item) ? "Searching" : query ? "Searched" : "Browser", brief: query || text(item.error),
      outcome: item.status === "completed" ? `${sources.length} ${sources.length === 1 ? "result" : "results"}` : "",
      body: () => [...query ? entry("Looked for", h("span", {}, query)) : [],
        ...sources.length ? entry("Results", h("ol", {}, ...sources.map(one => h("li", {}, addressOf(one?.url, text(one?.title)))))) : []],
    };
  },
  open_page: (action, item) => ({
    icon: "page", name: isWhole(item) ? "Opened" : "Opening", brief: text(action.title) || text(action.url), outcome: "",
    body: () => action.url ? entry("Page", addressOf(action.url, text(action.title)), ...action.title ? [h("small", {}, text(action.url))] : []) : [],
  }),
  find_in_page: (action, item) => ({
    icon: "find", name: isWhole(item) ? "Looked for" : "Looking for", brief: `“${text(action.pattern)}” in ${text(action.title) || text(action.url)}`, outcome: "",
    body: () => [...entry("Looked for", h("span", {}, text(action.pattern))), ...entry("Page", addressOf(action.url, text(action.title)))],
  }),
};

function errorOf(error) {
  if (typeof error === "string") return error;
  return isList(error.content).map(part => text(part?.text)).filter(Boolean).join("\n") || text(error.message) || text(error);
}

/** A figure that lies among the files of this browser. */
function figureOf(output, n) {
  const place = h("div", { class: "figure" }, "…");
  const shown = data => FIGURE.test(data ?? "") ? h("img", { src: data, alt: `Figure ${n + 1} that the code drew` }) : "This browser does not have the figure any more.";
  if (output.file) readFile(output.file).then(file => place.replaceChildren(shown(file?.data)));
  else place.replaceChildren(shown(output.url));
  return place;
}

const STATES_IN_WORDS = { running: "running", failed: "failed", broken: "interrupted" };

/** A card of a call. It is open while code is written, and as the user wants it after. */
class CardView {
  constructor() {
    this.icon = h("span", { class: "glyph" });
    this.name = h("span", { class: "name" });
    this.brief = h("span", { class: "brief" });
    this.outcome = h("span", { class: "outcome" });
    this.body = h("dl");
    this.isOpen = null;
    const summary = h("summary", { click: () => { this.isOpen = !this.root.open; } }, this.icon, this.name, this.brief, this.outcome, icon("right", "turner"));
    this.root = h("details", { class: "call" }, summary, this.body);
  }

  /** `live`: the answer is being written. */
  update(item, live, step) {
    const isRunning = live && !isWhole(item), result = resultFor(step, item);
    if (!isRunning && !this.isRunning && item === this.item && result === this.result) return;
    Object.assign(this, { isRunning, item, result });
    const card = CARDS[item.type](item, step, isRunning);
    const own = item.status === "failed" ? "failed" : isRunning ? "running" : isWhole(item) && item.status !== "incomplete" ? "done" : "broken";
    const state = card.state ?? own;
    this.icon.replaceChildren(icon(card.icon));
    this.name.textContent = card.name;
    this.brief.textContent = card.brief;
    this.outcome.textContent = card.outcome || (STATES_IN_WORDS[state] ?? "");
    for (const name of ["running", "failed", "broken"]) this.root.classList.toggle(name, state === name);
    this.root.open = this.isOpen ?? card.isOpen ?? false;
    if (isRunning) morph(this.body, h("dl", {}, ...card.body())); else this.body.replaceChildren(...card.body());
  }
}

/** A call that waits for the user's word, and what that was. */
class ApprovalView {
  constructor(chat, turn) {
    this.chat = chat;
    this.turn = turn;
    this.root = h("div");
    this.drawn = null;
  }

  update(item, live, step) {
    const said = answerTo(step, item), { chat, turn } = this;
    const isAsked = !said && turn.state === "asking" && turn === chat.turns.at(-1) && step === turn.steps.at(-1);
    const drawn = `${isAsked} ${said?.id} ${live}`;
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    this.root.replaceChildren(isAsked ? this.asking(item) : this.told(item, said, live));
  }

  asking(item) {
    const reason = h("input", { type: "text", "aria-label": "Why not (optional)", placeholder: "Why not (optional)", maxlength: "1000" });
    const say = (approve, more) => decide(this.chat, this.turn, item, approve, more);
    const name = straight(item.name), label = straight(item.server_label);
    return h("section", { class: "approval", role: "group", "aria-label": `May the model use ${name} of ${label}?` },
      h("p", {}, icon("plug"), h("span", {}, "May the model use ", h("b", {}, name), " of ", h("b", {}, label), "?")),
      h("pre", { tabindex: "0", role: "group", "aria-label": "Arguments" }, straight(argumentsOf(item.arguments)[1])), // all that will be run
      h("div", { class: "row" },
        h("button", { class: "button main", type: "button", click: () => say(true) }, "Approve"),
        h("button", { class: "button", type: "button", click: () => say(true, { always: true }) }, "Always in this conversation")),
      h("form", { class: "row", submit: event => { event.preventDefault(); say(false, { reason: reason.value }); } },
        h("button", { class: "button", type: "submit" }, "Refuse"), reason));
  }

  told(item, said, live) {
    const refused = said?.reason ? `refused: ${text(said.reason)}` : "refused";
    const outcome = said ? (said.approve ? "approved" : refused) : live ? "" : "not answered";
    const [brief, whole] = argumentsOf(item.arguments);
    return h("details", { class: `call ${said?.approve ? "" : "broken"}` },
      h("summary", {}, h("span", { class: "glyph" }, icon("plug")), h("span", { class: "name" }, `May it use ${text(item.server_label)}: ${text(item.name)}?`),
        h("span", { class: "brief" }, brief), h("span", { class: "outcome" }, outcome), icon("right", "turner")),
      h("dl", {}, ...entry("Arguments", plain(whole))));
  }
}
