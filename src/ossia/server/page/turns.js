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
    const files = (this.turn.files ?? []).map(file => h("span", { class: "file" }, icon("clip"), file.name));
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
      if (!this.steps[n]) this.body.append((this.steps[n] = new StepView(step)).root);
      if (n >= turn.steps.length - 2 || !live) this.steps[n].update(live && n === turn.steps.length - 1);
    });
    this.root.setAttribute("aria-busy", String(live));
    this.stats.textContent = statsOf(turn);
    // A short answer may run and end between two drawings: the state alone would not tell.
    const foot = JSON.stringify([turn.state, turn.steps.at(-1)?.finish, turn.problem]);
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
    const row = h("div", { class: "row actions" });
    if (!live && canContinue(turn)) row.append(h("button", { class: "button", type: "button", click: () => goOn(chat, turn) }, "Continue"));
    if (!live) row.append(...versionButtons(chat, turn),
      iconButton("copy", "Copy answer", event => copyFrom(event.currentTarget, turn.steps.map(step => step.text).filter(Boolean).join("\n\n"))),
      iconButton("again", "Regenerate answer", () => regenerate(chat, turn)));
    row.append(this.stats);
    return [...made, row];
  }
}

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
