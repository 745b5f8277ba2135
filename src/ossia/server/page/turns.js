"use strict";

// How turns are shown, and drawn again while they grow.

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
    const files = (this.turn.files ?? []).map(file => h("span", { class: "file" }, icon("clip"), file.name, ...placeOf(file.forCode)));
    if (files.length) this.root.replaceChildren(h("div", { class: "row files" }, ...files)); else this.root.replaceChildren();
    if (this.turn.text) this.root.append(h("div", { class: "said" }, this.turn.text));
    this.root.append(h("div", { class: "row actions" }, ...versionButtons(this.chat, this.turn),
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

  /** Another version from here on; what followed stays with the one before. */
  save(text) {
    if (!text.trim() && !this.turn.files?.length) return;
    running.get(this.chat.id)?.stop();
    const { chat, turn } = this;
    whenIdle(chat, () => {
      if (!chat.turns.includes(turn)) return; // sent already
      const asked = { role: "user", text };
      if (turn.files) asked.files = turn.files;
      if (turn === chat.turns[0] && !chat.named) chat.title = titleOf(text);
      asked.versions = newVersion(chat, turn);
      chat.turns.push(asked);
      ask(chat);
      $("text").focus();
    });
  }
}

/** "2 / 3" and how to get to the others, if there are several versions. */
function versionButtons(chat, turn) {
  if (!turn.versions) return [];
  const { at, ends } = turn.versions;
  const to = (n, name, label) => {
    const button = iconButton(name, label, () => {
      if (running.has(chat.id)) { toast("Stop the answer first."); return; }
      showVersion(chat, turn, n);
      saveChat(chat, false);
      redraw();
    });
    button.disabled = n < 0 || n >= ends.length;
    return button;
  };
  return [h("span", { class: "versions" }, to(at - 1, "left", "Version before"), `${at + 1} / ${ends.length}`, to(at + 1, "right", "Version after"))];
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
    this.drawn = null; // what the footer was made from
    this.update();
  }

  update() {
    const { turn } = this, live = turn.state === "running";
    turn.steps.forEach((step, n) => {
      if (!this.steps[n]) this.body.append((this.steps[n] = new StepView(this.chat, turn, step)).root);
      if (n >= turn.steps.length - 2 || !live) this.steps[n].update(live && n === turn.steps.length - 1);
    });
    this.root.setAttribute("aria-busy", String(live));
    this.stats.textContent = statsOf(turn);
    // A short answer may run and end between two drawings: the state alone would not tell.
    const foot = JSON.stringify([turn.state, turn.steps.at(-1)?.finish, turn.problem, turn.made]);
    if (this.drawn !== foot) { this.drawn = foot; this.foot.replaceChildren(...this.footer()); }
  }

  footer() {
    const { turn, chat } = this, made = [], live = turn.state === "running";
    const wasCut = turn.state === "done" && turn.steps.at(-1)?.finish === "length";
    const note = turn.state === "stopped" ? "Stopped." : wasCut ? "The answer was cut off: no more tokens were allowed." : "";
    if (note) made.push(h("p", { class: "note" }, note));
    if (turn.problem) {
      const box = h("div", { class: "problem", role: "alert" }, h("p", {}, turn.problem.words));
      if (turn.problem.kind === "key") box.append(h("button", { class: "button", type: "button", click: () => openSettings("s-key") }, "Enter a key"));
      box.append(h("button", { class: "button", type: "button", click: () => retry(chat, turn) }, "Try again"));
      made.push(box);
    }
    if (turn.made?.length) made.push(h("div", { class: "row made", role: "group", "aria-label": "Files that the code left" }, ...turn.made.map(madeFile)));
    const row = h("div", { class: "row actions" });
    if (!live && canContinue(turn)) row.append(h("button", { class: "button", type: "button", click: () => goOn(chat, turn) }, "Continue"));
    if (!live) row.append(...versionButtons(chat, turn),
      iconButton("copy", "Copy answer", event => copyFrom(event.currentTarget, turn.steps.flatMap(textsOf).join("\n\n"))),
      iconButton("again", "Regenerate answer", () => regenerate(chat, turn)));
    row.append(this.stats);
    return [...made, row];
  }
}

/** A file in a container, to be saved. */
const madeFile = ({ container, id, name, bytes }) => h("button", { class: "button file", type: "button", title: `Save ${text(name)}`,
  click: () => fetchFile(text(container), text(id), text(name)) }, icon("save"), text(name), h("small", {}, sizeOf(bytes)));
const sizeOf = bytes => bytes < 1000 ? `${bytes} bytes` : bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;

const tokensOf = count => `${count.toLocaleString("en")} ${count === 1 ? "token" : "tokens"}`;

function statsOf(turn) {
  const asked = turn.steps.filter(step => step.first !== null);
  if (!asked.length) return "";
  const total = (list, of) => list.reduce((sum, one) => sum + of(one), 0);
  const tokens = total(asked, step => step.tokens), time = total(asked, step => step.last - step.first) / 1000;
  const speed = (tokens - asked.length) / time; // the first token of a step begins its clock
  const parts = [tokensOf(tokens)];
  if (time > 0.02 && speed > 0) parts.push(`${speed < 100 ? speed.toFixed(1) : Math.round(speed).toLocaleString("en")} tokens/s`);
  parts.push(`first token after ${((asked[0].first - asked[0].sent) / 1000).toFixed(2)} s`);
  const prompt = asked.at(-1).prompt;
  if (prompt !== null) parts.push(`prompt of ${tokensOf(prompt)}`);
  return parts.join(" · ");
}

class StepView {
  constructor(chat, turn, step) {
    this.chat = chat;
    this.turn = turn;
    this.step = step;
    this.views = []; // by the item's place; null: it is shown with another
    this.root = h("div");
  }

