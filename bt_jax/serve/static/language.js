// The texts of the page in the chosen language.

const tables = JSON.parse(document.getElementById("tables").textContent);
const facts = JSON.parse(document.getElementById("facts").textContent);
let current = document.documentElement.lang;
const listeners = [];

export const limits = facts;
export const size = `${Math.round(facts.requestBytes / 2 ** 20)} MB`;

export function text(key, values = {}) {
  return filled(tables[current].page[key], { size, ...values });
}

export function className(name) {
  return tables[current].classes[name] ?? name;
}

export function percent(share) {
  const digits = share > 0.999 || share < 0.001 ? 2 : share > 0.99 || share < 0.01 ? 1 : 0;
  if (share < 0.0001) return `< ${(0.0001).toLocaleString(current, { style: "percent", maximumFractionDigits: 2 })}`;
  // Never shows 100 %: no network is certain.
  const shown = share < 1 ? Math.min(share, 0.9999) : 0.9999;
  return shown.toLocaleString(current, { style: "percent", maximumFractionDigits: digits });
}

export function decimal(value) {
  return value.toLocaleString(current, { maximumFractionDigits: value < 10 ? 1 : 0 });
}

// Translates a message of the server by its code and values.
export function told(english, { code, values }) {
  const template = tables[current].said[code];
  return template === undefined ? english : filled(template, values);
}

function filled(template, values) {
  return template.replace(/\{(\w+)\}/g, (all, name) => {
    const value = values[name];
    if (value === undefined) return all;
    if (typeof value === "object") return tables[current].said[value.code] ?? value.code;
    return typeof value === "number" ? value.toLocaleString(current, { maximumFractionDigits: 1 }) : value;
  });
}

export function onChange(listener) {
  listeners.push(listener);
}

function relabel() {
  document.documentElement.lang = current;
  document.title = text("title");
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text(node.dataset.text);
  for (const node of document.querySelectorAll("[data-label]")) node.setAttribute("aria-label", text(node.dataset.label));
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === current));
  }
  document.getElementById("about").href = `model?lang=${current}`;
}

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    current = button.dataset.language;
    history.replaceState(null, "", `?lang=${current}`);
    relabel();
    for (const listener of listeners) listener();
  });
}
