"use strict";
// Tables that are sorted, filtered and paged. All text goes in by textContent: names come from
// strangers. Only the rows of one page are in the document, save when the page is printed: then all
// that are filtered in, with all columns.
const lrdTables = (() => {
  const ROWS = 100; // of a page
  const COLUMNS = 20; // shown at once beside the key
  const PRINTED = 12; // columns beside the key on paper; those of a wider table come in blocks
  const MISSING = new Set(["", "-", "–", "—"]);
  const NUMBER = /^[+\-−–]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?/i;
  const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const counted = (n) => n.toLocaleString("en");

  // "28 of 30", "0.82 ± .01", "1,234", "3=": the number that a cell begins with, NaN for none
  const value = (cell) => {
    const found = NUMBER.exec(cell.trim());
    return found ? Number(found[0].replaceAll(",", "").replace(/^[−–]/, "-")) : NaN;
  };

  // Keys of a column, made once: numbers where every cell that is there begins with one.
  const keys = (column) => {
    if (!column.keys) {
      const there = column.cells.map((cell) => !MISSING.has(cell));
      const numbers = column.cells.map(value);
      const numeric = !column.key && there.every((is, i) => !is || !Number.isNaN(numbers[i]));
      column.keys = { there, values: numeric && column.align !== "left" ? numbers : null };
    }
    return column.keys;
  };

  const sorted = (order, column, down) => {
    const { there, values } = keys(column);
    const compare = values
      ? (a, b) => values[a] - values[b]
      : (a, b) => collator.compare(column.cells[a], column.cells[b]);
    const held = order.filter((i) => there[i]);
    held.sort((a, b) => (down ? compare(b, a) : compare(a, b)) || a - b);
    return held.concat(order.filter((i) => !there[i])); // what is not there comes last, both ways
  };

  const quoted = (cell) => (/[",\n\r]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);

  // A name that a spreadsheet would take for a formula gets an apostrophe, as in the CSV forms.
  const literal = (text) =>
    /^'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text) && text !== "-" && Number.isNaN(Number(text)) ? `'${text}` : text;

  const save = (parts, name, type) => {
    const link = make("a", { href: URL.createObjectURL(new Blob(parts, { type })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };

  class Table {
    constructor(place, held) {
      Object.assign(this, { place, held, columns: held.columns, page: 0, first: 0, sort: null });
      if (matchMedia("(max-width: 40rem)").matches) {
        this.columns = [...held.columns].sort((a, b) => Number(!!b.key) - Number(!!a.key));
      }
      this.all = held.columns.length ? held.columns[0].cells.map((_, i) => i) : [];
      this.key = this.columns.find((column) => column.key);
      this.table = place.querySelector("table");
      this.body = this.table.createTBody();
      this.status = make("span", { className: "status" });
      this.status.setAttribute("role", "status");
      place.querySelector(".scroll").before(this.controls());
      this.narrow();
    }

    controls() {
      const bar = make("div", { className: "controls" });
      const named = (text, control) => bar.append(make("label", {}, `${text} `, control));
      const button = (text, act) => {
        const made = make("button", { type: "button", textContent: text });
        made.onclick = () => made.getAttribute("aria-disabled") !== "true" && act();
        bar.append(made);
        return made;
      };
      if (this.all.length > 3) {
        this.query = make("input", { type: "search", size: 14, oninput: () => this.narrow() });
        named("Filter", this.query);
      }
      const families = this.held.families && [...new Set(this.held.families)].sort(collator.compare);
      if (families && families.length > 1) {
        this.family = make("select", { onchange: () => this.narrow() });
        this.family.append(make("option", { value: "", textContent: "all" }));
        families.forEach((name, i) => this.family.append(make("option", { value: `${i}`, textContent: name })));
        this.families = families;
        named("Family", this.family);
      }
      if (this.all.length > ROWS) {
        this.back = button("Previous rows", () => this.turn(-1));
        this.on = button("Next rows", () => this.turn(1));
      }
      if (this.columns.length > COLUMNS + 1) {
        this.left = button("Columns to the left", () => this.shift(-COLUMNS));
        this.right = button("Columns to the right", () => this.shift(COLUMNS));
      }
      button("CSV", () => this.download()).setAttribute("aria-label", `Download as CSV: ${this.held.title}`);
      bar.append(this.status);
      return bar;
    }

    // The rows that the filters leave, in the order of the sort.
    narrow() {
      const words = (this.query?.value ?? "").toLowerCase();
      const family = this.family?.value ? this.families[Number(this.family.value)] : null;
      if (words && !this.texts) {
        const read = this.columns.filter((c) => c.key || c.align === "left");
        this.texts = this.all.map((i) => read.map((c) => c.cells[i]).join("\n").toLowerCase());
      }
      this.kept = this.all.filter(
        (i) => (!words || this.texts[i].includes(words)) && (!family || this.held.families[i] === family)
      );
      this.page = 0;
      this.arrange();
    }

    arrange() {
      this.order = this.sort ? sorted(this.kept, this.sort.column, this.sort.down) : this.kept;
      this.draw();
    }

    // The better end first, then the other way, then as it was.
    by(column) {
      const best = /↑/.test(column.heading.join(" "));
      if (this.sort?.column !== column) this.sort = { column, down: best };
      else this.sort = this.sort.down === best ? { column, down: !best } : null;
      this.page = 0;
      this.arrange();
    }

    turn(step) {
      this.page += step;
      this.draw();
    }

    shift(step) {
      this.first = Math.max(0, this.first + step);
      this.heads = null;
      this.draw();
    }

    visible() {
      if (this.columns.length <= COLUMNS + 1) return this.columns;
      const rest = this.columns.filter((c) => c !== this.key);
      return [...(this.key ? [this.key] : []), ...rest.slice(this.first, this.first + COLUMNS)];
    }

    head(table, columns) {
      const row = make("tr");
      for (const column of columns) {
        const lines = column.heading.map((line) => make("span", { textContent: line }));
        const button = make("button", { type: "button", onclick: () => this.by(column) }, ...lines);
        const cell = make("th", { scope: "col", className: column.align }, button);
        cell.column = column;
        row.append(cell);
      }
      table.tHead?.remove();
      table.createTHead().append(row);
      return [...row.cells];
    }

    draw(all = false) {
      const columns = this.visible();
      this.heads ??= this.head(this.table, columns);
      this.mark(this.heads);
      const from = all ? 0 : this.page * ROWS;
      const to = all ? this.order.length : Math.min(this.order.length, from + ROWS);
      this.body.replaceChildren(this.rows(columns, from, to));
      this.tell(from, to, columns);
    }

    // On paper, a table that is too wide for it is a table for each block of columns, each with the
    // key; the one on the screen is left as it is, so that focus and page stay where they are.
    print(on) {
      this.papers?.forEach((paper) => paper.remove());
      this.papers = [];
      const wide = on && this.columns.length > PRINTED + 1;
      this.table.classList.toggle("screen", wide);
      if (!wide) return this.draw(on);
      const rest = this.columns.filter((c) => c !== this.key);
      for (let first = 0; first < rest.length; first += PRINTED) {
        const columns = [...(this.key ? [this.key] : []), ...rest.slice(first, first + PRINTED)];
        const last = Math.min(rest.length, first + PRINTED);
        const said = `${this.held.title}: columns ${first + 1} to ${last} of ${rest.length}`;
        const paper = make("table", { className: "paper" }, make("caption", { textContent: said }));
        this.mark(this.head(paper, columns));
        paper.createTBody().append(this.rows(columns, 0, this.order.length));
        this.papers.push(paper);
      }
      this.table.after(...this.papers);
    }

    mark(heads) {
      for (const cell of heads) {
        const way = this.sort?.down ? "descending" : "ascending";
        if (cell.column === this.sort?.column) cell.setAttribute("aria-sort", way);
        else cell.removeAttribute("aria-sort");
      }
    }

    rows(columns, from, to) {
      const rows = document.createDocumentFragment();
      for (const i of this.order.slice(from, to)) {
        const row = make("tr");
        for (const { key, align, cells } of columns) {
          const cell = make(key ? "th" : "td", { textContent: cells[i], className: align });
          if (key) cell.scope = "row";
          row.append(cell);
        }
        rows.append(row);
      }
      return rows;
    }

    // A button that disabled itself would lose the focus: it says so, and does nothing.
    tell(from, to, columns) {
      const disable = (button, is) => button.setAttribute("aria-disabled", String(is));
      const parts = [`${counted(this.kept.length)} of ${counted(this.all.length)} rows`];
      if (this.back) {
        disable(this.back, from === 0);
        disable(this.on, to >= this.order.length);
        if (to - from < this.order.length) parts.push(`shown ${counted(from + 1)} to ${counted(to)}`);
      }
      if (this.left) {
        const rest = this.columns.length - (this.key ? 1 : 0);
        const last = this.first + columns.length - (this.key ? 1 : 0);
        disable(this.left, this.first === 0);
        disable(this.right, last >= rest);
        parts.push(`columns ${this.first + 1} to ${last} of ${rest}`);
      }
      if (this.sort) {
        const way = this.sort.down ? "descending" : "ascending";
        parts.push(`sorted by ${this.sort.column.heading.join(" ")}, ${way}`);
      }
      this.status.textContent = parts.join("; ");
    }

    // The rows that are filtered in, as sorted, with all columns, in the same order on any screen.
    download() {
      const { columns } = this.held;
      const lines = [columns.map((c) => literal(c.heading.join(" ")))];
      const cell = (c, i) => (c.key || c.align === "left" ? literal(c.cells[i]) : c.cells[i]);
      for (const i of this.order) lines.push(columns.map((c) => cell(c, i)));
      const text = lines.map((line) => line.map(quoted).join(",") + "\n").join("");
      save([text], `${this.held.file}.csv`, "text/csv");
    }
  }

  const data = (id) => JSON.parse(document.getElementById(id).textContent);

  // The table that was read last, drawn while the rest is being read.
  const drawn = [];
  const next = () => {
    const place = document.currentScript.parentElement;
    drawn.push(new Table(place, data(place.dataset.from)));
  };

  return { Table, make, save, data, drawn, next };
})();