  update(live) {
    const { step } = this, last = step.items.length - 1;
    step.items.forEach((item, n) => {
      if (this.views[n] === undefined && (this.views[n] = this.viewOf(item))) this.root.append(this.views[n].root);
      this.views[n]?.update(item, live, step, n === last);
    });
    this.wait(live && (last < 0 || this.views[last] === null || (HOSTED_CALLS.includes(step.items[last].type) && isWhole(step.items[last]))));
    if (step.missing?.length && !this.told) {
      this.told = h("p", { class: "note" }, `The server does not offer this any more: ${step.missing.map(text).join(", ")}.`);
      this.root.prepend(this.told);
    }
  }

  viewOf(item) {
    if (item.type === "reasoning") return new ThoughtView();
    if (item.type === "message") return new MessageView();
    if (item.type === "mcp_approval_request") return new ApprovalView(this.chat, this.turn);
    return Object.hasOwn(CARDS, item.type) ? new CardView() : null;
  }

  /** While the model reads. */
  wait(on) {
    if (on && !this.dots) this.dots = h("div", { class: "waiting" }, "Reading");
    if (on) this.root.append(this.dots); // after what has come meanwhile
    if (!on && this.dots) { this.dots.remove(); this.dots = null; }
  }
}

class ThoughtView {
  constructor() {
    this.isOpen = null; // as the user wants it; null: open while it thinks
    this.label = h("span");
    const shown = h("div", { class: "thought-text" });
    this.plain = new PlainView(shown);
    const summary = h("summary", { click: () => { this.isOpen = !this.root.open; } }, icon("right", "turner"), this.label);
    this.root = h("details", { class: "thought" }, summary, shown);
  }

  update(item, live, step, isLast) {
    const said = textOf(item), thinking = live && isLast && !isWhole(item), took = step.times[item.id];
    if (this.plain.done !== said.length) this.plain.update(said);
    this.root.hidden = said === "";
    this.root.classList.toggle("live", thinking);
    if (this.thinking !== thinking) this.root.open = this.isOpen ?? thinking;
    this.thinking = thinking;
    this.label.textContent = thinking ? `Thinking, ${seconds(performance.now() - step.began)}` : typeof took === "number" ? `Thought for ${seconds(took)}` : "Thought";
  }
}

/** A message, its citations as numbers that lead to the pages, with a list of these below. */
class MessageView {
  constructor() {
    const shown = h("div", { class: "md" });
    this.markdown = new MarkdownView(shown);
    this.sources = h("ol", { class: "sources", "aria-label": "Sources" });
    this.root = h("div", { click: event => {
      const path = event.target.closest("[data-path]")?.dataset.path;
      if (path) this.save(path);
    } }, shown, this.sources);
    this.drawn = "";
  }

  update(item, live, step, isLast) {
    this.item = item;
    const isOpen = live && isLast && !isWhole(item), cited = citedIn(item);
    this.root.hidden = textOf(item) === "";
    const drawn = `${isOpen} ${cited.text.length} ${cited.pages.length}`;
    if (drawn === this.drawn && cited.text === this.markdown.text) return;
    this.drawn = drawn;
    this.markdown.update(cited.text, !isOpen);
    for (const link of this.markdown.root.querySelectorAll("a[href]")) {
      const page = cited.pages[Number(link.textContent) - 1];
      if (page?.href !== link.href) continue;
      for (const [name, value] of [["class", "cite"], ["title", `${page.title}\n${page.href}`], ["aria-label", `Source ${link.textContent}: ${page.title}`]]) link.setAttribute(name, value);
    }
    const lines = document.createDocumentFragment();
    lines.append(...cited.pages.map(page => h("li", {}, addressOf(page.href, page.title), h("span", {}, page.host))));
    this.sources.hidden = cited.pages.length === 0;
    morph(this.sources, lines);
  }

  /** A link to a file in a container. */
  save(path) {
    const found = partsOf(this.item).flatMap(part => isList(part.annotations)).find(one => one?.type === "container_file_citation" && pathOf(one.filename) === pathOf(path));
    if (found) fetchFile(text(found.container_id), text(found.file_id), text(found.filename));
    else toast("There is no such file at the server.");
  }
}

/** A path in a container, however it is written. */
function pathOf(written) {
  const bare = text(written).replace(/^(?:sandbox:)?\/mnt\/data\//, "");
  try { return decodeURIComponent(bare); } catch { return bare; }
}

/** The text of a message with a link for every citation of a page, whose text is the number of the page, and the pages. */
function citedIn(item) {
  const pages = [];
  const written = partsOf(item).map(part => {
    const spans = isList(part.annotations).filter(one => one?.type === "url_citation" && one.start_index < one.end_index).sort((a, b) => a.start_index - b.start_index);
    if (!spans.length) return part.text;
    const units = /[\ud800-\udbff]/.test(part.text) ? [...part.text] : part.text; // spans count code points
    const of = (from, to) => { const found = units.slice(from, to); return typeof found === "string" ? found : found.join(""); };
    let made = "", at = 0;
    for (const span of spans) {
      const href = webLink(span.url)?.href;
      if (!href || href.length > LONGEST - 10 || span.start_index < at) continue;
      let n = pages.findIndex(page => page.href === href);
      if (n < 0) n = pages.push({ href, title: text(span.title) || href, host: new URL(href).host }) - 1;
      made += `${of(at, span.start_index).trimEnd()}[${n + 1}](<${href}>)`;
      at = span.end_index;
      if (/[^\s.,;:!?)\]【]/.test(of(at, at + 1))) made += " ";
    }
    return made + of(at, undefined);
  });
  return { text: written.join(""), pages };
}
