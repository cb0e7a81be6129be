// Filters: chips of labels and of the columns' values, a field for other conditions, and the chips
// of what is in use.

import { make, makeButton, setName } from "./elements.js";
import { count, withSpaces } from "./words.js";

/**
 * The values of the labels or of one column, with their counts where they are known.
 * @typedef {{ field: string, title: string, values: [value: string, n: number | null][] }} Group
 */

const FIRST = 12; // chips of a group before "All"
const MOST = 200; // chips of a group at once
const CONDITION = /^\s*([^=!<>]+?)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*$/s;

/** The filters of an index, and which of them are in use. */
export class Filters {
  /**
   * @param {HTMLElement} panel
   * @param {HTMLElement} chosen  list of the filters in use
   * @param {(where: string[]) => void} onChange  takes them as the API does: "label=monarch"
   */
  constructor(panel, chosen, onChange) {
    /** Chips beside those of the filters. @type {HTMLElement[]} */
    this.others = [];
    this.panel = panel;
    this.chosen = chosen;
    this.onChange = onChange;
    /** @type {string[]} */
    this.where = [];
    /** Fields of the groups that show all their chips. @type {Set<string>} */
    this.open = new Set();
  }

  /** Offer the labels and columns of an index. @param {import("./api.js").Info} info */
  offer({ label_counts, columns }) {
    const labels = Object.entries(label_counts ?? {});
    labels.sort((a, b) => b[1] - a[1] || a[0].localeCompare(b[0]));
    /** @type {Group[]} */
    const groups = [{ field: "label", title: "Label", values: labels }];
    for (const [field, column] of Object.entries(columns ?? {})) {
      const values = column.map((value) => /** @type {[string, null]} */ ([value, null]));
      groups.push({ field, title: field, values });
    }
    const parts = groups.filter(({ values }) => values.length).map((group) => this.#group(group));
    this.panel.replaceChildren(...parts, this.#otherFilter());
    this.show(this.where);
  }

  /**
   * Show which filters are in use.
   * @param {string[]} where
   * @param {HTMLElement[]} [others]  chips in front of theirs
   */
  show(where, others = this.others) {
    this.where = where;
    this.others = others;
    this.#drawChosen();
    for (const button of this.panel.querySelectorAll("[data-condition]")) {
      const { condition } = /** @type {HTMLElement} */ (button).dataset;
      button.setAttribute("aria-pressed", String(where.includes(condition)));
    }
  }

  /** @param {string} condition */
  #toggle(condition) {
    const { where } = this;
    const without = where.filter((each) => each !== condition);
    this.onChange(without.length < where.length ? without : [...where, condition]);
  }

  /** @param {Group} group */
  #group(group) {
    const chips = make("div", { className: "chips" });
    const flow = make("div", { className: "flow" }, chips);
    if (group.values.length > FIRST) chips.before(this.#searchField(group, chips));
    this.#drawChips(group, chips);
    return make("fieldset", { className: "group" }, make("legend", {}, group.title), flow);
  }

  /**
   * A field that shows the chips of a group that contain what is typed.
   * @param {Group} group
   * @param {HTMLElement} chips
   */
  #searchField(group, chips) {
    const input = make("input", {
      type: "search",
      placeholder: `Search ${count(group.values.length)} values`,
      "aria-label": `Search the values of ${group.title}`,
      spellcheck: false,
    });
    input.addEventListener("input", () => this.#drawChips(group, chips, input.value.trim()));
    return input;
  }

  /**
   * @param {Group} group
   * @param {HTMLElement} chips
   * @param {string} [word]  that the values must contain
   */
  #drawChips(group, chips, word = "") {
    const lower = word.toLowerCase();
    const texts = (/** @type {string} */ value) => [value, textOf(group.field, value)];
    const matching = group.values.filter(([value]) =>
      texts(value).some((text) => text.toLowerCase().includes(lower)),
    );
    const shown = matching.slice(0, word || this.open.has(group.field) ? MOST : FIRST);
    chips.replaceChildren(...shown.map(([value, n]) => this.#chip(group.field, value, n)));
    if (word && !matching.length) chips.append(make("span", { className: "quiet" }, "No match"));
    if (!word && group.values.length > FIRST) chips.append(this.#moreButton(group, chips));
  }

  /** "All 200" or "Fewer". @param {Group} group @param {HTMLElement} chips */
  #moreButton({ field, ...group }, chips) {
    const open = this.open.has(field);
    const text = open ? "Fewer" : `All ${count(group.values.length)}`;
    const toggle = () => {
      if (open) this.open.delete(field);
      else this.open.add(field);
      this.#drawChips({ field, ...group }, chips);
      /** @type {HTMLElement} */ (chips.lastElementChild).focus();
    };
    return makeButton(text, toggle, { className: "plain", "aria-expanded": String(open) });
  }

  /** @param {string} field @param {string} value @param {number | null} n */
  #chip(field, value, n) {
    const condition = `${field}=${value}`;
    const chip = makeButton("", () => this.#toggle(condition), {
      className: "chip",
      "aria-pressed": String(this.where.includes(condition)),
      "data-condition": condition,
    });
    const text = make("span");
    setName(text, textOf(field, value));
    chip.append(text);
    if (n !== null) chip.append(make("span", { className: "n" }, count(n)));
    return chip;
  }

  /** A form for one condition of any kind. */
  #otherFilter() {
    const input = make("input", {
      type: "text",
      id: "condition",
      placeholder: "price<20   path=blue/*",
      spellcheck: false,
      autocomplete: "off",
      "aria-describedby": "condition-note",
    });
    const note = make("p", { id: "condition-note", className: "quiet", hidden: true });
    const form = make(
      "form",
      { className: "group other" },
      make("label", { htmlFor: "condition" }, "Other filter"),
      make("div", { className: "row" }, input, make("button", { type: "submit" }, "Add")),
      note,
    );
    form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      this.#addCondition(input, note);
    });
    return form;
  }

  /** @param {HTMLInputElement} input @param {HTMLElement} note */
  #addCondition(input, note) {
    const parts = CONDITION.exec(input.value);
    note.hidden = Boolean(parts);
    if (!parts) {
      note.textContent = "Enter a field, one of = != < > <= >=, and a value, such as price<20.";
      return;
    }
    this.onChange([...new Set([...this.where, parts.slice(1).join("")])]);
    input.value = "";
  }

  #drawChosen() {
    const { where, chosen, others } = this;
    chosen.hidden = !where.length && !others.length;
    const chips = [...others, ...where.map((each) => this.#chosenChip(each))];
    chosen.replaceChildren(...chips.map((chip) => make("li", {}, chip)));
    if (where.length < 2) return;
    const none = makeButton("Remove all", () => this.onChange([]), { className: "plain" });
    chosen.append(make("li", {}, none));
  }

  /** @param {string} condition */
  #chosenChip(condition) {
    const [, field, sign, value] = CONDITION.exec(condition) ?? [];
    const text = sign === "=" ? `${field}: ${textOf(field, value)}` : condition;
    return removableChip(text, `Remove the filter ${text}`, () => this.#toggle(condition));
  }
}

/**
 * A chip that a click removes.
 * @param {string} text
 * @param {string} label
 * @param {() => void} remove
 */
export function removableChip(text, label, remove) {
  const chip = makeButton(text, remove, { className: "chip on", "aria-label": label });
  chip.append(make("span", { className: "x", "aria-hidden": "true" }, "×"));
  return chip;
}

/** A value as it is shown. @param {string} field @param {string} value */
const textOf = (field, value) => (field === "label" ? withSpaces(value) : value);
