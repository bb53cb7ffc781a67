// The same question as code: curl, Python, and OpenAI's client.

import { address, hasKey } from "./api.js";

const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const python = (text) => JSON.stringify(text);
const root = () => address("").href.replace(/\/$/, "");

function curl({ file, question, adapter, choices }) {
  const lines = [`curl -s ${root()}/v1/vqa`];
  if (hasKey()) lines.push('-H "Authorization: Bearer $MANYLENS_KEY"');
  if (file) lines.push(`-F ${shell(`image=@${file}`)}`);
  lines.push(`--form-string ${shell(`question=${question}`)}`);
  if (adapter) lines.push(`--form-string ${shell(`adapter=${adapter}`)}`);
  for (const choice of choices) lines.push(`--form-string ${shell(`choices=${choice}`)}`);
  return `${lines.join(" \\\n  ")}\n`;
}

function httpx({ file, question, adapter, choices }) {
  const fields = [`"question": ${python(question)}`];
  if (adapter) fields.push(`"adapter": ${python(adapter)}`);
  if (choices.length) fields.push(`"choices": [${choices.map(python).join(", ")}]`);
  return [
    hasKey() ? "import os\n\n" : "",
    "import httpx\n\n",
    "response = httpx.post(\n",
    `    ${python(`${root()}/v1/vqa`)},\n`,
    hasKey() ? '    headers={"Authorization": f"Bearer {os.environ[\'MANYLENS_KEY\']}"},\n' : "",
    `    data={${fields.join(", ")}},\n`,
    file ? `    files={"image": open(${python(file)}, "rb")},\n` : "",
    "    timeout=60,\n",
    ")\n",
    "response.raise_for_status()\n",
    'print(response.json()["answer"])\n',
  ].join("");
}

function openai({ file, question, adapter }, base) {
  return [
    file ? "import base64\n" : "",
    hasKey() ? "import os\n" : "",
    file || hasKey() ? "\n" : "",
    "from openai import OpenAI\n\n",
    `client = OpenAI(base_url=${python(`${root()}/v1`)}, api_key=${hasKey() ? 'os.environ["MANYLENS_KEY"]' : '"none"'})\n`,
    file ? `image = base64.b64encode(open(${python(file)}, "rb").read()).decode()\n` : "",
    "content = [\n",
    `    {"type": "text", "text": ${python(question)}},\n`,
    file ? '    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},\n' : "",
    "]\n",
    "reply = client.chat.completions.create(\n",
    `    model=${python(adapter || base)},\n`,
    '    messages=[{"role": "user", "content": content}],\n',
    ")\n",
    "print(reply.choices[0].message.content)\n",
  ].join("");
}

/** [[name, text]] for a question {file, question, adapter, choices}; `base` is the base model's name. */
export const snippets = (asked, base) => [["curl", curl(asked)], ["Python", httpx(asked)], ["OpenAI", openai(asked, base)]];
