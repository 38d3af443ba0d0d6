// The page: makes a card for each file.

import { Card } from "./card.js";
import { download, table } from "./csv.js";
import { limits, onChange, text } from "./language.js";

const at = (id) => document.getElementById(id);
let cards = [];

function add(files, options = {}) {
  const made = [...files].map((file) => new Card(file, { ...options, changed: update, removed: remove }));
  cards.push(...made);
  at("cards").append(...made.map((card) => card.node));
  update();
  for (const card of made) card.start();
}

function remove(card) {
  const next = card.node.nextElementSibling ?? card.node.previousElementSibling;
  cards = cards.filter((other) => other !== card);
  card.node.remove();
  (next?.querySelector("[data-key=remove]") ?? at("choose")).focus();
  update();
}

function update() {
  at("results").hidden = cards.length === 0;
  const done = cards.filter((card) => card.settled).length;
  const errors = cards.filter((card) => card.state === "error").length;
  at("progress").textContent = cards.length
    ? text(errors ? "progress_errors" : "progress", { done, all: cards.length, errors }) : "";
  at("download").disabled = done < cards.length;
}

async function addSample() {
  const content = await fetch("sample.png").then((response) => response.blob(), () => ""); // the card then shows the error
  add([new File([content], "phantom.png", { type: "image/png" })], { sample: true });
}

at("choose").addEventListener("click", () => at("files").click());
at("sample").addEventListener("click", addSample);
at("files").addEventListener("change", ({ target }) => {
  add(target.files);
  target.value = ""; // so that the same file can be chosen again
});
at("clear").addEventListener("click", () => {
  for (const card of cards) card.node.remove();
  cards = [];
  update();
  at("choose").focus();
});
at("download").addEventListener("click", () =>
  download(table(cards.flatMap((card) => card.records), limits.classes), "predictions.csv"));

// Accepts files dropped anywhere, since the browser would otherwise leave the page.
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    const leaving = kind === "drop" || (kind === "dragleave" && event.relatedTarget === null);
    at("drop").classList.toggle("over", !leaving);
    if (kind === "drop" && event.dataTransfer.files.length) add(event.dataTransfer.files);
  });
}
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add(event.clipboardData.files);
});
onChange(update);
