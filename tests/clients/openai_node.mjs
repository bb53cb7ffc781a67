// OpenAI's client for Node: a chat with an image, a stream, and an answer that is parsed.
import assert from "node:assert";
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ baseURL: `${process.env.SERVICE}/v1`, apiKey: "none", maxRetries: 0 });
const content = [
  { type: "text", text: "what color is the shape?" },
  { type: "image_url", image_url: { url: process.env.IMAGE, detail: "low" } },
];
const messages = [{ role: "user", content }];
const said = await client.chat.completions.create({ model: "shapes", messages });
assert.equal(said.choices[0].message.content, "blue");
const again = [...messages, said.choices[0].message, { role: "user", content: "what shape is in the image?" }];
assert.ok((await client.chat.completions.create({ model: "shapes", messages: again })).choices[0].message.content);

let words = "";
const stream = await client.chat.completions.create({ model: "shapes", messages, stream: true });
for await (const chunk of stream) words += chunk.choices[0]?.delta?.content ?? "";
assert.equal(words, "blue");

const Shape = z.object({ colour: z.enum(["red", "blue", "green"]), round: z.boolean() });
const parsed = await client.chat.completions.parse({
  model: "shapes",
  messages,
  response_format: zodResponseFormat(Shape, "shape"),
});
Shape.parse(parsed.choices[0].message.parsed);
await assert.rejects(client.chat.completions.create({ model: "nope", messages }), { status: 404, code: "model_not_found" });
