// The AI SDK: words, a stream and an object, asked of a service like OpenAI's.
import assert from "node:assert";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, Output, streamText } from "ai";
import { z } from "zod";

const service = createOpenAICompatible({
  name: "manylens",
  baseURL: `${process.env.SERVICE}/v1`,
  supportsStructuredOutputs: true,
});
const model = service("shapes");
const image = Buffer.from(process.env.IMAGE.split(",")[1], "base64");
const messages = [
  {
    role: "user",
    content: [
      { type: "text", text: "what color is the shape?" },
      { type: "file", data: image, mediaType: "image/png" },
    ],
  },
];
const said = await generateText({ model, messages, maxRetries: 0 });
assert.equal(said.text, "blue");
const then = [...messages, ...said.response.messages, { role: "user", content: "what shape is in the image?" }];
assert.ok((await generateText({ model, messages: then, maxRetries: 0 })).text);

let words = "";
for await (const piece of streamText({ model, messages, maxRetries: 0 }).textStream) words += piece;
assert.equal(words, "blue");

const Shape = z.object({ colour: z.enum(["red", "blue", "green"]), round: z.boolean() });
const found = await generateText({ model, messages, maxRetries: 0, output: Output.object({ schema: Shape }) });
Shape.parse(found.output);
