"use strict";

// Markdown: `MarkdownView` shows a text that may still grow, `PlainView` one without marks.
//
// Lines to blocks, blocks to elements. While an answer grows, blocks that no later line can change are never looked at
// again; the open end is parsed anew and compared with what is shown, so that only what differs is touched.
// Formulas are math.js, colours of code colours.js. Left out on purpose: HTML (it is text), indented code, underlined headings, images (they become links).

const DEEPEST = 12; // lists and quotes in each other
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const ITEM = /^([ \t]*)([-*+•]|\d{1,9}[.)])([ \t]+|$)/;
const FENCE = /^([ \t]*)(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]|$)/;
const QUOTE = /^ {0,3}>/;
const MATH = /^[ \t]*(\\\[|\$\$|\\begin\{(?:equation|align|alignat|gather|multline|eqnarray)\*?\})/;
const DELIMITER = /^\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?$/;

function indentOf(line) {
  let width = 0;
  for (const c of line) {
    if (c === " ") width++;
    else if (c === "\t") width += 4 - width % 4;
    else break;
  }
  return width;
}

/** The line without its first columns, as far as they are blank. */
function dedent(line, columns) {
  let width = 0, at = 0;
  while (width < columns && at < line.length) {
    if (line[at] === " ") width++;
    else if (line[at] === "\t") width += 4 - width % 4;
    else break;
    at++;
  }
  return " ".repeat(Math.max(0, width - columns)) + line.slice(at);
}

const isBlank = line => line.trim() === "";
const isTable = (lines, i) => lines[i].includes("|") && i + 1 < lines.length
  && lines[i + 1].includes("|") && DELIMITER.test(lines[i + 1].trim());
const isItem = line => !RULE.test(line) && ITEM.test(line);

/** Whether the line ends a paragraph before it. */
function interrupts(lines, i) {
  const line = lines[i];
  if (FENCE.test(line) || HEADING.test(line) || RULE.test(line) || QUOTE.test(line) || MATH.test(line)) return true;
  const item = ITEM.exec(line);
  if (item) return item[0].length < line.length && (!/\d/.test(item[2]) || parseInt(item[2], 10) === 1);
  return isTable(lines, i);
}

/** Blocks: {at: the line where it begins, node}, and for an item of a list what list it is of and its number. */
function parseBlocks(lines, depth = 0) {
  const blocks = [];
  for (let i = 0; i < lines.length;) {
    if (isBlank(lines[i])) { i++; continue; }
    const take = FENCE.test(lines[i]) ? takeFence : MATH.test(lines[i]) ? takeMath : HEADING.test(lines[i]) ? takeHeading
      : RULE.test(lines[i]) ? takeRule : depth < DEEPEST && QUOTE.test(lines[i]) ? takeQuote
      : depth < DEEPEST && ITEM.test(lines[i]) ? takeItem : isTable(lines, i) ? takeTable : takeParagraph;
    const [block, next] = take(lines, i, depth);
    blocks.push({ at: i, ...block });
    i = next;
  }
  return blocks;
}

function takeFence(lines, i) {
  const [, indent, mark, info] = FENCE.exec(lines[i]);
  const closing = new RegExp(`^[ \\t]*${mark[0]}{${mark.length},}[ \\t]*$`);
  const width = indentOf(indent), code = [];
  for (i++; i < lines.length && !closing.test(lines[i]); i++) code.push(dedent(lines[i], width));
  const language = info.trim().split(/\s/)[0].slice(0, 40);
  const node = h("div", { class: "code" },
    h("div", {}, h("span", {}, language || "text"), h("button", { type: "button", "data-copy": "code" }, "Copy")),
    h("pre", { tabindex: "0", role: "group", "aria-label": `Code, ${language || "text"}` }, h("code", {}, ...coloured(code.join("\n"), language))));
  return [{ node }, i + 1];
}

/** A formula: nothing in it is Markdown. Until it ends, and where it is not understood, its source is shown. It ends at a blank line, too. */
function takeMath(lines, i) {
  const open = MATH.exec(lines[i])[1], close = closeOf(open);
  const taken = [];
  for (let first = true; i < lines.length && !isBlank(lines[i]); first = false) {
    const line = lines[i++].trimEnd();
    taken.push(line);
    if (line.indexOf(close, first ? line.indexOf(open) + 2 : 0) >= 0) {
      if (!line.endsWith(close)) { // words after it: all this is a paragraph
        const node = h("p");
        inline(taken.join("\n"), node);
        return [{ node }, i];
      }
      break;
    }
  }
  return [{ node: formulaIn("div", taken.join("\n").trim(), true) }, i];
}

const CLOSES = { "\\[": "\\]", "\\(": "\\)", $$: "$$", $: "$" };
const closeOf = open => CLOSES[open] ?? open.replace("begin", "end"); // an environment of equations needs no marks around it

/** An element with a formula, whose text is given with the marks around it. */
function formulaIn(tag, text, isBlock) {
  const open = Object.keys(CLOSES).find(mark => text.startsWith(mark)) ?? MATH.exec(text)[1];
  const marks = open in CLOSES ? open.length : 0, close = closeOf(open);
  const isWhole = text.length >= open.length + close.length && text.endsWith(close);
  const math = isWhole ? mathOf(text.slice(marks, text.length - marks), isBlock) : null;
  return h(tag, { class: math ? "math" : "math source" }, math ?? text);
}

function takeHeading(lines, i) {
  const level = HEADING.exec(lines[i])[1].length;
  const words = lines[i].trim().slice(level).trim().split(" ");
  if (/^#+$/.test(words.at(-1))) words.pop();
  const node = h(`h${level}`);
  inline(words.join(" "), node);
  return [{ node }, i + 1];
}

const takeRule = (lines, i) => [{ node: h("hr") }, i + 1];

function takeQuote(lines, i, depth) {
  const inner = [];
  for (; i < lines.length && !isBlank(lines[i]); i++) {
    if (QUOTE.test(lines[i])) inner.push(lines[i].replace(/^ {0,3}> ?/, ""));
    else if (isBlank(inner.at(-1)) || interrupts(lines, i)) break;
    else inner.push(lines[i]);
  }
  const node = h("blockquote");
  appendBlocks(node, parseBlocks(inner, depth + 1));
  return [{ node }, i];
}

/** One item of a list. Models indent carelessly: two columns more than the marker are enough to belong to it. */
function takeItem(lines, i, depth) {
  const [all, indent, marker] = ITEM.exec(lines[i]);
  const width = all.length >= lines[i].trimEnd().length
    ? indentOf(indent) + marker.length + 1 : indentOf(all.replace(marker, " ".repeat(marker.length)));
  const enough = Math.min(width, indentOf(indent) + 2);
  const inner = [lines[i].slice(all.length)];
  let fence = FENCE.exec(inner[0]), blanks = 0, loose = false;
  for (i++; i < lines.length; i++) {
    const line = lines[i];
    if (isBlank(line)) { blanks++; inner.push(""); continue; }
    if (!fence && indentOf(line) < enough && (blanks > 0 || isItem(line) || interrupts(lines, i))) break;
    loose ||= blanks > 0 && !fence;
    blanks = 0;
    inner.push(dedent(line, width));
    const mark = FENCE.exec(inner.at(-1));
    if (!fence) fence = mark;
    else if (mark && isBlank(mark[3]) && mark[2].startsWith(fence[2])) fence = null;
  }
  while (inner.length > 1 && isBlank(inner.at(-1))) inner.pop();
  inner[0] = inner[0].replace(/^\[([ xX])\] /, (_, mark) => mark === " " ? "☐ " : "☑ ");
  const node = h("li");
  appendBlocks(node, parseBlocks(inner, depth + 1), !loose);
  const number = parseInt(marker, 10);
  return [{ node, list: Number.isNaN(number) ? marker : marker.at(-1), number }, i];
}

function cellsOf(line) {
  const cells = line.trim().replace(/^\|/, "").split(/(?<!\\)\|/);
  if (cells.length > 1 && isBlank(cells.at(-1))) cells.pop();
  return cells.map(cell => cell.trim().replaceAll("\\|", "|"));
}

function takeTable(lines, i) {
  const aligned = cellsOf(lines[i + 1]).map(c => c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : null);
  const row = (tag, line) => h("tr", {}, ...cellsOf(line).slice(0, Math.max(aligned.length, 1)).map((text, n) => {
    const cell = h(tag, { "data-align": aligned[n], scope: tag === "th" ? "col" : null });
    inline(text, cell);
    return cell;
  }));
  const body = h("tbody"), head = h("thead", {}, row("th", lines[i]));
  for (i += 2; i < lines.length && lines[i].includes("|") && !FENCE.test(lines[i]); i++) body.append(row("td", lines[i]));
  return [{ node: h("div", { class: "table" }, h("table", {}, head, body)) }, i];
}

function takeParagraph(lines, i) {
  const taken = [lines[i++].trim()];
  for (; i < lines.length && !isBlank(lines[i]) && !interrupts(lines, i); i++) taken.push(lines[i].trim());
  const node = h("p");
  inline(taken.join("\n"), node);
  return [{ node }, i];
}

/** Puts blocks into `parent`, items that follow each other into one list. `tight`: no paragraphs, only their text. */
function appendBlocks(parent, blocks, tight = false) {
  let open = null;
  for (const { node, list, number } of blocks) {
    if (list === undefined) {
      open = null;
      if (tight && node.nodeName === "P") parent.append(...node.childNodes);
      else parent.append(node);
      continue;
    }
    if (open?.kind !== list) {
      open = { kind: list, node: Number.isNaN(number) ? h("ul") : h("ol", number === 1 ? {} : { start: number }) };
      parent.append(open.node);
    }
    open.node.append(node);
  }
}

const SPECIAL = /[\\`$*_~[\]!<&\n]|https?:\/\//g;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const ENTITIES = { "&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&#39;": "'", "&nbsp;": "\u00a0" };
const MOST_OPEN = 60; // emphases in each other, beyond which their marks are text
const LONGEST = 2000; // characters of a formula or an address; what is looked for is not looked for any farther

/** Text with emphasis, code, links and so on, into `parent`. Takes time in proportion to its length. */
function inline(text, parent) {
  const marks = [], brackets = [], unclosed = new Set();
  let plain = "", at = 0;
  const flush = () => { if (plain) parent.append(plain); plain = ""; };
  const put = node => { flush(); parent.append(node); };
  while (at < text.length) {
    SPECIAL.lastIndex = at;
    const found = SPECIAL.exec(text);
    plain += text.slice(at, found ? found.index : text.length);
    if (!found) break;
    at = found.index;
    const c = text[at], next = text[at + 1] ?? "";
    if (c === "\n") {
      plain = plain.trimEnd();
      put(h("br"));
      at++;
    } else if (c === "\\" || c === "$") {
      const end = mathEnd(text, at);
      if (end > 0) { const formula = text.slice(at, end); put(formulaIn("span", formula, MATH.test(formula))); at = end; }
      else if (c === "\\" && ESCAPABLE.test(next) && !"()".includes(next)) { plain += next; at += 2; }
      else { plain += c; at++; }
    } else if (c === "`") {
      const run = runOf(text, at);
      const end = unclosed.has(run) ? -1 : closingRun(text, at + run, run);
      if (end < 0) { unclosed.add(run); plain += text.slice(at, at + run); at += run; continue; }
      const code = text.slice(at + run, end).replaceAll("\n", " ");
      put(h("code", {}, code.startsWith(" ") && code.endsWith(" ") && code.trim() ? code.slice(1, -1) : code));
      at = end + run;
    } else if (c === "*" || c === "_" || c === "~") {
      const run = runOf(text, at);
      const mark = run > 3 || (c === "~" && run !== 2) ? null : markOf(text, at, run);
      if (mark && (mark.opens || mark.closes)) { put(mark.node); marks.push(mark); }
      else plain += text.slice(at, at + run);
      at += run;
    } else if (c === "[" || (c === "!" && next === "[")) {
      const node = document.createTextNode(c === "!" ? "![" : "[");
      put(node);
      brackets.push({ node, marks: marks.length });
      at += node.data.length;
    } else if (c === "]") {
      const opener = brackets.pop(), target = opener && linkTarget(text, at + 1);
      flush();
      if (!target) { plain = "]"; at++; continue; }
      const link = linkTo(target.url) ?? h("span");
      while (opener.node.nextSibling) link.append(opener.node.nextSibling);
      opener.node.replaceWith(link);
      emphasize(marks.splice(opener.marks));
      if (!link.hasChildNodes()) link.append(target.url);
      if (link.nodeName === "SPAN") link.append(` (${target.url})`); // an address that is not to be followed, in words
      else brackets.length = 0; // no link within a link
      at = target.end;
    } else if (c === "<") {
      const [whole, url] = /^<(?:((?:https?:\/\/|mailto:)[^\s<>]{1,2000})|br\s{0,3}\/?)>/i.exec(text.slice(at, at + LONGEST)) ?? [];
      const link = url && linkTo(url);
      if (whole) put(link ? withText(link, url) : url ? url : h("br"));
      else plain += c;
      at += whole ? whole.length : 1;
    } else if (c === "&") {
      const [entity] = /^&[#a-z0-9]{2,5};/.exec(text.slice(at, at + 8)) ?? [];
      plain += ENTITIES[entity] ?? c;
      at += ENTITIES[entity] ? entity.length : 1;
    } else if (found[0].length > 1) {
      const url = bareUrl(text, at), link = /\w/.test(plain.at(-1) ?? "") ? null : linkTo(url);
      if (link) put(withText(link, url));
      else plain += url;
      at += url.length;
    } else { plain += c; at++; }
  }
  flush();
  emphasize(marks);
}

function withText(link, text) { link.append(text); return link; }

function runOf(text, at) {
  let end = at;
  while (text[end] === text[at]) end++;
  return end - at;
}

function closingRun(text, from, length) {
  for (let at = text.indexOf("`", from); at >= 0;) {
    const run = runOf(text, at);
    if (run === length) return at;
    at = text.indexOf("`", at + run);
  }
  return -1;
}

/** Where a formula that begins here ends; 0 if none does. A dollar before a blank or a price is a dollar. */
function mathEnd(text, at) {
  const rest = text.slice(at, at + LONGEST), open = rest.startsWith("\\(") ? "\\(" : MATH.exec(rest)?.[1];
  if (open) {
    const end = rest.indexOf(closeOf(open), open.length);
    return end < 0 ? 0 : at + end + closeOf(open).length;
  }
  if (text[at] !== "$") return 0;
  const [whole] = /^\$(?![\s$])[^$\n]{0,300}?(?<![\s\\])\$(?!\d)/.exec(rest.slice(0, 320)) ?? [];
  return whole ? at + whole.length : 0;
}

/** A run of marks of emphasis: whether it can open and close, by what stands on either side of it. */
function markOf(text, at, run) {
  const before = at > 0 ? text[at - 1] : " ", after = text[at + run] ?? " ";
  const isSpace = c => /\s/u.test(c), isSign = c => /[\p{P}\p{S}]/u.test(c);
  const left = !isSpace(after) && (!isSign(after) || isSpace(before) || isSign(before));
  const right = !isSpace(before) && (!isSign(before) || isSpace(after) || isSign(after));
  const word = text[at] === "_";
  return {
    node: document.createTextNode(text.slice(at, at + run)), sign: text[at], run, left: run,
    opens: left && (!word || !right || isSign(before)), closes: right && (!word || !left || isSign(after)),
  };
}

/** Pairs marks and wraps what is between them. The marks' text nodes stand in the tree where the marks are. */
function emphasize(marks) {
  const open = [];
  for (const closer of marks) {
    while (closer.closes && closer.left > 0) {
      const n = open.findLastIndex(opener => pairs(opener, closer));
      if (n < 0) break;
      const opener = open[n];
      open.length = n + 1;
      const count = Math.min(opener.left, closer.left, 2);
      const element = h(closer.sign === "~" ? "s" : count === 2 ? "strong" : "em");
      while (opener.node.nextSibling !== closer.node) element.append(opener.node.nextSibling);
      opener.node.after(element);
      for (const mark of [opener, closer]) { mark.left -= count; mark.node.data = mark.sign.repeat(mark.left); }
      if (opener.left === 0) open.pop();
    }
    if (closer.opens && closer.left > 0) open.push(closer);
    if (open.length > MOST_OPEN) open.shift();
  }
  for (const { node } of marks) if (!node.data) node.remove();
}

function pairs(opener, closer) {
  if (opener.sign !== closer.sign) return false;
  const both = (opener.opens && opener.closes) || (closer.opens && closer.closes);
  return !(both && (opener.run + closer.run) % 3 === 0 && (opener.run % 3 !== 0 || closer.run % 3 !== 0));
}

/** `(address "title")` behind a bracket. */
function linkTarget(text, at) {
  if (text[at] !== "(") return null;
  const rest = text.slice(at, at + LONGEST);
  const [whole, angled, bare] = /^\(\s{0,9}(?:<([^<>\n]*)>|((?:[^\s()]|\([^\s()]*\))*))(?:\s{1,9}(?:"[^"]*"|'[^']*'))?\s{0,9}\)/.exec(rest) ?? [];
  return whole ? { url: angled ?? bare, end: at + whole.length } : null;
}

/** A link, if the address is one that is harmless to follow: the browser's own reading of it decides. */
function linkTo(address) {
  let url;
  try { url = new URL(address); } catch { return null; }
  if (address.startsWith("sandbox:/mnt/data/")) return h("button", { class: "saves", type: "button", title: "Save this file", "data-path": address });
  if (!["http:", "https:", "mailto:"].includes(url.protocol)) return null;
  return h("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", title: url.href });
}

function bareUrl(text, at) {
  let [url] = /^[^\s<>"`|*]+/.exec(text.slice(at, at + LONGEST));
  for (;;) {
    const last = url.at(-1);
    if (/[.,:;!?'\]}_~]/.test(last) || (last === ")" && url.split(")").length > url.split("(").length)) url = url.slice(0, -1);
    else return url;
  }
}

/** Shows Markdown that grows. */
class MarkdownView {
  constructor(root) {
    this.root = root;
    this.begin();
  }

  begin() {
    this.root.replaceChildren();
    this.text = "";
    this.isWhole = false;
    this.done = 0; // characters whose blocks no later text can change
    this.blocks = 0; // of the root's children, those that are done
    this.items = 0; // of the items of the child after those, the list that is open
    this.list = null; // its kind
  }

  update(text, whole) {
    if (this.isWhole && (!whole || text !== this.text)) this.begin(); // it goes on: its last block was not the last
    this.text = text;
    this.isWhole = whole;
    const lines = text.slice(this.done).split("\n");
    for (let n = 0; n < lines.length; n++) if (lines[n].endsWith("\r")) lines[n] = lines[n].slice(0, -1);
    const blocks = parseBlocks(lines);
    const settled = whole ? blocks.length : this.settled(blocks, lines.length);
    this.show(blocks);
    this.advance(blocks, settled, text);
  }

  /** How many blocks are certain: what follows them begins with two lines that are whole. The last line may grow. */
  settled(blocks, lines) {
    let n = blocks.length - 1;
    while (n > 0 && blocks[n].at + 1 >= lines - 1) n--;
    return Math.max(n, 0);
  }

  show(blocks) {
    const fresh = document.createDocumentFragment();
    appendBlocks(fresh, blocks);
    if (this.list === null) { morph(this.root, fresh, this.blocks); return; }
    const list = blocks[0]?.list === this.list ? fresh.firstChild : document.createDocumentFragment(); // goes on, or not
    morph(this.root.childNodes[this.blocks], list, this.items);
    list.remove?.();
    morph(this.root, fresh, this.blocks + 1);
  }

  advance(blocks, settled, text) {
    for (const { list } of blocks.slice(0, settled)) {
      if (this.list !== null && this.list !== list) { this.blocks++; this.items = 0; this.list = null; }
      if (list === undefined) this.blocks++;
      else { this.list = list; this.items++; }
    }
    if (settled === 0) return;
    let lines = settled < blocks.length ? blocks[settled].at : Infinity, end = this.done;
    for (; lines > 0 && end < text.length; lines--) {
      const at = text.indexOf("\n", end);
      end = at < 0 ? text.length : at + 1;
    }
    this.done = end;
  }
}

/** Makes the children of `shown` from number `from` on like those of `fresh`, and keeps what is alike. */
function morph(shown, fresh, from = 0) {
  let old = shown.childNodes[from] ?? null;
  for (const made of [...fresh.childNodes]) {
    if (old === null) { shown.append(made); continue; }
    const next = old.nextSibling;
    if (!alike(old, made)) shown.replaceChild(made, old);
    else if (old.nodeType !== Node.TEXT_NODE) morph(old, made);
    else if (old.data !== made.data) {
      if (made.data.startsWith(old.data)) old.appendData(made.data.slice(old.data.length));
      else old.data = made.data;
    }
    old = next;
  }
  while (old !== null) { const next = old.nextSibling; old.remove(); old = next; }
}

function alike(a, b) {
  if (a.nodeName !== b.nodeName) return false;
  if (a.nodeType !== Node.ELEMENT_NODE) return true;
  return a.attributes.length === b.attributes.length && [...a.attributes].every(({ name, value }) => b.getAttribute(name) === value);
}

/** Shows plain text that grows, a line an element. */
class PlainView {
  constructor(root) { this.root = root; this.done = 0; }

  update(text) {
    const lines = text.slice(this.done).split("\n");
    if (this.done > 0 || this.root.lastChild) this.root.lastChild.firstChild.appendData(lines.shift());
    this.root.append(...lines.map(line => h("div", {}, document.createTextNode(line))));
    this.done = text.length;
  }
}
