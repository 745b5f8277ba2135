"use strict";

// The page around the conversation. What it is made of is in the files before it in the same script (page.py).

const chats = new Map(); // those that have been opened in this tab, by id
let current = newChat();
let following = true; // whether the end of the conversation is to stay in sight

const isAtEnd = () => { const s = $("scroll"); return s.scrollHeight - s.scrollTop - s.clientHeight < 80; };
let attaching = Promise.resolve(); // until files that were chosen have been read
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
  $("s-chat-instructions").value = current.instructions ?? "";
  drawGauge();
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
  const found = foundChats($("find").value);
  $("chats").replaceChildren(...found.map(({ id, title }) => h("li", { class: `${id === current.id ? "current" : ""} ${running.has(id) ? "busy" : ""}` },
    h("button", { class: "chat-name", type: "button", title, "data-key": `${id} open`, "aria-current": id === current.id ? "true" : null, click: () => { openChat(id); closeSide(); } }, title),
    keyed(iconButton("pen", `Rename ${title}`, event => rename(id, event.currentTarget.closest("li"))), `${id} rename`),
    keyed(iconButton("bin", `Delete ${title}`, () => remove(id)), `${id} delete`))));
  if (!found.length) $("chats").append(h("li", { class: "none" }, index.length ? "None has all these words." : "No conversations yet."));
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

async function send(text) {
  await attaching;
  if ((!text.trim() && !attached.length) || running.has(current.id)) return;
  if (!current.turns.length && !current.named) current.title = titleOf(text || attached[0].name);
  remember(current);
  const files = attached.splice(0).map(({ id, name, type, size }) => ({ id, name, type, size, forCode: runsCode() }));
  drawAttached();
  current.turns.push(files.length ? { role: "user", text, files } : { role: "user", text });
  $("text").value = "";
  fit();
  ask(current);
}

function attach(chosen) {
  attaching = attaching.then(() => attachEach(chosen));
}

async function attachEach(chosen) {
  for (const one of chosen) {
    try {
      const file = await fileOf(one, runsCode());
      await keepFile(file);
      attached.push(file);
    } catch (error) { toast(error.message); }
  }
  drawAttached();
  $("text").focus();
}

/** Says that code finds a file. */
const placeOf = forCode => forCode ? [h("small", { title: "The server puts it there when it is sent" }, "in /mnt/data")] : [];

function drawAttached() {
  $("attached").replaceChildren(...attached.map(file => h("span", { class: "file" }, icon("clip"), file.name, ...placeOf(runsCode()),
    iconButton("close", `Take ${file.name} away`, () => { attached.splice(attached.indexOf(file), 1); drawAttached(); }))));
  $("attached").hidden = !attached.length;
}

/** How much of the context the conversation takes, after its last answer. */
function drawGauge() {
  const step = current.turns.findLast(turn => turn.role === "assistant")?.steps.findLast(one => one.context !== null);
  const used = step?.context ?? null;
  $("gauge").hidden = used === null || !contextLength;
  if ($("gauge").hidden) return;
  const meter = $("gauge").querySelector("meter");
  Object.assign(meter, { max: contextLength, high: 0.8 * contextLength, value: used });
  $("gauge").querySelector("span").textContent = `${used.toLocaleString("en")} of ${contextLength.toLocaleString("en")} tokens of context`;
}

const download = (name, text, type) => saveAs(name, new Blob([text], { type }));

function saveAs(name, blob) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

const fileNameOf = title => title.replace(/[^\p{L}\p{N} _-]+/gu, " ").trim().slice(0, 60) || "conversation";

async function importFrom(chosen) {
  try {
    const added = await importAll(await chosen.text());
    for (const id of [...chats.keys()]) if (!running.has(id)) chats.delete(id);
    use(chats.get(current.id) ?? loadChat(current.id) ?? current);
    toast(added === 1 ? "1 conversation was added." : `${added} conversations were added.`);
  } catch (error) { toast(error.message); }
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
    contextLength = model?.max_model_len ?? null;
    readOffer(model);
    if (contextLength) $("model").title = `The model that this server has. Its context: ${tokensOf(contextLength)}`;
  } catch { /* the first question will say so, in words */ }
  drawHello();
  drawGauge();
  $("model").textContent = modelName;
}

/** What a newcomer reads: what nano is, and questions that the model can answer. */
function drawHello() {
  const isNano = modelName === "nano";
  $("about").hidden = !isNano;
  const ideas = ["What is 37 + 48?", "What day is it today?", isNano ? "Mia lives in Rome. Tom lives in Oslo. Where does Tom live?" : "Explain attention sinks in a few words."];
  $("ideas").replaceChildren(...ideas.map(idea => h("button", { class: "button", type: "button", click: () => { send(idea); $("text").focus(); } }, idea)));
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
  on("tools", "change", () => { set("tools", $("tools").checked); drawOffer(); });
  for (const name of ["instructions", ...Object.keys(NUMBERS)]) on(`s-${name}`, "input", event => set(name, event.target.validity.valid ? event.target.value : settings[name]));
  on("s-chat-instructions", "input", () => {
    current.instructions = $("s-chat-instructions").value;
    if (current.turns.length) saveChat(current, false);
  });
  on("find", "input", drawList);
  on("clip", "click", () => $("choose").click());
  on("choose", "change", () => { attach([...$("choose").files]); $("choose").value = ""; });
  on("text", "paste", event => { if (event.clipboardData.files.length) { event.preventDefault(); attach([...event.clipboardData.files]); } });
  on("export", "click", async () => download(`ossia ${new Date().toISOString().slice(0, 10)}.json`, await exportAll(), "application/json"));
  on("export-one", "click", () => download(`${fileNameOf(current.title)}.md`, asMarkdown(current), "text/markdown"));
  on("import", "click", () => $("import-file").click());
  on("import-file", "change", () => { importFrom($("import-file").files[0]); $("import-file").value = ""; });
  document.addEventListener("dragover", event => event.preventDefault());
  document.addEventListener("drop", event => { event.preventDefault(); attach([...event.dataTransfer.files]); });
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
  forgetFiles(Date.now() + 1);
  $("settings").close();
}

function begin() {
  $("tools").checked = settings.tools;
  for (const radio of document.getElementsByName("effort")) radio.checked = radio.value === settings.effort;
  for (const name of ["instructions", ...Object.keys(NUMBERS)]) $(`s-${name}`).value = settings[name];
  $("s-key").value = apiKey();
  applyTheme();
  listen();
  const id = forTab("current") || load("current", null);
  const kept = id && loadChat(id);
  if (kept) use(kept); else redraw();
  if (matchMedia("(hover: hover)").matches) $("text").focus();
  findModel();
  forgetFiles();
}

begin();
