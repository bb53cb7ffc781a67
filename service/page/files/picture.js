// Choosing a picture: dropped, pasted, chosen from the disk, or one of the six examples.

import { html, useEffect, useState } from "./vendor/htm-preact.js";
import { address } from "./api.js";

const EXAMPLES = "page/examples/";

const read = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});

/** {name, url, alt} of a file that was chosen, or {fault} where it cannot be sent. `limit`: bytes of a request. */
export async function fromFile(file, limit) {
  if (file.type && !file.type.startsWith("image/")) return { fault: `${file.name} is no picture: choose a PNG, JPEG, WebP or GIF file.` };
  if (limit && file.size * 1.34 > limit) {
    return { fault: `${file.name} has ${(file.size / 1e6).toFixed(1)} MB, and ${(limit / 1.34e6).toFixed(0)} MB can be sent: choose a smaller picture.` };
  }
  const url = await read(file);
  // Where the system knows no type for it, the service still tells it by its bytes.
  return { name: file.name || "pasted picture", url, alt: `Your picture ${file.name || "from the clipboard"}` };
}

async function fromExample(example) {
  const blob = await (await fetch(address(EXAMPLES + example.file))).blob();
  return { name: example.file, url: await read(blob), alt: example.alt, example };
}

export function useExamples() {
  const [examples, setExamples] = useState([]);
  useEffect(() => { fetch(address(`${EXAMPLES}examples.json`)).then((found) => found.json()).then(setExamples, () => {}); }, []);
  return examples;
}

export function Picture({ picture, onPicture, examples, limit }) {
  const [over, setOver] = useState(false);
  const [fault, setFault] = useState("");
  const take = async (file) => {
    if (!file) return;
    const found = await fromFile(file, limit);
    setFault(found.fault ?? "");
    if (!found.fault) onPicture(found);
  };
  useEffect(() => {
    const paste = (event) => {
      const file = [...(event.clipboardData?.files ?? [])][0];
      if (file) { event.preventDefault(); take(file); }
    };
    const drag = (event) => {
      if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
      event.preventDefault();
      setOver(event.type === "dragover");
      if (event.type === "drop") take(event.dataTransfer.files[0]);
    };
    document.addEventListener("paste", paste);
    const kinds = ["dragover", "dragleave", "drop"];
    for (const kind of kinds) document.addEventListener(kind, drag);
    return () => {
      document.removeEventListener("paste", paste);
      for (const kind of kinds) document.removeEventListener(kind, drag);
    };
  }, [limit, onPicture]);
  return html`<section class="picture" aria-label="Picture">
    <label class=${`drop ${over ? "over" : ""} ${picture ? "full" : ""}`}>
      <input type="file" id="file" data-key="p" accept="image/*" onChange=${(event) => { take(event.target.files[0]); event.target.value = ""; }} />
      ${picture
        ? html`<${Preview} picture=${picture} /><span class="quiet">Replace: drop, paste or choose</span>`
        : html`<span class="big">Drop a picture here</span><span class="quiet">paste one, or <u>choose a file</u></span>`}
    </label>
    ${fault && html`<p class="fault" role="alert">${fault}</p>`}
    ${examples.length > 0 && html`<div class="examples" role="group" aria-label="Example pictures">
      ${examples.map((example) => html`<button type="button" key=${example.file} class="example" title=${example.alt}
        aria-pressed=${picture?.name === example.file && Boolean(picture?.example)}
        onClick=${async () => { setFault(""); onPicture(await fromExample(example)); }}>
        <img src=${address(EXAMPLES + example.file).href} alt=${`Example: ${example.alt}`} width="44" height="44" /></button>`)}
    </div>`}
  </section>`;
}

function Preview({ picture }) {
  const [broken, setBroken] = useState(false);
  useEffect(() => setBroken(false), [picture.url]);
  if (broken) return html`<span class="big">${picture.name}</span><span class="quiet">This browser cannot show it; the service may still read it.</span>`;
  return html`<img class="preview" src=${picture.url} alt=${picture.alt} onError=${() => setBroken(true)} />`;
}
