"use strict";

// Elements made by name, text as text nodes, and the short messages at the edge of the page.

const $ = id => document.getElementById(id);

/** An element. `props`: attributes; functions are listeners, by the event's name; false and null are left out. */
function h(tag, props = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function icon(name, more = "") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", `icon ${more}`);
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

const iconButton = (name, label, click) =>
  h("button", { class: "icon-button", type: "button", "aria-label": label, title: label, click }, icon(name));

/** crypto.randomUUID is not there on pages that came over plain HTTP from another machine. */
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(12)), b => b.toString(16).padStart(2, "0")).join("");

const seconds = ms => (ms < 9950 ? (ms / 1000).toFixed(1) : Math.round(ms / 1000)) + " s";

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch { // no clipboard without HTTPS: the old way
    const area = h("textarea", { class: "unseen" });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  announce("Copied");
}

async function copyFrom(button, text) {
  await copyText(text);
  const label = button.querySelector("svg") ? null : button.textContent;
  if (label === null) toast("Copied");
  else { button.textContent = "Copied"; setTimeout(() => { button.textContent = label; }, 1500); }
}

let toastTimer = 0;
function toast(text, action = null, undo = null) {
  clearTimeout(toastTimer);
  const bar = $("toast");
  bar.replaceChildren(text);
  if (action) bar.append(h("button", { type: "button", click: () => { bar.hidden = true; undo(); } }, action));
  bar.hidden = false;
  toastTimer = setTimeout(() => { bar.hidden = true; }, action ? 8000 : 2500);
}

function announce(text) {
  $("status").textContent = text;
}
