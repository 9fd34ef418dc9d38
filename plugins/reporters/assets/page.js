"use strict";
// Figures, downloads, light and dark, print; tables.js, in front of this, has the tables.
(() => {
  const { Table, make, save, drawn, data } = lrdTables;
  const root = document.documentElement;
  const SVG = "http://www.w3.org/2000/svg";

  // The picture as a file of its own: with its title, on white.
  const picture = (figure, title) => {
    const drawing = figure.querySelector(".wide svg").cloneNode(true);
    const { width, height } = drawing.viewBox.baseVal;
    const node = (name, attributes, ...children) => {
      const made = document.createElementNS(SVG, name);
      Object.entries(attributes).forEach(([key, value]) => made.setAttribute(key, value));
      made.append(...children);
      return made;
    };
    drawing.setAttribute("y", 36);
    const size = { width, height: height + 36 };
    const text = { x: 6, y: 22, "font-family": "sans-serif", "font-size": 15, "font-weight": "bold" };
    const ground = node("rect", { ...size, fill: "white" });
    const whole = node("svg", { ...size, viewBox: `0 0 ${width} ${height + 36}` }, ground, node("text", text, title), drawing);
    return new XMLSerializer().serializeToString(whole);
  };

  const words = (value) => (value === null ? "-" : String(value));

  // What a mark is of is told where it is pointed at.
  const tip = make("table", { id: "tip" });
  document.body.append(tip);
  const hide = () => (tip.className = "");
  const tell = (event, { names, rows }) => {
    const row = rows[event.target.dataset.row];
    if (!row) return hide();
    tip.replaceChildren(...names.map((name, i) => {
      const cells = [make("td", { className: "key", textContent: name }), make("td", { textContent: words(row[i]) })];
      return make("tr", {}, ...cells);
    }));
    tip.className = "visible";
    const { width, height } = tip.getBoundingClientRect();
    const fit = (at, size, room) => Math.max(4, Math.min(at + 12, room - size - 4));
    tip.style.left = `${fit(event.clientX, width, innerWidth)}px`;
    tip.style.top = `${fit(event.clientY, height, innerHeight)}px`;
  };

  const equip = (figure) => {
    const held = data(figure.dataset.from);
    const bar = make("div", { className: "controls" });
    const plot = figure.querySelector("div.plot");
    if (plot) {
      const button = make("button", { type: "button", textContent: "SVG" });
      button.setAttribute("aria-label", `Download as SVG: ${held.title}`);
      button.onclick = () => save([picture(figure, held.title)], `${held.file}.svg`, "image/svg+xml");
      bar.append(button);
      plot.onpointerover = (event) => tell(event, held);
      plot.onpointerleave = hide;
    }
    const details = make("details", {}, make("summary", { textContent: "The data of this figure" }));
    details.ontoggle = () => {
      if (!details.open || details.querySelector("table")) return;
      const columns = held.names.map((name, i) => ({
        heading: [name], key: i === 0, cells: held.rows.map((row) => words(row[i])),
        align: held.rows.some((row) => typeof row[i] === "string") ? "left" : "right",
      }));
      const table = make("table", {}, make("caption", { className: "hidden", textContent: held.title }));
      const scroll = make("div", { className: "scroll", tabIndex: 0 }, table);
      scroll.setAttribute("role", "region");
      scroll.setAttribute("aria-label", `The data of ${held.title}`);
      details.append(scroll);
      new Table(details, { title: held.title, file: held.file, columns });
    };
    figure.append(bar, details);
  };
  document.querySelectorAll("figure[data-from]").forEach(equip);

  const print = (on) => drawn.forEach((table) => table.print(on));
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  matchMedia("print").addEventListener("change", (event) => print(event.matches));

  const theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = (on) => {
    root.dataset.theme = on ? "dark" : "light";
    theme.setAttribute("aria-pressed", String(on));
  };
  theme.onclick = () => paint(root.dataset.theme !== "dark");
  dark.addEventListener("change", (event) => paint(event.matches));
  paint(dark.matches);

  for (const button of document.querySelectorAll("button[data-download]")) {
    button.onclick = async () => {
      const packed = atob(document.getElementById(button.dataset.from).textContent);
      const bytes = Uint8Array.from(packed, (c) => c.charCodeAt(0));
      const whole = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      save([await new Response(whole).blob()], button.dataset.download, button.dataset.type);
    };
  }
  root.dataset.ready = "yes";
})();
