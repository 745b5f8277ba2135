"use strict";

// The tools that the server runs: which it offers to this key, and which of them the user has switched on. Nothing is declared
// that is not offered: the server would pass it over.

let offered = []; // names, as /v1/models tells them: browser, python, shell, mcp:LABEL
let searched = null; // what the browser searches: corpus, web; null: nothing

const SEARCHES = { corpus: ["Search documents", "Those that this server has."], web: ["Search the web", "And open pages."] };
const KNOWN = {
  browser: { wire: { type: "web_search" }, about: () => SEARCHES[searched] ?? ["Open web pages", "By their addresses."] },
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
const chosenTools = () => settings.tools ? offeredTools().filter(({ name }) => settings.hosted?.[name] === true) : [];
const declaredTools = () => [...(settings.tools ? DECLARED : []), ...chosenTools().map(({ wire }) => wire)];

function readOffer(model) {
  const isName = name => typeof name === "string";
  offered = Array.isArray(model?.tools) ? model.tools.filter(isName) : [];
  searched = model?.searches ?? null;
  drawOffer();
}

/** The switches: in the settings with words about each, and for a conversation that begins as buttons. */
function drawOffer() {
  const tools = offeredTools();
  $("s-hosted").hidden = $("offer").hidden = tools.length === 0;
  $("s-hosted").replaceChildren("Tools of this server", h("small", {}, "The model may use those that are switched on."), ...tools.map(switchOf));
  $("offer").replaceChildren(h("span", {}, "It may also:"), ...tools.map(chipOf));
  const all = ["a calculator and the time, in this page", ...chosenTools().map(({ title }) => title)];
  $("tools").closest("label").title = `The model may use: ${all.join("; ")}`;
}

function switchOf({ name, title, about }) {
  const box = h("input", { type: "checkbox", role: "switch", "aria-label": title, change: () => choose(name, box.checked) });
  box.checked = settings.hosted?.[name] === true;
  return h("label", { class: "switch" }, box, h("span", {}, title, h("small", {}, about)));
}

function chipOf({ name, title, about }) {
  const isOn = settings.tools && settings.hosted?.[name] === true;
  const chip = h("button", { class: "button chip", type: "button", title: about, "data-tool": name, "aria-pressed": String(isOn), click: () => {
    if (!isOn && !settings.tools) { set("tools", true); $("tools").checked = true; }
    choose(name, !isOn);
    $("offer").querySelector(`[data-tool="${CSS.escape(name)}"]`).focus();
  } }, title);
  return chip;
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
