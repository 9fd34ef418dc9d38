"use strict";
// Figures, downloads, light and dark, print; tables.js, in front of this, has the tables.
(() => {
  const { Table, make, save } = lrdTables;
  const tables = [];
  const root = document.documentElement;
  const data = (id) => JSON.parse(document.getElementById(id).textContent);
  const pause = () => new Promise((done) => setTimeout(done));

  // A specification made to fit: as many panels beside each other as there is room for.
  const fitted = (held, width) => {
    const chart = structuredClone(held.chart);
    const narrow = width < 520;
    chart.datasets = { rows: held.rows };
    chart.config.legend.columns = Math.max(1, Math.floor(width / (narrow ? 170 : 240)));
    chart.config.legend.layout = { bottom: { direction: narrow ? "vertical" : "horizontal" } };
    if (narrow) chart.config.axis.labelLimit = 110;
    if (held.facets) {
      const room = Math.min(3, Math.max(1, Math.floor(width / 270)));
      const most = Math.ceil(held.facets / Math.ceil(held.facets / room)); // rows of equal length
      const panel = Math.min(420, Math.floor(width / most) - 68);
      const square = chart.spec.width === chart.spec.height;
      chart.columns = most;
      chart.spec.width = panel;
      if (square) chart.spec.height = Math.min(panel, 280);
      chart.config.header.labelLimit = panel;
    } else {
      chart.width = Math.min(820, width);
      chart.autosize = { type: "fit-x", contains: "padding" };
    }
    return chart;
  };

  const options = {
    actions: false, ast: true, defaultStyle: false, renderer: "svg",
    tooltip: { disableDefaultStyle: true },
  };

  // The picture as a file of its own: with its title, on white, as `--format figures` has it.
  const picture = async (figure, held) => {
    const title = { text: held.title, anchor: "start", fontSize: 15, offset: 12 };
    const chart = { ...fitted(held, figure.width), background: "white", title };
    const made = await window.vegaEmbed(make("div"), chart, options);
    const svg = await made.view.toSVG();
    made.finalize();
    return svg.replaceAll('class="mark-rect', 'shape-rendering="crispEdges" class="mark-rect');
  };

  const show = async (figure, held) => {
    const plot = figure.querySelector(".plot");
    figure.width = plot.clientWidth;
    figure.shown?.finalize();
    figure.shown = await window.vegaEmbed(plot, fitted(held, figure.width), options);
    plot.setAttribute("role", "img"); // which the library takes for a document of its own
    plot.setAttribute("aria-label", held.alt);
  };

  // A figure that fails costs itself alone: its data are there all the same.
  const tried = async (figure, held) => {
    try {
      await show(figure, held);
    } catch (error) {
      const plot = figure.querySelector(".plot");
      plot.removeAttribute("role");
      plot.removeAttribute("aria-label");
      plot.textContent = "This figure could not be drawn; its data are below.";
      figure.querySelector(".svg")?.remove();
      console.warn(held.title, error);
    }
  };

  const equip = (figure, held) => {
    const bar = make("div", { className: "controls" });
    const button = make("button", { type: "button", className: "svg", textContent: "SVG" });
    button.setAttribute("aria-label", `Download as SVG: ${held.title}`);
    button.onclick = async () => save([await picture(figure, held)], `${held.file}.svg`, "image/svg+xml");
    bar.append(button);
    const details = make("details", {}, make("summary", { textContent: "The data of this figure" }));
    details.ontoggle = () => {
      if (!details.open || details.querySelector("table")) return;
      const names = Object.keys(held.rows[0]);
      const cell = (row, name) => (row[name] === null ? "-" : String(row[name]));
      const columns = names.map((name, i) => ({
        heading: [name], key: i === 0, cells: held.rows.map((row) => cell(row, name)),
        align: held.rows.some((row) => typeof row[name] === "string") ? "left" : "right",
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

  const begin = async () => {
    for (const place of document.querySelectorAll("section.sheet")) {
      tables.push(new Table(place, data(place.dataset.from)));
      await pause();
    }
    const figures = [...document.querySelectorAll("figure[data-from]")].map((f) => [f, data(f.dataset.from)]);
    for (const [figure, held] of figures) {
      equip(figure, held);
      await tried(figure, held);
      await pause();
    }
    let waiting = 0;
    addEventListener("resize", () => {
      clearTimeout(waiting);
      waiting = setTimeout(async () => {
        for (const [figure, held] of figures) {
          if (Math.abs(figure.width - figure.querySelector(".plot").clientWidth) > 40) await tried(figure, held);
        }
      }, 250);
    });
  };

  const start = async () => {
    try {
      await begin();
    } finally {
      root.dataset.ready = "yes";
    }
  };

  const print = (on) => tables.forEach((table) => table.print(on));
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
  document.readyState === "loading" ? addEventListener("DOMContentLoaded", start) : start();
})();
