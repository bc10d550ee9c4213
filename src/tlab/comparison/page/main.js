// Text and tables stand before the charts' library is read; each chart is drawn in a slice of time of its own.
const CHARTS = [drawRanking, drawEffects, drawCurves, drawTime, drawParallel, drawClasses];

function inTurn(charts, done) {
  if (!charts.length) return done && done();
  setTimeout(() => {
    charts[0]();
    inTurn(charts.slice(1), done);
  });
}

function marked() {
  document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn || 0) + 1);
}

function redraw() {
  inTurn(CHARTS, marked);
}

function swatches() {
  const colours = theme();
  [...document.querySelectorAll("#settings tbody tr")].forEach((row) => {
    const place = Number(row.dataset.setting);
    if (place >= Math.min(colours.series.length, data.settings.length)) return;
    let mark = row.querySelector(".swatch");
    if (!mark) {
      mark = document.createElement("span");
      mark.className = "swatch";
      row.cells[0].prepend(mark);
    }
    mark.style.background = colours.series[place];
  });
}

function start() {
  const library = document.createElement("script");
  library.textContent = document.getElementById("plotly").textContent;
  document.head.append(library);
  redraw();
}

applyFilter();
listen(redraw);
listMetrics();
swatches();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  swatches();
  redraw();
});
addEventListener("beforeprint", () => {
  printing = true;
  for (const chart of CHARTS) chart();
  for (const div of document.querySelectorAll(".js-plotly-plot")) {
    Plotly.relayout(div, { width: Math.min(div.clientWidth, 660), autosize: false });
  }
});
addEventListener("afterprint", () => {
  printing = false;
  for (const div of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(div, { width: null, autosize: true });
  redraw();
});
addEventListener("load", () => requestAnimationFrame(() => setTimeout(start)));
