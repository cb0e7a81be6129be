// Filters: chips of labels and of the columns' values, a field for other conditions, and the chips of what is in use.

import { count, make, named } from "./words.js";

const FIRST = 12; // chips of a group before "all"
const CONDITION = /^\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*$/s;

export class Filters {
  /** `on.change(where)` with the conditions in use, as the API takes them: "label=monarch". */
  constructor(panel, chosen, on) {
    this.panel = panel;
    this.chosen = chosen;
    this.on = on;
    this.where = [];
    this.open = new Set(); // groups that show all their chips
    this.groups = [];
  }

  /** The groups of an index: its labels with their counts, its columns with their values. */
  offer({ label_counts: labels, labels: distinct, columns }) {
    const entries = Object.entries(labels ?? {}).sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
    this.groups = [{ field: "label", title: "Label", values: entries, distinct }];
    for (const [field, values] of Object.entries(columns ?? {}))
      this.groups.push({ field, title: field, values: values.map((value) => [String(value), null]), distinct: values.length });
    this.groups = this.groups.filter((group) => group.values.length);
    this.#drawPanel();
  }

  show(where) {
    this.where = where;
    this.#drawChosen();
    for (const button of this.panel.querySelectorAll("[data-condition]"))
      button.setAttribute("aria-pressed", String(where.includes(button.dataset.condition)));
  }

  #toggle(condition) {
    const where = this.where.includes(condition) ? this.where.filter((w) => w !== condition) : [...this.where, condition];
    this.on.change(where);
  }

  #drawPanel() {
    this.panel.replaceChildren(...this.groups.map((group) => this.#group(group)), this.#other());
    this.show(this.where);
  }

  #group(group) {
    const chips = make("div", { className: "chips" });
    const box = make("fieldset", { className: "group" }, make("legend", {}, group.title), make("div", { className: "flow" }, chips));
    const draw = (word = "") => {
      const all = this.open.has(group.field);
      const fits = group.values.filter(([value]) => value.toLowerCase().includes(word.toLowerCase()));
      const first = word || all ? fits.slice(0, 200) : fits.slice(0, FIRST);
      chips.replaceChildren(...first.map(([value, n]) => this.#chip(group.field, value, n)));
      if (word && !fits.length) chips.append(make("span", { className: "quiet" }, "None of that name"));
      if (!word && group.values.length > FIRST) {
        const more = make("button", { type: "button", className: "plain", "aria-expanded": String(all) }, all ? "Fewer" : `All ${count(group.values.length)}`);
        more.addEventListener("click", () => {
          if (all) this.open.delete(group.field);
          else this.open.add(group.field);
          draw();
          chips.lastElementChild.focus();
        });
        chips.append(more);
      }
    };
    if (group.values.length > FIRST) {
      const find = make("input", { type: "search", placeholder: `Find among ${count(group.values.length)}`, "aria-label": `Find a ${group.title}`, spellcheck: false });
      find.addEventListener("input", () => draw(find.value.trim()));
      chips.before(find);
    }
    draw();
    return box;
  }

  #chip(field, value, n) {
    const condition = `${field}=${value}`;
    const text = make("span");
    named(text, value);
    const chip = make("button", { type: "button", className: "chip", "aria-pressed": String(this.where.includes(condition)), "data-condition": condition }, text);
    if (n !== null) chip.append(make("span", { className: "n" }, count(n)));
    chip.addEventListener("click", () => this.#toggle(condition));
    return chip;
  }

  #other() {
    const input = make("input", { type: "text", id: "condition", placeholder: "price<20   path=blue/*", spellcheck: false, autocomplete: "off", "aria-describedby": "condition-note" });
    const note = make("p", { id: "condition-note", className: "quiet", hidden: true });
    const form = make(
      "form",
      { className: "group other" },
      make("label", { htmlFor: "condition" }, "Other filter"),
      make("div", { className: "row" }, input, make("button", { type: "submit" }, "Add")),
      note,
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const parts = CONDITION.exec(input.value);
      note.hidden = Boolean(parts);
      if (!parts) note.textContent = "Write a field, one of = != < > <= >= and a value, such as price<20.";
      else this.on.change([...new Set([...this.where, parts.slice(1).join("")])]);
      if (parts) input.value = "";
    });
    return form;
  }

  #drawChosen() {
    this.chosen.hidden = !this.where.length;
    this.chosen.replaceChildren(
      ...this.where.map((condition) => {
        const [, field, sign, value] = CONDITION.exec(condition) ?? [null, condition, "", ""];
        const text = sign === "=" ? `${field}: ${value}` : condition;
        const chip = make("button", { type: "button", className: "chip on", "aria-label": `Remove the filter ${text}` }, text, make("span", { className: "x", "aria-hidden": "true" }, "×"));
        chip.addEventListener("click", () => this.#toggle(condition));
        return make("li", {}, chip);
      }),
    );
    if (this.where.length > 1) {
      const none = make("button", { type: "button", className: "plain" }, "Remove all");
      none.addEventListener("click", () => this.on.change([]));
      this.chosen.append(make("li", {}, none));
    }
  }
}
