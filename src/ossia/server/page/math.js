"use strict";

// Formulas: `mathOf(source, isBlock)` makes MathML of TeX, as far as models write it. Browsers lay MathML out
// with the system's fonts, so nothing has to be loaded.
//
// The value is null for what is not understood, an unknown command or a brace too many: then the source is shown, and
// nothing is lost or guessed. Elements are made by name; no text is ever parsed as HTML.

const MATHML = "http://www.w3.org/1998/Math/MathML";
const LONGEST_FORMULA = 10000; // characters
const DEEPEST_FORMULA = 60; // groups in each other

/** A MathML element. */
function m(tag, props = {}, ...children) {
  const made = document.createElementNS(MATHML, tag);
  for (const [name, value] of Object.entries(props)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const words = text => text.trim().split(/\s+/);
/** "name sign name sign ..." as an object. */
const pairsOf = text => Object.fromEntries(Array.from(text.matchAll(/(\S+) (\S+)/g), ([, name, sign]) => [name, sign]));

const LETTERS = pairsOf(`alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ vartheta ϑ iota ι
  kappa κ lambda λ mu μ nu ν xi ξ omicron ο pi π varpi ϖ rho ρ varrho ϱ sigma σ varsigma ς tau τ upsilon υ phi ϕ varphi φ
  chi χ psi ψ omega ω ell ℓ hbar ℏ imath ı jmath ȷ partial ∂ wp ℘ infty ∞ nabla ∇ emptyset ∅ varnothing ∅ aleph ℵ
  beth ℶ Re ℜ Im ℑ angle ∠ triangle △ square □ blacksquare ■ bot ⊥ top ⊤ degree ° checkmark ✓ dots … ldots … cdots ⋯ vdots ⋮
  ddots ⋱ dotsc … dotsb ⋯ prime ′ forall ∀ exists ∃ nexists ∄ complement ∁ clubsuit ♣ diamondsuit ♢ heartsuit ♡
  spadesuit ♠ flat ♭ sharp ♯ natural ♮ S § P ¶ pounds £ euro € copyright © eth ð Finv Ⅎ mho ℧ therefore ∴ because ∵`);
const CAPITALS = pairsOf(`Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Upsilon Υ Phi Φ Psi Ψ Omega Ω`); // upright
const SIGNS = pairsOf(`pm ± mp ∓ times × div ÷ cdot ⋅ ast ∗ star ⋆ circ ∘ bullet ∙ oplus ⊕ ominus ⊖ otimes ⊗ oslash ⊘ odot ⊙
  wedge ∧ land ∧ vee ∨ lor ∨ cap ∩ cup ∪ sqcap ⊓ sqcup ⊔ uplus ⊎ setminus ∖ smallsetminus ∖ amalg ⨿ dagger † ddagger ‡ neg ¬
  lnot ¬ le ≤ leq ≤ leqslant ⩽ ge ≥ geq ≥ geqslant ⩾ ne ≠ neq ≠ equiv ≡ approx ≈ sim ∼ simeq ≃ cong ≅ propto ∝ asymp ≍
  doteq ≐ ll ≪ gg ≫ prec ≺ succ ≻ preceq ⪯ succeq ⪰ in ∈ notin ∉ ni ∋ subset ⊂ supset ⊃ subseteq ⊆ supseteq ⊇ subsetneq ⊊
  supsetneq ⊋ sqsubseteq ⊑ sqsupseteq ⊒ mid ∣ nmid ∤ parallel ∥ nparallel ∦ perp ⊥ vdash ⊢ dashv ⊣ models ⊨ vDash ⊨
  triangleq ≜ coloneqq ≔ coloneq ≔ lesssim ≲ gtrsim ≳ lessgtr ≶ bowtie ⋈ ltimes ⋉ rtimes ⋊ to → gets ← rightarrow → leftarrow ←
  leftrightarrow ↔ Rightarrow ⇒ Leftarrow ⇐ Leftrightarrow ⇔ iff ⟺ implies ⟹ impliedby ⟸ longrightarrow ⟶ longleftarrow ⟵
  longleftrightarrow ⟷ Longrightarrow ⟹ Longleftarrow ⟸ Longleftrightarrow ⟺ mapsto ↦ longmapsto ⟼ hookrightarrow ↪
  hookleftarrow ↩ uparrow ↑ downarrow ↓ updownarrow ↕ Uparrow ⇑ Downarrow ⇓ nearrow ↗ searrow ↘ swarrow ↙ nwarrow ↖
  rightharpoonup ⇀ rightleftharpoons ⇌ leadsto ⇝ rightsquigarrow ⇝ twoheadrightarrow ↠ upharpoonright ↾ colon : surd √
  lbrace { rbrace } lbrack [ rbrack ] langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋ lceil ⌈ rceil ⌉ lvert | rvert | lVert ‖ rVert ‖
  vert | Vert ‖ backslash \\ ulcorner ⌜ urcorner ⌝ lgroup ⟮ rgroup ⟯ { { } } | ‖ # # $ $ % % & & _ _`);
const LARGE = pairsOf(`sum ∑ prod ∏ coprod ∐ bigcup ⋃ bigcap ⋂ bigsqcup ⨆ bigvee ⋁ bigwedge ⋀ bigoplus ⨁ bigotimes ⨂ bigodot ⨀
  biguplus ⨄`);
const INTEGRALS = pairsOf("int ∫ iint ∬ iiint ∭ oint ∮ oiint ∯ smallint ∫"); // their limits stand beside them
const NAMED = words(`sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp det dim ker hom arg deg gcd
  Pr lim limsup liminf max min sup inf argmax argmin softmax`);
const BELOW = words("lim limsup liminf max min sup inf argmax argmin det gcd Pr"); // what their index stands below
const SPACES = { ",": .167, ":": .222, ">": .222, ";": .278, "!": -.167, " ": .25, quad: 1, qquad: 2, thinspace: .167,
  enspace: .5, enskip: .5, medspace: .222, thickspace: .278, negthinspace: -.167, space: .25, hfill: 1 };
const ACCENTS = pairsOf(`hat ^ widehat ^ bar ¯ vec → overrightarrow → overleftarrow ← tilde ~ widetilde ~ dot ˙ ddot ¨
  dddot ⃛ acute ´ grave \` check ˇ widecheck ˇ breve ˘ mathring ˚ overbrace ⏞`);
const UNDERS = pairsOf("underbrace ⏟");
const ARROWS = pairsOf("xrightarrow → xleftarrow ← xRightarrow ⇒ xLeftarrow ⇐ xleftrightarrow ↔ xmapsto ↦ xlongequal =");
const FENCES = { matrix: ["", ""], smallmatrix: ["", ""], pmatrix: ["(", ")"], bmatrix: ["[", "]"], Bmatrix: ["{", "}"],
  vmatrix: ["|", "|"], Vmatrix: ["‖", "‖"], cases: ["{", ""], dcases: ["{", ""], rcases: ["", "}"], array: ["", ""] };
const ALIGNED = words("aligned align split alignat alignedat eqnarray");
const CENTRED = words("gather gathered equation multline displaymath");
const TEXTS = { text: "", textrm: "", textnormal: "", mbox: "", hbox: "", textbf: "bold", textit: "italic", textsf: "sans", texttt: "mono", emph: "italic" };
const FONTS = { mathbf: "bold", bm: "bold-italic", boldsymbol: "bold-italic", mathbb: "double", Bbb: "double", mathcal: "script", mathscr: "script",
  cal: "script", mathfrak: "fraktur", frak: "fraktur", mathsf: "sans", mathtt: "mono", mathrm: "upright", mathup: "upright", rm: "upright", mathit: "italic",
  mathnormal: "italic" };
const SWITCHES = words("rm bf it cal frak sf tt"); // they hold to the end of the group
const IGNORED = words("displaystyle textstyle scriptstyle limits nolimits nonumber notag hline strut mathstrut left. allowbreak nobreak centering");

// Where the alphabets of mathematical letters begin in Unicode: capitals, small letters, digits (0: none).
const ALPHABETS = {
  bold: [0x1d400, 0x1d41a, 0x1d7ce], "bold-italic": [0x1d468, 0x1d482, 0x1d7ce], script: [0x1d49c, 0x1d4b6, 0],
  fraktur: [0x1d504, 0x1d51e, 0], double: [0x1d538, 0x1d552, 0x1d7d8], sans: [0x1d5a0, 0x1d5ba, 0x1d7e2],
  mono: [0x1d670, 0x1d68a, 0x1d7f6],
};
const EARLIER = { // letters that Unicode had before it had their alphabets
  double: pairsOf("C ℂ H ℍ N ℕ P ℙ Q ℚ R ℝ Z ℤ"), fraktur: pairsOf("C ℭ H ℌ I ℑ R ℜ Z ℨ"),
  script: pairsOf("B ℬ E ℰ F ℱ H ℋ I ℐ L ℒ M ℳ R ℛ e ℯ g ℊ o ℴ"),
};

function inFont(letter, font) {
  if (!ALPHABETS[font]) return letter;
  const [capital, small, digit] = ALPHABETS[font], code = letter.codePointAt(0);
  if (EARLIER[font]?.[letter]) return EARLIER[font][letter];
  if (/^[A-Z]$/.test(letter)) return String.fromCodePoint(capital + code - 65);
  if (/^[a-z]$/.test(letter)) return String.fromCodePoint(small + code - 97);
  if (/^\d$/.test(letter) && digit) return String.fromCodePoint(digit + code - 48);
  return letter;
}

class NotUnderstood extends Error {}

class Formula {
  constructor(source) {
    this.marks = source.match(/\\[a-zA-Z]+\*?|\\[^]|\d+(?:\.\d+)?|\s+|[^]/gu) ?? [];
    this.at = 0;
    this.depth = 0;
    this.font = "";
  }

  get next() {
    while (/^\s/.test(this.marks[this.at] ?? "")) this.at++;
    return this.marks[this.at];
  }

  take(wanted = null) {
    const mark = this.next;
    if (mark === undefined || (wanted !== null && mark !== wanted)) throw new NotUnderstood(wanted ?? "the end");
    this.at++;
    return mark;
  }

  whole() {
    const row = this.table(() => false, ALIGNED[0]);
    if (this.next !== undefined) throw new NotUnderstood(this.next);
    return row;
  }

  /** What comes up to a mark that `ends` knows, in one element. */
  row(ends) {
    if (++this.depth > DEEPEST_FORMULA) throw new NotUnderstood("depth");
    const font = this.font, made = m("mrow");
    while (this.next !== undefined && !ends(this.next)) {
      const node = this.item();
      if (node) made.append(node);
    }
    this.depth--;
    this.font = font; // a switch of fonts ends with its group
    return made.childNodes.length === 1 ? made.firstChild : made;
  }

  group() {
    const made = this.row(mark => mark === "}");
    this.take("}");
    return made;
  }

  /** The argument of a command or of a script: a group, or the next thing. */
  argument() {
    if (this.next === "{") { this.take(); return this.group(); }
    if (/^\d{2,}/.test(this.next ?? "")) { // x^23 is x² followed by 3
      const number = this.take();
      this.marks.splice(this.at, 0, number.slice(1));
      return m("mn", {}, number[0]);
    }
    if (["^", "_", "}", "&", "\\\\", undefined].includes(this.next)) throw new NotUnderstood(this.next ?? "the end");
    return this.atom() ?? m("mrow");
  }

  /** `[...]` before an argument, if there is one. */
  option() {
    if (this.next !== "[") return null;
    this.take();
    const made = this.row(mark => mark === "]");
    this.take("]");
    return made;
  }

  /** The text of a group, as it is written. */
  raw() {
    this.take("{");
    let text = "";
    for (let open = 1; ; this.at++) {
      const mark = this.marks[this.at];
      if (mark === undefined) throw new NotUnderstood("the end");
      if (mark === "{") open++;
      if (mark === "}" && --open === 0) break;
      text += mark;
    }
    this.at++;
    return text;
  }

  /** Something with its scripts. */
  item() {
    const scripts = "_^'".includes(this.next);
    const base = scripts ? m("mrow") : this.atom();
    if (base === null) return null;
    let sub = null, sup = null, beside = base.beside ?? !base.below;
    for (;;) {
      const mark = this.next;
      if (mark === "\\limits" || mark === "\\nolimits") { this.take(); beside = mark === "\\nolimits"; }
      else if (mark === "_" && !sub) { this.take(); sub = this.argument(); }
      else if (mark === "^" && !sup) { this.take(); sup = this.argument(); }
      else if (mark === "'" && !sup) sup = this.primes();
      else break;
    }
    if (this.next === "_" || this.next === "^") throw new NotUnderstood("a second script");
    return this.scripted(base, sub, sup, beside);
  }

  primes() {
    let signs = "";
    while (this.next === "'") { this.take(); signs += "′"; }
    const mark = m("mo", { lspace: "0", rspace: "0" }, signs);
    if (this.next !== "^") return mark;
    this.take();
    return m("mrow", {}, mark, this.argument());
  }

  scripted(base, sub, sup, beside) {
    if (!sub && !sup) return base;
    const tag = beside ? (sub && sup ? "msubsup" : sub ? "msub" : "msup") : sub && sup ? "munderover" : sub ? "munder" : "mover";
    return m(tag, {}, ...[base, sub, sup].filter(Boolean));
  }

  atom() {
    const mark = this.take();
    if (mark === "{") return this.group();
    if (mark[0] === "\\") return this.command(mark.slice(1));
    if (/^\d/.test(mark)) return m("mn", {}, Array.from(mark, digit => inFont(digit, this.font)).join(""));
    if (/^[\p{L}\p{M}]$/u.test(mark)) return this.letter(mark);
    if ("}&^_".includes(mark)) throw new NotUnderstood(mark);
    if (mark === "~") return m("mspace", { width: ".25em" });
    return this.sign({ "-": "−", "*": "∗", "'": "′" }[mark] ?? mark, "|/".includes(mark) ? { stretchy: "false" } : {});
  }

  letter(letter) {
    const shown = inFont(letter, this.font);
    return m("mi", shown !== letter || this.font === "upright" ? { mathvariant: "normal" } : {}, shown);
  }

  /** An operator. Brackets grow only between \left and \right. */
  sign(text, props = {}) {
    return m("mo", "()[]{}|‖⟨⟩⌊⌋⌈⌉".includes(text) ? { stretchy: "false", ...props } : props, text);
  }

  command(name) {
    const starred = name.endsWith("*") ? name.slice(0, -1) : name;
    const own = (table, key) => Object.hasOwn(table, key);
    if (own(LETTERS, name)) return m("mi", {}, LETTERS[name]);
    if (own(CAPITALS, name)) return m("mi", { mathvariant: "normal" }, CAPITALS[name]);
    if (own(SIGNS, name)) return this.sign(SIGNS[name]);
    if (own(LARGE, name)) return Object.assign(m("mo", { movablelimits: "true" }, LARGE[name]), { below: true });
    if (own(INTEGRALS, name)) return m("mo", {}, INTEGRALS[name]);
    if (NAMED.includes(name)) return this.named(name.replace(/^(arg|lim)(max|min|sup|inf)$/, "$1\u2009$2"), BELOW.includes(name));
    if (own(SPACES, name)) return m("mspace", { width: `${SPACES[name]}em` });
    if (own(TEXTS, name)) return this.text(TEXTS[name]);
    if (own(FONTS, name)) return this.inFont(FONTS[name], SWITCHES.includes(name));
    if (own(ACCENTS, name)) return this.accent(name);
    if (own(UNDERS, name)) return this.under(name);
    if (own(ARROWS, name)) return this.arrow(ARROWS[name]);
    if (IGNORED.includes(name)) return null;
    if (name === "operatorname") return this.named(this.raw().replace(/\\[,;:! ]/g, "\u2009"), starred !== name);
    if (starred === "operatorname") return this.named(this.raw().replace(/\\[,;:! ]/g, "\u2009"), true);
    const build = BUILDERS[starred];
    if (build && Object.hasOwn(BUILDERS, starred)) return build(this, starred);
    throw new NotUnderstood(name);
  }

  named(name, below) {
    const limits = { movablelimits: "true", lspace: "0", rspace: ".167em", form: "prefix" };
    const made = below ? m("mo", limits, name) : m("mi", { mathvariant: "normal" }, name);
    return Object.assign(made, { below });
  }

  text(style) {
    const text = this.raw().replace(/\$([^$]*)\$/g, "$1").replace(/\\([#$%&_{} ])/g, "$1");
    if (/\\/.test(text)) throw new NotUnderstood(text);
    return m("mtext", style ? { class: `t-${style}` } : {}, text.replaceAll(" ", "\u00a0"));
  }

  inFont(font, toTheEnd) {
    const before = this.font;
    this.font = font;
    if (toTheEnd) return null;
    const made = this.argument();
    this.font = before;
    return joined(made, font);
  }

  accent(name) {
    const isWide = /^(wide|over)/.test(name);
    const sign = m("mo", { stretchy: String(isWide) }, ACCENTS[name]);
    return Object.assign(m("mover", { accent: "true" }, this.argument(), sign), { below: name === "overbrace" });
  }

  under(name) {
    const sign = m("mo", { stretchy: "true" }, UNDERS[name]);
    return Object.assign(m("munder", { accentunder: "true" }, this.argument(), sign), { below: name === "underbrace" });
  }

  arrow(sign) {
    const below = this.option(), above = this.argument(), base = m("mo", { stretchy: "true" }, sign);
    return below ? m("munderover", {}, base, below, above) : m("mover", {}, base, above);
  }

  /** A bracket after \left, \right, \middle or \big; a dot is none. */
  delimiter() {
    const mark = this.take();
    if (mark === ".") return "";
    const sign = mark[0] === "\\" ? SIGNS[mark.slice(1)] : { "<": "⟨", ">": "⟩" }[mark] ?? mark;
    if (!sign || !/^[()[\]{}|/\\‖⟨⟩⌊⌋⌈⌉⟮⟯↑↓↕⇑⇓⌜⌝]$/u.test(sign)) throw new NotUnderstood(mark);
    return sign;
  }

  /** Rows and cells up to an end: a table, or one row if there is neither `&` nor `\\`. */
  table(ends, kind) {
    const rows = [[]];
    for (;;) {
      const isEnd = mark => mark === "&" || mark === "\\\\" || mark === "\\cr" || ends(mark);
      rows.at(-1).push(this.row(mark => isEnd(mark) || mark === "}"));
      const mark = this.next;
      if (mark === "&") this.take();
      else if (mark === "\\\\" || mark === "\\cr") {
        this.take();
        if (this.marks[this.at] === "[") { while (this.take() !== "]") { /* a distance between rows */ } }
        rows.push([]);
      } else break;
    }
    if (rows.at(-1).length === 1 && rows.length > 1 && !rows.at(-1)[0].hasChildNodes()) rows.pop();
    if (rows.length === 1 && rows[0].length === 1 && !Object.hasOwn(FENCES, kind)) return rows[0][0];
    const cells = row => row.map(cell => m("mtd", {}, cell));
    return m("mtable", { class: ALIGNED.includes(kind) ? "aligned" : kind === "cases" || kind === "dcases" ? "cases" : kind },
      ...rows.map(row => m("mtr", {}, ...cells(row))));
  }

  environment() {
    const written = this.raw(), kind = written.replace(/\*$/, "");
    if (!Object.hasOwn(FENCES, kind) && !ALIGNED.includes(kind) && !CENTRED.includes(kind)) throw new NotUnderstood(written);
    if (kind === "array" || /^alignat|^alignedat/.test(kind)) this.raw(); // how columns stand
    const table = this.table(mark => mark === "\\end", kind);
    this.take("\\end");
    if (this.raw() !== written) throw new NotUnderstood(written);
    const [open, close] = FENCES[kind] ?? ["", ""];
    return fenced(open, table, close);
  }
}

const fence = (sign, form) => sign ? [m("mo", { fence: "true", stretchy: "true", form }, sign)] : [];

function fenced(open, inside, close) {
  if (!open && !close) return inside;
  return m("mrow", {}, ...fence(open, "prefix"), inside, ...fence(close, "postfix"));
}

/** Upright letters beside each other are one word. */
function joined(row, font) {
  const parts = row.nodeName === "mrow" ? [...row.childNodes] : [];
  if (font !== "upright" || parts.length < 2 || !parts.every(part => part.nodeName === "mi")) return row;
  return m("mi", { mathvariant: "normal" }, parts.map(part => part.textContent).join(""));
}

function fraction(formula, props = {}) {
  const above = formula.argument();
  return m("mfrac", props, above, formula.argument());
}

function leftRight(formula) {
  const open = formula.delimiter(), inside = m("mrow");
  for (;;) {
    inside.append(formula.row(mark => mark === "\\right" || mark === "\\middle" || mark === "}"));
    if (formula.take() === "\\right") break;
    if (formula.marks[formula.at - 1] !== "\\middle") throw new NotUnderstood("\\right");
    inside.append(...fence(formula.delimiter(), "infix"));
  }
  return fenced(open, inside, formula.delimiter()) ?? inside;
}

function large(formula) {
  const sign = formula.delimiter();
  return sign ? m("mo", { stretchy: "true", minsize: "1.6em", maxsize: "1.6em" }, sign) : null;
}

const stacked = (tag, formula) => {
  const mark = formula.argument();
  return m(tag, {}, formula.argument(), mark);
};

const BUILDERS = {
  frac: formula => fraction(formula), cfrac: formula => fraction(formula),
  dfrac: formula => fraction(formula, { displaystyle: "true" }), tfrac: formula => fraction(formula, { displaystyle: "false" }),
  binom: formula => fenced("(", fraction(formula, { linethickness: "0" }), ")"),
  dbinom: formula => BUILDERS.binom(formula), tbinom: formula => BUILDERS.binom(formula),
  sqrt: formula => {
    const degree = formula.option(), inside = formula.argument();
    return degree ? m("mroot", {}, inside, degree) : m("msqrt", {}, inside);
  },
  left: leftRight,
  begin: formula => formula.environment(),
  overset: formula => stacked("mover", formula), stackrel: formula => stacked("mover", formula), underset: formula => stacked("munder", formula),
  substack: formula => {
    formula.take("{");
    const table = formula.table(() => false, "substack");
    formula.take("}");
    return table;
  },
  ...Object.fromEntries(words("boxed overline underline underbar").map(name => [name, formula => m("mrow", { class: name }, formula.argument())])),
  fbox: formula => m("mrow", { class: "boxed" }, formula.text("")),
  phantom: formula => m("mphantom", {}, formula.argument()),
  not: formula => m("mo", {}, (formula.argument().textContent || "") + "\u0338"),
  bmod: () => m("mo", {}, "mod"), mod: formula => m("mrow", {}, m("mspace", { width: ".4em" }), m("mo", {}, "mod"), formula.argument()),
  pmod: formula => m("mrow", {}, m("mspace", { width: ".4em" }), m("mo", { stretchy: "false" }, "("), m("mo", {}, "mod"), formula.argument(), m("mo", { stretchy: "false" }, ")")),
  tag: formula => m("mtext", {}, `\u2003(${formula.raw()})`),
  label: formula => { formula.raw(); return null; },
  color: formula => { formula.raw(); return null; }, textcolor: formula => { formula.raw(); return formula.argument(); },
  cancel: formula => formula.argument(), mathrel: formula => formula.argument(), mathbin: formula => formula.argument(), mathop: formula => formula.argument(),
  mathord: formula => formula.argument(), ensuremath: formula => formula.argument(),
};
for (const size of words("big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr bigm Bigm")) BUILDERS[size] = large;

/** The formula as MathML, its source beside it for who copies it; null if it is not understood. */
function mathOf(source, isBlock) {
  if (source.length > LONGEST_FORMULA || !source.trim()) return null;
  let row;
  try {
    row = new Formula(source).whole();
  } catch (error) {
    if (error instanceof NotUnderstood) return null;
    throw error;
  }
  const note = m("annotation", { encoding: "application/x-tex" }, source.trim());
  return m("math", isBlock ? { display: "block" } : {}, m("semantics", {}, row, note));
}
