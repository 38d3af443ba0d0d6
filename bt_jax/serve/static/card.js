// A card for a file, redrawn whenever its state changes.

import { ask } from "./server.js";
import { className, decimal, limits, onChange, percent, size, text, told } from "./language.js";

const OPACITY = 0.65;

// Makes an element with properties and children; strings become text, never HTML.
function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export class Card {
  constructor(file, { sample = false, changed, removed }) {
    Object.assign(this, { file, sample, changed, removed });
    this.state = "waiting";
    this.records = [];
    this.index = 0; // of the slice shown
    this.opacity = OPACITY;
    this.node = make("li", { className: "result" });
    onChange(() => this.node.isConnected && this.draw());
    this.draw();
  }

  get settled() {
    return this.state === "done" || this.state === "error";
  }

  async start() {
    if (this.file.size > limits.requestBytes - 4096) {
      this.fail({ problem: "too_large" });
      return;
    }
    const answer = await ask(this.file, { picture: "1" }, {
      begun: () => this.become("working"),
      busy: () => this.become("retrying"),
    });
    if (!answer.records) {
      this.fail(answer);
      return;
    }
    this.records = answer.records;
    const good = this.records.filter((record) => record.error === undefined);
    this.state = good.length ? "done" : "error";
    this.index = Math.floor(good.length / 2);
    this.draw();
    this.changed();
    if (good.length && !this.record.picture) await this.show(this.index);
  }

  become(state) {
    this.state = state;
    this.draw();
  }

  // Makes a record for a failure on the page's side.
  fail({ problem, status = "", said = null }) {
    this.records = [{ path: this.file.name, error: said ? said.error : text(problem, { status }), problem, status, said }];
    this.state = "error";
    this.draw();
    this.changed();
  }

  get good() {
    return this.records.filter((record) => record.error === undefined);
  }

  get record() {
    return this.good[this.index];
  }

  // Requests the picture of a slice, and its heat map if a method is given.
  async show(index, method = null) {
    this.index = index;
    const record = this.record;
    const fields = { picture: "1" };
    if (record.slice !== null) fields.slice = String(record.slice);
    if (method) Object.assign(fields, { explain: method, class: record.prediction });
    this.pending = method ? "explaining" : null;
    this.problem = null;
    this.draw();
    const answer = await ask(this.file, fields);
    const found = answer.records?.[0];
    if (found && found.error === undefined) {
      record.picture = found.picture;
      if (method) record.heat_map = { ...found.heat_map, asked: method };
    } else {
      this.problem = found ?? { problem: answer.problem, status: answer.status, said: answer.said };
    }
    this.pending = null;
    this.draw();
  }

  draw() {
    const active = document.activeElement;
    // Keeps the focus, also while the focused control is replaced by a progress text.
    if (this.node.contains(active)) this.focused = active.dataset.key;
    else if (active !== document.body) this.focused = null;
    this.node.dataset.state = this.state;
    const remove = make("button", { type: "button", className: "remove", ariaLabel: text("remove", { name: this.file.name }),
                                    onclick: () => this.removed(this) }, "\u00d7");
    remove.dataset.key = "remove";
    const title = make("h3", {}, this.file.name);
    this.node.replaceChildren(make("div", { className: "head" }, title, remove), ...this.body());
    if (this.focused) this.node.querySelector(`[data-key="${this.focused}"]`)?.focus();
  }

  body() {
    const note = this.sample ? make("p", { className: "note" }, text("sample_note")) : null;
    if (this.state === "done") {
      return [note, make("div", { className: this.record.heat_map ? "columns wider" : "columns" }, this.picture(), this.answer())].filter(Boolean);
    }
    if (this.state === "error") {
      return [make("p", { className: "error" }, make("strong", {}, text("error")), ": ", this.reason(this.records[0]))];
    }
    return [make("p", { className: "pending" }, text(this.state))];
  }

  reason(record) {
    if (record.said) return told(record.said.error, record.said);
    if (record.problem) return text(record.problem, { status: record.status, size });
    return told(record.error, record);
  }

  // The slice and, if there is a heat map, the slice again under the heat map.
  picture() {
    const record = this.record;
    const image = () => make("img", { src: record.picture, alt: text("picture_of", { name: record.path }) });
    const frames = [make("div", { className: "frame" }, record.picture ? image() : null)];
    if (record.heat_map) {
      const heat = make("img", { src: record.heat_map.picture, alt: text("heat_of", { label: className(record.heat_map.class) }),
                                 className: "heat" });
      heat.style.opacity = this.opacity;
      frames.push(make("div", { className: "frame" }, image(), heat));
    }
    return make("figure", { className: record.heat_map ? "both" : "" },
      make("div", { className: "frames" }, ...frames), this.slices(), ...this.explanation());
  }

  slices() {
    const count = this.good.length;
    if (count < 2) return null;
    const label = make("span", {}, `${text("slice")} ${text("slice_of", { number: this.record.slice, count })}`);
    const slider = make("input", { type: "range", min: 0, max: count - 1, value: this.index });
    slider.dataset.key = "slice";
    slider.setAttribute("aria-valuetext", text("slice_of", { number: this.record.slice, count }));
    slider.addEventListener("input", () => {
      clearTimeout(this.timer);
      const number = this.good[slider.value].slice;
      label.textContent = `${text("slice")} ${text("slice_of", { number, count })}`;
    });
    // Redraws when the slider is released or moved by a key.
    slider.addEventListener("change", () => {
      this.timer = setTimeout(() => {
        this.index = Number(slider.value);
        if (this.record.picture) this.draw();
        else this.show(this.index);
      }, 150);
    });
    return make("label", { className: "control" }, label, slider);
  }

  explanation() {
    if (!limits.methods.length) return [];
    const { heat_map: heat } = this.record;
    if (this.pending) return [make("p", { className: "pending", role: "status" }, text(this.pending))];
    const problem = this.problem ? [make("p", { className: "error" }, this.reason(this.problem))] : [];
    if (!heat) {
      const button = make("button", { type: "button", onclick: () => this.show(this.index, limits.methods[0]) }, text("explain"));
      button.dataset.key = "explain";
      return [...problem, button];
    }
    const slider = make("input", { type: "range", min: 0, max: 100, value: Math.round(this.opacity * 100) });
    slider.dataset.key = "opacity";
    slider.addEventListener("input", () => {
      this.opacity = slider.value / 100;
      this.node.querySelector(".heat").style.opacity = this.opacity;
    });
    const method = make("select", { onchange: () => this.show(this.index, method.value) },
      ...limits.methods.map((name) => make("option", { value: name, selected: name === heat.asked }, text(name))));
    method.dataset.key = "explain";
    const caption = make("figcaption", {}, text(heat.empty ? "no_heat" : "heat_caption", { label: className(heat.class) }),
      make("span", { className: "scale" }, make("span", {}, text("less")), make("span", { className: "ramp" }), make("span", {}, text("more"))));
    return [...problem, make("label", { className: "control" }, make("span", {}, text("opacity")), slider),
            make("label", { className: "control" }, make("span", {}, text("method")), method), caption];
  }

  answer() {
    const record = this.record;
    const unlike = record.doubt !== null && record.doubt > 1;
    const values = { label: className(record.prediction), share: percent(record.confidence) };
    const unsure = record.codes.some((said) => said.code === "no_majority" || said.code === "low_confidence");
    const verdict = make("p", { className: "verdict" }, text(unlike ? "verdict_unlike" : unsure ? "verdict_unsure" : "verdict", values));
    const more = unlike ? make("p", { className: "small" }, text("verdict_unlike_more", values)) : null;
    const node = make("div", { className: unlike ? "answer unlike" : "answer" }, verdict, more,
      make("h4", {}, text("probabilities")), this.bars(record), this.doubt(record), this.summary(), this.warnings(record));
    return node;
  }

  bars(record) {
    const rows = Object.entries(record.probabilities).map(([name, share]) => {
      const fill = make("span", { className: "fill" });
      fill.style.width = `${Math.max(0.4, share * 100)}%`;
      const label = make("span", { className: "label" }, className(name));
      const value = make("span", { className: "share" }, percent(share));
      const row = make("li", { className: name === record.prediction ? "chosen" : "" }, label,
                       make("span", { className: "track", ariaHidden: "true" }, fill), value);
      return row;
    });
    return make("ul", { className: "bars" }, ...rows);
  }

  doubt(record) {
    if (record.doubt === null) return null;
    const mark = make("span", { className: "mark" });
    mark.style.left = `${Math.min(record.doubt / 2, 1) * 100}%`;
    return make("p", { className: "doubt" }, make("span", {}, text("doubt")), " ",
      make("span", { className: "gauge", ariaHidden: "true" }, mark),
      make("span", { className: "share" }, text("doubt_value", { value: decimal(record.doubt) })));
  }

  // Counts the slices of each class in a file with several.
  summary() {
    if (this.good.length < 2) return null;
    const counts = new Map();
    for (const { prediction } of this.good) counts.set(prediction, (counts.get(prediction) ?? 0) + 1);
    const parts = [...counts].sort((a, b) => b[1] - a[1]).map(([name, count]) => `${className(name)} ${count}`);
    return make("p", { className: "small" }, `${text("slices_summary", { count: this.good.length })} ${parts.join(", ")}`);
  }

  warnings(record) {
    const broken = this.records.filter((other) => other.error !== undefined).map((other) => this.reason(other));
    const said = record.warnings.map((warning, number) => told(warning, record.codes[number]));
    if (!said.length && !broken.length) return null;
    return make("div", { className: "warnings" }, make("h4", {}, text("warnings")),
      make("ul", {}, ...[...said, ...broken].map((line) => make("li", {}, line))));
  }
}
