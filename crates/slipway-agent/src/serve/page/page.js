"use strict";
// Shows the OpenAPI document of this service. All text goes in as text, never as markup.

const VERBS = ["get", "post", "patch", "delete"];

function make(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function typeOf(schema) {
  if (!schema) return make("span", {}, "");
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return make("a", { href: "#def-" + name }, name);
  }
  if (schema.type === "array") return make("span", {}, "list of ", typeOf(schema.items));
  if (schema.additionalProperties) return make("span", {}, "map of ", typeOf(schema.additionalProperties));
  if (schema.enum) return make("span", {}, "one of");
  return make("span", {}, schema.type === "integer" ? "integer" : schema.type || "any");
}

function notes(schema, required, addition) {
  const cell = make("td", {}, schema.description || "");
  if (schema.enum) {
    cell.append(cell.textContent ? " " : "");
    schema.enum.forEach((word, n) => cell.append(n ? " " : "", make("code", {}, word)));
  }
  if (schema.default !== undefined) cell.append(" Default ", make("code", {}, String(schema.default)), ".");
  if (required) cell.append(" ", make("span", { class: "tag" }, "required"));
  if (schema.readOnly) cell.append(" ", make("span", { class: "tag" }, "read-only"));
  if (addition) cell.append(" ", make("span", { class: "tag" }, "addition"));
  return cell;
}

function table(rows) {
  return make("div", { class: "wide" }, make("table", {}, make("tbody", {}, ...rows)));
}

function example(path, method, operation, root) {
  const base = root ? "" : "/imageapi/v1";
  const query = (operation.parameters || []).filter((one) => one.in === "query" && one.required)
    .map((one) => one.name + "=" + (one.enum ? one.enum[0] : "7"));
  const body = (operation.parameters || []).some((one) => one.in === "body");
  const words = ["curl --unix-socket /run/slipway/node.sock"];
  if (method !== "get") words.push("-X " + method.toUpperCase());
  if (body) words.push("-H 'Content-Type: application/json' -d @" + operation.operationId + ".json");
  words.push("'http://node" + base + path + (query.length ? "?" + query.join("&") : "") + "'");
  return words.join(" \\\n  ");
}

function operationCard(path, method, operation, root) {
  const shown = (root ? "" : "/imageapi/v1") + path;
  const card = make("article", { id: "op-" + operation.operationId, class: method, "data-words": (method + " " + shown).toLowerCase() },
    make("h3", {}, make("span", { class: "verb" }, method.toUpperCase()), make("span", { class: "path" }, shown),
      operation["x-addition"] ? make("span", { class: "tag" }, "addition") : null),
    make("p", {}, operation.description || ""));
  const parameters = operation.parameters || [];
  if (parameters.length) {
    card.append(make("h4", {}, "Parameters"), table(parameters.map((one) => make("tr", {},
      make("td", {}, make("code", {}, one.in === "body" ? "body" : one.name)),
      make("td", { class: "type" }, one.in === "body" ? typeOf(one.schema) : make("span", {}, one.in + ", " + one.type)),
      notes(one.in === "body" ? { description: "JSON." } : one, one.required, one["x-addition"])))));
  }
  const codes = Object.keys(operation.responses || {}).filter((code) => code !== "default");
  const row = (code) => make("tr", {}, make("td", {}, make("code", {}, code)),
    make("td", { class: "type" }, typeOf(operation.responses[code].schema)), make("td", {}, operation.responses[code].description));
  const good = codes.filter((code) => code < "400");
  const bad = codes.filter((code) => code >= "400");
  card.append(make("h4", {}, "Answers"), table(good.map(row)));
  if (bad.length) card.append(make("details", {}, make("summary", {}, "Refusals: " + bad.join(" ")), table(bad.map(row))));
  card.append(make("details", {}, make("summary", {}, "With curl"), make("pre", {}, make("code", {}, example(path, method, operation, root)))));
  return card;
}

function definitionCard(name, definition) {
  const required = definition.required || [];
  const card = make("article", { id: "def-" + name, "data-words": name.toLowerCase() },
    make("h3", {}, make("span", { class: "path" }, name),
      definition["x-addition"] ? make("span", { class: "tag" }, "addition") : null),
    definition.description ? make("p", {}, definition.description) : null);
  card.append(table(Object.entries(definition.properties || {}).map(([field, schema]) =>
    make("tr", { "data-words": field.toLowerCase() }, make("td", {}, make("code", {}, field)),
      make("td", { class: "type" }, typeOf(schema)), notes(schema, required.includes(field), schema["x-addition"])))));
  return card;
}

function show(spec) {
  const content = document.getElementById("content");
  const nav = document.getElementById("nav");
  const part = (title, id) => {
    content.append(make("h2", { class: "part", id }, title));
    nav.append(make("h2", {}, title));
  };
  const link = (href, ...text) => nav.append(make("a", { href, "data-for": href.slice(1) }, ...text));
  content.append(make("h1", {}, spec.info.title), make("p", { class: "soft" }, "Version " + spec.info.version + ". The same for programs: ",
    make("a", { href: "/swagger.json" }, "/swagger.json"), "."));
  spec.info.description.split("\n\n").forEach((text) => content.append(make("p", {}, text)));
  const operations = [];
  for (const [path, methods] of Object.entries(spec.paths))
    for (const method of VERBS) if (methods[method]) operations.push([path, method, methods[method], false]);
  for (const [path, methods] of Object.entries(spec["x-root-paths"] || {}))
    for (const method of VERBS) if (methods[method]) operations.push([path, method, { tags: ["service"], ...methods[method] }, true]);
  for (const tag of spec.tags) {
    part(tag.name[0].toUpperCase() + tag.name.slice(1), "tag-" + tag.name);
    content.append(make("p", { class: "soft" }, tag.description));
    for (const [path, method, operation, root] of operations.filter(([, , one]) => one.tags.includes(tag.name))) {
      content.append(operationCard(path, method, operation, root));
      link("#op-" + operation.operationId, make("span", { class: "verb " + method }, method.toUpperCase()), path);
    }
  }
  part("Shapes", "shapes");
  for (const [name, definition] of Object.entries(spec.definitions)) {
    content.append(definitionCard(name, definition));
    link("#def-" + name, name);
  }
  document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value.trim().toLowerCase()));
  if (location.hash) document.getElementById(decodeURIComponent(location.hash.slice(1)))?.scrollIntoView();
}

function filter(word) {
  for (const card of document.querySelectorAll("article")) {
    let hits = 0;
    for (const row of card.querySelectorAll("tr[data-words]")) {
      const hit = word !== "" && row.dataset.words.includes(word);
      row.classList.toggle("hit", hit);
      hits += hit;
    }
    card.hidden = word !== "" && hits === 0 && !card.dataset.words.includes(word);
    const link = document.querySelector('nav a[data-for="' + CSS.escape(card.id) + '"]');
    if (link) link.hidden = card.hidden;
  }
}

fetch("/swagger.json")
  .then((answer) => {
    if (!answer.ok) throw new Error("the service answered " + answer.status);
    return answer.json();
  })
  .then(show)
  .catch((why) => document.getElementById("content").append(make("p", {}, "Reading /swagger.json: " + why.message)));
