"use strict";

// Colours of code: `coloured(code, language)` gives text and spans, by one expression for a language's comments, strings, numbers
// and words. It knows no grammar: what it cannot tell stays as it is, and the text is always whole.

const LONGEST_COLOURED = 40000; // characters; a longer text stays plain

const C_LIKE = { line: "//", block: true, quotes: `"'`, words: `break case catch class const continue default do else enum export extends
  extern false final finally for if import in instanceof interface namespace new null package private protected public return static
  struct super switch this throw throws true try typedef typeof union using virtual void volatile while auto bool boolean byte char
  double float int long short signed unsigned var let string async await yield function of undefined type implements readonly as
  from abstract template typename operator constexpr override nullptr sizeof` };
const LANGUAGES = {
  python: { line: "#", triple: true, quotes: `"'`, prefix: "[rbfuRBFU]{0,2}", words: `and as assert async await break case class continue def del elif else except
    False finally for from global if import in is lambda match None nonlocal not or pass raise return self True try while with yield` },
  javascript: { ...C_LIKE, quotes: "\"'`" }, c: C_LIKE, java: C_LIKE, php: { ...C_LIKE, line: "//|#", more: "echo foreach fn use elseif endif isset" },
  csharp: { ...C_LIKE, more: "foreach get set internal sealed decimal object record" },
  go: { ...C_LIKE, quotes: "\"'`", words: `break case chan const continue default defer else fallthrough false for func go goto if import interface
    map nil package range return select struct switch true type var string int error bool byte` },
  rust: { ...C_LIKE, quotes: `"`, words: `as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move
    mut pub ref return self Self static struct super trait true type unsafe use where while usize i32 u32 i64 u64 f32 f64 bool str String Vec Option Result` },
  swift: { ...C_LIKE, more: "func guard defer init deinit protocol extension nil where inout some any" },
  kotlin: { ...C_LIKE, more: "fun val when object companion data sealed suspend override is" },
  ruby: { line: "#", quotes: `"'`, words: `begin class def do else elsif end ensure false for if in module next nil not or and rescue return self
    super then true unless until when while yield require attr_accessor` },
  lua: { line: "--", quotes: `"'`, words: "and break do else elseif end false for function goto if in local nil not or repeat return then true until while" },
  r: { line: "#", quotes: `"'`, words: "break else FALSE for function if in Inf NA NaN next NULL repeat return TRUE while library" },
  shell: { line: "(?<![^\\s;])#", quotes: `"'`, words: `case do done elif else esac export fi for function if in local return select then until while
    set source echo cd exit sudo` },
  sql: { line: "--", block: true, quotes: `'"`, anyCase: true, words: `add all alter and as asc begin between by case check column commit constraint create
    cross default delete desc distinct drop else end exists foreign from full group having if in index inner insert into is join key left
    like limit not null offset on or order outer primary references returning right rollback select set table then union unique update
    using values view when where with integer int text varchar boolean date timestamp numeric count sum avg min max` },
  json: { quotes: `"`, words: "true false null" },
  yaml: { line: "(?<!\\S)#", quotes: `"'`, words: "true false null yes no on off" },
  toml: { line: "#", triple: true, quotes: `"'`, words: "true false" },
  css: { block: true, quotes: `"'`, words: "important media supports import keyframes root from to" },
  haskell: { line: "--", quotes: `"`, words: "case class data deriving do else if import in infix instance let module newtype of then type where qualified" },
  dockerfile: { line: "#", quotes: `"'`, words: "FROM RUN CMD LABEL EXPOSE ENV ADD COPY ENTRYPOINT VOLUME USER WORKDIR ARG ONBUILD HEALTHCHECK SHELL AS" },
};
const ALIASES = pairsOf(`py python python3 python js javascript jsx javascript ts javascript tsx javascript typescript javascript mjs javascript
  cpp c c++ c h c hpp c cc c objc c cuda c cs csharp c# csharp golang go rs rust rb ruby kt kotlin sh shell bash shell zsh shell
  console shell yml yaml jsonc json json5 json scss css less css hs haskell docker dockerfile ini toml conf toml make shell
  makefile shell scala kotlin dart java julia ruby perl ruby postgres sql mysql sql sqlite sql`);

const expressions = new Map(); // of the languages that have been needed

function expressionOf(language) {
  if (!expressions.has(language)) expressions.set(language, build(LANGUAGES[language]));
  return expressions.get(language);
}

/** Groups: comment, string, number, word. Every alternative is bounded by its own first and last character: no backtracking. */
function build({ line, block, triple, quotes, prefix = "", words: known, more = "", anyCase }) {
  const comments = [line && `(?:${line})[^\\n]*`, block && "/\\*[^]*?(?:\\*/|$)"].filter(Boolean);
  const threefold = triple ? [`${prefix}"""[^]*?(?:"""|$)`, `${prefix}'''[^]*?(?:'''|$)`] : [];
  const strings = Array.from(quotes, q => `${prefix}${q}(?:\\\\[^]|[^${q}\\\\${q === "`" ? "" : "\\n"}])*(?:${q}|$)?`);
  const keywords = words(`${known} ${more}`).join("|");
  const groups = [comments.join("|") || "(?!)", [...threefold, ...strings].join("|"),
    "(?<![\\w.])(?:0[xXbBoO][\\da-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\w?\\b", `(?<![\\w.-])(?:${keywords})(?![\\w-])`];
  return new RegExp(groups.map(group => `(${group})`).join("|"), anyCase ? "gi" : "g");
}

const MARKUP = /(<!--[^]*?(?:-->|$))|((?<==\s?)"[^"<>]*"|(?<==\s?)'[^'<>]*')|(&#?\w{1,30};)|(<\/?[A-Za-z][\w:-]*|\/?>)/g;
const CLASSES = ["", "c-note", "c-text", "c-number", "c-word"];

/** What to put into a <code> element: text nodes and spans. */
function coloured(code, language) {
  const asked = language.toLowerCase(), name = Object.hasOwn(ALIASES, asked) ? ALIASES[asked] : asked;
  if (code.length > LONGEST_COLOURED) return [code];
  if (name === "diff" || name === "patch") return diffLines(code);
  const isMarkup = ["html", "xml", "svg", "vue", "xhtml"].includes(name);
  if (!isMarkup && !Object.hasOwn(LANGUAGES, name)) return [code];
  return spansOf(code, isMarkup ? MARKUP : expressionOf(name));
}

function spansOf(code, expression) {
  const made = [];
  let at = 0;
  for (const found of code.matchAll(expression)) {
    if (!found[0]) continue;
    if (found.index > at) made.push(code.slice(at, found.index));
    const group = found.findIndex((text, n) => n > 0 && text !== undefined);
    made.push(h("span", { class: CLASSES[group] }, found[0]));
    at = found.index + found[0].length;
  }
  if (at < code.length) made.push(code.slice(at));
  return made;
}

function diffLines(code) {
  const kind = line => /^(\+\+\+|---|@@|diff |index )/.test(line) ? "c-note" : line[0] === "+" ? "c-added" : line[0] === "-" ? "c-gone" : "";
  const lines = code.split("\n");
  return lines.map((line, n) => {
    const text = n < lines.length - 1 ? `${line}\n` : line;
    return kind(line) ? h("span", { class: kind(line) }, text) : text;
  });
}
