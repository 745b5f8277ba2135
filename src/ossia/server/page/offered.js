"use strict";

// The tools that the server runs: which it offers to this key, and which of them the user has switched on. Nothing is declared
// that is not offered: the server would pass it over.

let offered = []; // names, as /v1/models tells them: browser, python, shell, mcp:LABEL
let searched = null; // what the browser searches if nothing is chosen: corpus, web; null: nothing
let sources = []; // what may be chosen for it: {name, searches}

const SERVICES = { searx: "the web, with SearXNG", exa: "the web, with Exa", you: "the web, with You.com", none: "nothing: it opens addresses" };
const SEARCHES = { corpus: ["Search documents", "Those that this server has."], web: ["Search the web", "And open pages."] };
const KNOWN = {
  browser: {
    get wire() { return sources.length > 1 ? { type: "web_search", source: sourceChosen().name } : { type: "web_search" }; },
    about: () => SEARCHES[sources.length > 1 ? sourceChosen().searches : searched] ?? ["Open web pages", "By their addresses."],
  },
  python: { wire: { type: "code_interpreter", container: { type: "auto" } }, about: () => ["Run Python", "In a sandbox of the server, without a network."] },
  shell: { wire: { type: "shell", environment: { type: "container_auto" } }, about: () => ["Run commands", "In a sandbox of the server, without a network."] },
};

function toolOf(name) {
  const label = name.startsWith("mcp:") ? name.slice(4) : "";
  if (label) return { name, wire: { type: "mcp", server_label: label }, title: label, about: "Tools of another program, which the server is connected to." };
  if (!Object.hasOwn(KNOWN, name)) return null;
  const [title, about] = KNOWN[name].about();
  return { name, wire: KNOWN[name].wire, title, about };
}

const offeredTools = () => offered.map(toolOf).filter(Boolean);
const isChosen = ({ name }) => settings.tools && settings.hosted?.[name] === true;
const chosenTools = () => offeredTools().filter(isChosen);
const runsCode = () => chosenTools().some(({ name }) => name === "python" || name === "shell");
const declaredTools = () => [...(settings.tools ? DECLARED : []), ...chosenTools().map(({ wire }) => wire)];

const sourceChosen = () => sources.find(({ name }) => name === settings.source) ?? sources[0];
const sourceTitle = name => SERVICES[name] ?? `documents: ${name}`;

function readOffer(model) {
  const isName = name => typeof name === "string";
  offered = Array.isArray(model?.tools) ? model.tools.filter(isName) : [];
  searched = model?.searches ?? null;
  sources = Array.isArray(model?.sources) ? model.sources.filter(one => isName(one?.name)) : [];
  drawOffer();
}

/** The switches: in the settings with words about each, and for a conversation that begins as buttons. */
function drawOffer() {
  const tools = offeredTools();
  $("s-hosted").hidden = $("offer").hidden = tools.length === 0;
  $("s-hosted").replaceChildren("Tools of this server", h("small", {}, "The model may use those that are switched on."), ...tools.flatMap(tool => [switchOf(tool), ...sourcesOf(tool)]));
  $("offer").replaceChildren(h("span", {}, "It may also:"), ...tools.flatMap(tool => [chipOf(tool), ...(isChosen(tool) ? sourcesOf(tool) : [])]));
  const all = ["a calculator and the time, in this page", ...chosenTools().map(({ title }) => title)];
  $("tools").closest("label").title = `The model may use: ${all.join("; ")}`;
  $("clip").title = runsCode() ? "Attach files: code finds them in /mnt/data" : "Attach text or PDF files";
  drawAttached();
}

function switchOf({ name, title, about }) {
  const box = h("input", { type: "checkbox", role: "switch", "aria-label": title, change: () => choose(name, box.checked) });
  box.checked = settings.hosted?.[name] === true;
  return h("label", { class: "switch" }, box, h("span", {}, title, h("small", {}, about)));
}

function chipOf({ name, title, about }) {
  const isOn = isChosen({ name });
  const chip = h("button", { class: "button chip", type: "button", title: about, "data-tool": name, "aria-pressed": String(isOn), click: () => {
    if (!isOn && !settings.tools) { set("tools", true); $("tools").checked = true; }
    choose(name, !isOn);
    $("offer").querySelector(`[data-tool="${CSS.escape(name)}"]`).focus();
  } }, title);
  return chip;
}

/** A choice of what the browser searches, where there is one. */
function sourcesOf({ name }) {
  if (name !== "browser" || sources.length < 2) return [];
  const list = h("select", { "aria-label": "What to search", change: () => {
    const place = list.closest("#s-hosted, #offer");
    set("source", list.value);
    drawOffer();
    place.querySelector("select").focus();
  } }, ...sources.map(one => h("option", { value: one.name }, sourceTitle(one.name))));
  list.value = sourceChosen().name;
  return [list];
}

function choose(name, isOn) {
  set("hosted", { ...settings.hosted, [name]: isOn });
  const focused = document.activeElement?.getAttribute("aria-label");
  drawOffer();
  if ($("settings").open && focused) [...$("s-hosted").querySelectorAll("input")].find(box => box.getAttribute("aria-label") === focused)?.focus();
}

// ---- files that code leaves

/** The files of the containers that a turn's calls ran in, as far as they are new or changed since the turns before. */
async function filesMade(chat, turn) {
  const used = new Set();
  for (const step of turn.steps) for (const item of step.items) {
    const id = item.container_id ?? item.environment?.container_id;
    if (typeof id === "string" && id && isWhole(item)) used.add(id);
  }
  const before = chat.turns.slice(0, chat.turns.indexOf(turn)).flatMap(one => one.made ?? []);
  const made = [];
  for (const container of used) for (const file of await filesOf(container)) {
    const one = { container, id: String(file.id), name: String(file.path).replace(/^\/mnt\/data\//, ""), bytes: Number(file.bytes), at: Number(file.created_at) };
    if (file.source === "assistant" && !before.some(known => known.id === one.id && known.bytes === one.bytes && known.at === one.at)) made.push(one);
  }
  return made;
}

async function filesOf(container) {
  try {
    const response = await fetch(`v1/containers/${encodeURIComponent(container)}/files?limit=100`, { headers: headers() });
    return response.ok ? (await response.json()).data ?? [] : [];
  } catch { return []; } // without a server there are no files to be had, either
}

/** Saves a file of a container on the user's machine. */
async function fetchFile(container, id, name) {
  try {
    const response = await fetch(`v1/containers/${encodeURIComponent(container)}/files/${encodeURIComponent(id)}/content`, { headers: headers() });
    if (response.ok) saveAs(name.split("/").at(-1), await response.blob());
    else toast(response.status === 404 ? "The server does not have this file any more: it keeps files for a while only." : (await problemOf(response)).message);
  } catch { toast("The server cannot be reached."); }
}
