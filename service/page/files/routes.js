// The page at /docs: the routes of the service and their fields, as openapi.json has them.

import { html, render, useEffect, useState } from "./vendor/htm-preact.js";
import { address, get } from "./api.js";
import { Copyable, Trouble } from "./parts.js";

const last = (reference) => reference.split("/").pop();

/** A field's type in words: `string`, `list of string, at most 64`, `VQAResponse`, `"yes" or "no"`. */
function kind(schema) {
  if (schema.$ref) return last(schema.$ref);
  const several = schema.anyOf ?? schema.oneOf;
  if (several) return [...new Set(several.map(kind))].join(" or ");
  if (schema.enum ?? schema.const) return (schema.enum ?? [schema.const]).map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${kind(schema.items ?? {})}${schema.maxItems ? `, at most ${schema.maxItems}` : ""}`;
  return schema.type ?? "any";
}

/** The names of the schemas that `schema` mentions. */
function mentioned(schema) {
  return [...JSON.stringify(schema).matchAll(/"#\/components\/schemas\/(\w+)"/g)].map((found) => found[1]);
}

function Fields({ caption, rows }) {
  return html`<div class="wide" tabindex="0" role="region" aria-label=${caption}><table>
    <caption>${caption}</caption>
    <thead><tr><th scope="col">Field</th><th scope="col">Type</th><th scope="col">Meaning</th></tr></thead>
    <tbody>${rows.map(([name, needed, schema, about]) => html`<tr key=${name}>
      <th scope="row"><code>${name}</code>${needed && " (needed)"}</th><td>${kind(schema)}</td>
      <td>${about}${schema.default != null && html` <span class="quiet">default ${JSON.stringify(schema.default)}</span>`}</td></tr>`)}</tbody>
  </table></div>`;
}

/** A schema's fields, and below them those of the schemas it mentions, each once. */
function Shape({ caption, schema, schemas, told = new Set() }) {
  const found = schema.$ref ? schemas[last(schema.$ref)] : schema;
  if (!found?.properties) return null;
  const needed = new Set(found.required);
  const rows = Object.entries(found.properties).map(([name, field]) => [name, needed.has(name), field, field.description]);
  const below = mentioned(found).filter((name) => schemas[name]?.properties && !told.has(name) && told.add(name));
  return html`<${Fields} caption=${caption} rows=${rows} />
    ${below.map((name) => html`<${Shape} key=${name} caption=${name} schema=${schemas[name]} schemas=${schemas} told=${told} />`)}`;
}

function curl(method, path, body) {
  const where = address(path.slice(1)).href;
  const sent = body ? " \\\n    -H 'content-type: application/json' -d '{}'" : "";
  return `curl -X ${method} '${where}'${sent}`;
}

function Route({ method, path, route, schemas }) {
  const bodies = Object.entries(route.requestBody?.content ?? {});
  const parameters = (route.parameters ?? []).map((each) => [`${each.name} (${each.in})`, each.required, each.schema, each.description]);
  const answers = Object.entries(route.responses).filter(([status]) => status !== "default");
  return html`<details class="route">
    <summary><code>${method} ${path}</code> <span class="quiet">${route.summary}</span></summary>
    ${(route.description ?? "").split(/\n\n+/).map((text) => html`<p>${text}</p>`)}
    ${parameters.length > 0 && html`<${Fields} caption="Parameters" rows=${parameters} />`}
    ${bodies.map(([type, { schema }]) => html`<${Shape} key=${type} caption=${`Body, ${type}`} schema=${schema} schemas=${schemas} />`)}
    ${answers.map(([status, answer]) => Object.entries(answer.content ?? { "": { schema: {} } }).map(([type, { schema }]) => html`
      <p key=${type}>Answers ${status}${type && `, ${type}`}.</p>
      <${Shape} caption=${`Answer ${status}`} schema=${schema ?? {}} schemas=${schemas} />`))}
    <${Copyable} text=${curl(method, path, bodies.some(([type]) => type === "application/json"))} />
  </details>`;
}

function Routes() {
  const [said, setSaid] = useState(null), [failure, setFailure] = useState(null);
  const read = () => get("openapi.json").then(setSaid, setFailure);
  useEffect(() => { read(); }, []);
  const routes = Object.entries(said?.paths ?? {}).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, route]) => ({ path, method: method.toUpperCase(), route })));
  return html`<main id="main">
    <h1>HTTP routes</h1>
    <p>Every failure is <code>${'{"error": {"code", "message", "request_id"}}'}</code>. Where the service asks for keys, send
      ${" "}<code>Authorization: Bearer KEY</code>. For programs: <a href=${address("openapi.json").href}>openapi.json</a>.
      ${" "}<a href=${address("").href}>Back to the page</a>.</p>
    <${Trouble} failure=${failure} onRetry=${read} />
    ${routes.map((each) => html`<${Route} key=${each.method + each.path} ...${each} schemas=${said.components.schemas} />`)}
  </main>`;
}

render(html`<${Routes} />`, document.getElementById("app"));
