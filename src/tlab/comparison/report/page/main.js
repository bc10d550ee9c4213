// Text and tables stand before the charts' library is read; each chart is drawn in a slice of time of its own.
const CHARTS = [drawRanking, drawEffects, drawCurves, drawTime, drawParallel, drawClasses];

function inTurn(charts, done) {
  if (!charts.length) return done && done();
  setTimeout(() => {
    charts[0]();
    inTurn(charts.slice(1), done);
  });
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
followPage(() => CHARTS.forEach((chart) => chart()), () => {
  swatches();
  redraw();
});
addEventListener("load", () => requestAnimationFrame(() => setTimeout(start)));
