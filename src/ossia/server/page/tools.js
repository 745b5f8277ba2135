"use strict";

// The tools that run in the page: what the model is told of them, and `runCall`, which carries a call out.
// Knows nothing of the page's elements.

const MOST_DIGITS = 400;
const FUNCTIONS = {
  sqrt: [1, Math.sqrt], cbrt: [1, Math.cbrt], exp: [1, Math.exp], ln: [1, Math.log], log: [1, Math.log10], log2: [1, Math.log2],
  sin: [1, Math.sin], cos: [1, Math.cos], tan: [1, Math.tan], asin: [1, Math.asin], acos: [1, Math.acos], atan: [1, Math.atan],
};
const CONSTANTS = { pi: Math.PI, π: Math.PI, e: Math.E };
const WRITTEN = { "×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "**": "^" };
const MARKS = /\s*(?:(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+(?:[eE][+-]?\d+)?)|([a-zA-Zπ]\w*)|(\*\*|\/\/|[-+*/%^()!,×·÷−–]))/y;

/** The value of an arithmetic expression, as text. Whole numbers are exact. Throws an Error that says what is wrong. */
function calculate(source) {
  if (source.length > 1000) throw new Error("the expression is longer than 1000 characters");
  const text = /[a-zA-Z]/.test(source) ? source : source.replace(/(\d),(?=\d{3}(?!\d))/g, "$1");
  return new Calculation(text.trim().replace(/\s*=\s*$/, "")).result();
}

class Calculation {
  constructor(text) {
    this.marks = [];
    this.at = 0;
    this.depth = 0;
    MARKS.lastIndex = 0;
    for (let end = 0; end < text.length; end = MARKS.lastIndex) {
      const [, number, name, sign] = MARKS.exec(text) ?? [];
      if (number) this.marks.push({ number: /^\d+$/.test(number) ? BigInt(number) : Number(number) });
      else if (name) this.marks.push({ name: name.toLowerCase() });
      else if (sign) this.marks.push({ sign: WRITTEN[sign] ?? sign });
      else throw new Error(`“${text.slice(end).trim().slice(0, 12)}” is not understood`);
    }
  }

  result() {
    const value = this.sum();
    if (this.at < this.marks.length) throw new Error("there is something left behind the expression");
    return typeof value === "bigint" ? String(value) : String(Number(value.toPrecision(15)));
  }

  sign(...wanted) {
    const sign = this.marks[this.at]?.sign;
    if (!wanted.includes(sign)) return null;
    this.at++;
    return sign;
  }

  sum() {
    if (++this.depth > 60) throw new Error("the expression is nested too deeply");
    let value = this.product();
    for (let sign; (sign = this.sign("+", "-"));) value = combine(sign, value, this.product());
    this.depth--;
    return value;
  }

  product() {
    let value = this.unary();
    for (let sign; (sign = this.sign("*", "/", "//", "%"));) value = combine(sign, value, this.unary());
    return value;
  }

  unary() {
    let negative = false;
    for (let sign; (sign = this.sign("-", "+"));) negative = negative !== (sign === "-");
    const value = this.power();
    return negative ? -value : value;
  }

  power() {
    let value = this.atom();
    while (this.sign("!")) value = factorial(value);
    if (!this.sign("^")) return value;
    if (++this.depth > 60) throw new Error("the expression is nested too deeply");
    value = combine("^", value, this.unary());
    this.depth--;
    return value;
  }

  atom() {
    const mark = this.marks[this.at++];
    if (mark?.number !== undefined) return checked(mark.number);
    if (mark?.name !== undefined) return this.named(mark.name);
    if (mark?.sign !== "(") throw new Error(mark ? `“${mark.sign}” stands where a number is needed` : "a number is missing at the end");
    const value = this.sum();
    if (!this.sign(")")) throw new Error("a parenthesis is not closed");
    return value;
  }

  named(name) {
    if (Object.hasOwn(CONSTANTS, name)) return CONSTANTS[name];
    if (!this.sign("(")) throw new Error(`“${name}” is not known`);
    const given = [];
    do given.push(this.sum()); while (this.sign(","));
    if (!this.sign(")")) throw new Error("a parenthesis is not closed");
    if (name === "min" || name === "max") return given.reduce((a, b) => (name === "min") === (b < a) ? b : a);
    if (name === "abs" && given.length === 1) return given[0] < 0 ? -given[0] : given[0];
    if (["floor", "ceil", "round"].includes(name) && given.length === 1)
      return typeof given[0] === "bigint" ? given[0] : BigInt(Math[name](checked(given[0])));
    if (!Object.hasOwn(FUNCTIONS, name)) throw new Error(`the function “${name}” is not known`);
    const [count, apply] = FUNCTIONS[name];
    if (given.length !== count) throw new Error(`“${name}” takes one number`);
    return whole(checked(apply(Number(given[0]))));
  }
}

/** A number that is whole, and small enough to be exact, as one. */
const whole = value => Number.isSafeInteger(value) ? BigInt(value) : value;

function combine(sign, a, b) {
  if ("/%".includes(sign[0]) && Number(b) === 0) throw new Error("division by zero");
  if (typeof a === "bigint" && typeof b === "bigint") {
    const exact = combineWhole(sign, a, b);
    if (exact !== null) return checked(exact);
  }
  const [x, y] = [Number(a), Number(b)];
  switch (sign) {
    case "+": return checked(x + y);
    case "-": return checked(x - y);
    case "*": return checked(x * y);
    case "/": return checked(x / y);
    case "//": return checked(Math.floor(x / y));
    case "%": return checked(x - y * Math.floor(x / y));
    default: return checked(x ** y);
  }
}

function combineWhole(sign, a, b) {
  switch (sign) {
    case "+": return a + b;
    case "-": return a - b;
    case "*": return a * b;
    case "/": return a % b === 0n ? a / b : null;
    case "//": return (a - ((a % b) + b) % b) / b;
    case "%": return ((a % b) + b) % b;
    default:
      if (b < 0n) return null;
      if (b * BigInt(a.toString(16).length) > 10000n) throw new Error("the result is too large");
      return a ** b;
  }
}

function factorial(value) {
  if (typeof value !== "bigint" || value < 0n) throw new Error("only whole numbers from 0 have a factorial");
  if (value > 200n) throw new Error("the result is too large");
  let result = 1n;
  for (let n = 2n; n <= value; n++) result *= n;
  return result;
}

function checked(value) {
  if (typeof value === "bigint" ? value.toString().length > MOST_DIGITS : !Number.isFinite(value))
    throw new Error(Number.isNaN(value) ? "the result is not a real number" : "the result is too large");
  return value;
}

const pad = n => String(n).padStart(2, "0");

function timeIn(zone) {
  const now = new Date(), timeZone = zone || Intl.DateTimeFormat().resolvedOptions().timeZone;
  let parts;
  try {
    parts = new Intl.DateTimeFormat("en-CA", { timeZone, hourCycle: "h23", dateStyle: "short", timeStyle: "medium" });
  } catch { throw new Error(`the time zone “${zone}” is not known; names are such as Europe/Berlin`); }
  const weekday = new Intl.DateTimeFormat("en", { timeZone, weekday: "long" }).format(now);
  return JSON.stringify({ local: parts.format(now).replace(",", ""), weekday, timezone: timeZone, utc: now.toISOString().slice(0, 19) + "Z" });
}

const TOOLS = {
  calculator: {
    description: "Evaluates an arithmetic expression.",
    parameters: { type: "object", properties: { expression: { type: "string", description: "for example 12*7" } }, required: ["expression"] },
    run: args => calculate(String(args.expression ?? "")),
  },
  current_time: {
    description: "Tells the date and the time.",
    parameters: { type: "object", properties: { timezone: { type: "string", description: "for example Europe/Berlin; the user's own if left out" } } },
    run: args => timeIn(args.timezone ? String(args.timezone) : ""),
  },
};
const DECLARED = Object.entries(TOOLS).map(([name, { description, parameters }]) => ({ type: "function", name, description, parameters, strict: false }));
const FAILED = "error: "; // how the result of a call that failed begins

/** Carries a call out; its result. What goes wrong is a result, too: the model is told. */
function runCall(call) {
  try {
    if (!Object.hasOwn(TOOLS, call.name)) throw new Error(`there is no tool “${call.name}”`);
    const args = JSON.parse(call.arguments || "{}");
    if (args === null || typeof args !== "object") throw new Error("the arguments are not a JSON object");
    return TOOLS[call.name].run(args);
  } catch (error) {
    return FAILED + (error instanceof SyntaxError ? "the arguments are not valid JSON" : error.message);
  }
}
