// Anthropic's JavaScript client: its tool runner, which asks for a thread first and goes on without.
// It lies in the folder that OSSIA_MODULES names.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.OSSIA_MODULES}/`);
const { Anthropic } = require("@anthropic-ai/sdk");
const { betaTool } = require("@anthropic-ai/sdk/helpers/beta/json-schema");

const baseURL = process.env.OSSIA_URL.replace(/\/v1$/, "");
const client = new Anthropic({ baseURL, apiKey: "none", maxRetries: 0, logLevel: "off" });
const called = [];
const calculator = betaTool({
  name: "calculator",
  description: "Evaluates an arithmetic expression.",
  inputSchema: {
    type: "object",
    properties: { expression: { type: "string", description: "for example 12*7" } },
    required: ["expression"],
    additionalProperties: false,
  },
  run: ({ expression }) => {
    called.push(expression);
    const numbers = expression.split("+").map(Number);
    return String(numbers.reduce((sum, number) => sum + number, 0));
  },
});
const request = {
  model: process.env.OSSIA_MODEL,
  max_tokens: 2000,
  tools: [calculator],
  messages: [{ role: "user", content: "What is 37 + 48?" }],
};

function textOf(message) {
  return message.content.map((block) => (block.type === "text" ? block.text : "")).join("");
}

let text = "";
if (process.argv[2] === "runner") {
  text = textOf(await client.beta.messages.toolRunner(request).runUntilDone());
} else {
  for await (const stream of client.beta.messages.toolRunner({ ...request, stream: true })) {
    text = textOf(await stream.finalMessage());
  }
}
console.log(JSON.stringify({ called, text }));
