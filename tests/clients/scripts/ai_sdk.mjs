// Vercel's AI SDK: loops of tools that the server runs, and of one that the client runs beside them.
// It lies in the folder that OSSIA_MODULES names.
import { createRequire } from "node:module";

const require = createRequire(`${process.env.OSSIA_MODULES}/`);
const { generateText, isStepCount, jsonSchema, stepCountIs, streamText, tool } = require("ai");
const { createOpenAI } = require("@ai-sdk/openai");
const { createAnthropic } = require("@ai-sdk/anthropic");

const base = { baseURL: process.env.OSSIA_URL, apiKey: "none" };
const openai = createOpenAI(base);
const anthropic = createAnthropic(base);
const called = [];
const calculator = tool({
  description: "Evaluates an arithmetic expression.",
  inputSchema: jsonSchema({
    type: "object",
    properties: { expression: { type: "string", description: "for example 12*7" } },
    required: ["expression"],
    additionalProperties: false,
  }),
  execute: async ({ expression }) => {
    called.push(expression);
    return String(expression.split("+").map(Number).reduce((sum, number) => sum + number, 0));
  },
});
const [kind, way] = process.argv[2].split(" ");
const providers = {
  openai: {
    model: openai.responses(process.env.OSSIA_MODEL),
    tools: {
      calculator,
      web_search: openai.tools.webSearch({}),
      code_interpreter: openai.tools.codeInterpreter({}),
    },
  },
  anthropic: {
    model: anthropic(process.env.OSSIA_MODEL),
    tools: {
      calculator,
      web_search: anthropic.tools.webSearch_20250305({ maxUses: 3 }),
      code_execution: anthropic.tools.codeExecution_20250522({}),
    },
  },
};
const enough = (stepCountIs ?? isStepCount)(5);
const request = { ...providers[kind], prompt: "What is 37 + 48?", stopWhen: enough, maxRetries: 0 };
let result;
if (way === "streamed") {
  const stream = streamText({ ...request, onError: ({ error }) => { throw error; } });
  await stream.consumeStream();
  result = { text: await stream.text, steps: await stream.steps };
} else {
  result = await generateText(request);
}
const parts = result.steps.flatMap((step) => step.content);
const hosted = parts.filter((part) => part.type === "tool-result" && part.providerExecuted);
const sources = parts.filter((part) => part.type === "source").map((part) => part.url);
console.log(JSON.stringify({
  called,
  text: result.text,
  hosted: hosted.map((part) => part.toolName),
  sources,
  outputs: hosted.map((part) => part.output),
}));
