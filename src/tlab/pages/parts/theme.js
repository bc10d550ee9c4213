// Colours from the page's style, so that charts follow light, dark and paper; and what every chart shares.
function theme() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(name).trim();
  return {
    ink: read("--ink"), soft: read("--soft"), line: read("--line"), muted: read("--muted"), card: read("--card"),
    ground: read("--ground"), accent: read("--accent"), series: read("--series").split(",").map((part) => part.trim()),
  };
}

const DASHES = ["solid", "dash", "dot", "dashdot", "solid", "dash", "dot", "dashdot"]; // for those who see no colors

function faded(colour, opacity) {
  const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
  return `rgba(${r},${g},${b},${opacity})`;
}

// Light to dark on a light page, dark to light on a dark one: `at` from 0 to 1.
function scale(at, colours) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches && !printing;
  const stops = dark
    ? [[58, 72, 92], [46, 120, 150], [72, 178, 150], [200, 224, 110]]
    : [[205, 214, 222], [110, 172, 196], [30, 116, 160], [18, 52, 110]];
  const place = Math.min(0.9999, Math.max(0, at)) * (stops.length - 1);
  const [low, high] = [stops[Math.floor(place)], stops[Math.floor(place) + 1]];
  return `rgb(${low.map((c, i) => Math.round(c + (high[i] - c) * (place % 1))).join(",")})`;
}

function axis(colours, more = {}) {
  return {
    gridcolor: colours.line, linecolor: colours.line, zeroline: false, tickfont: { color: colours.soft, size: 12 },
    automargin: true, fixedrange: false, ...more,
    title: more.title ? { text: more.title, font: { color: colours.soft, size: 12 }, standoff: 10 } : undefined,
  };
}

function shareAxis(colours, share, more = {}) {
  return axis(colours, share ? { tickformat: ".3~%", ...more } : more);
}

function layout(colours, more = {}) {
  const family = getComputedStyle(document.body).fontFamily;
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { family, color: colours.ink, size: 13 },
    margin: { l: 8, r: 12, t: 8, b: 8 }, hovermode: "closest", dragmode: false, showlegend: false,
    hoverlabel: { bgcolor: colours.card, bordercolor: colours.line, font: { family, color: colours.ink, size: 13 } },
    legend: { orientation: "h", y: -0.22, yanchor: "top", x: 0, xanchor: "left", font: { size: 12 } },
    ...more,
  };
}

const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false, scrollZoom: false };

function plot(id, traces, shape) {
  return Plotly.react(id, traces, shape, CONFIG);
}

function hide(id, hidden) {
  document.getElementById(id).hidden = hidden;
}

function asText(number, share = data.share) {
  if (number === null || number === undefined) return "–";
  return share ? `${(100 * number).toFixed(1)} %` : number.toPrecision(4);
}

function asTime(seconds) {
  if (seconds === null) return "–";
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  return seconds < 3600 ? `${(seconds / 60).toFixed(1)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function escaped(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

let printing = false;

// Have the charts drawn again when the page's colors change, and narrow enough for paper before it is printed.
function followPage(drawNow, redraw) {
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => {
    printing = true;
    drawNow();
    for (const div of document.querySelectorAll(".js-plotly-plot")) {
      Plotly.relayout(div, { width: Math.min(div.clientWidth, 660), autosize: false });
    }
  });
  addEventListener("afterprint", () => {
    printing = false;
    for (const div of document.querySelectorAll(".js-plotly-plot")) Plotly.relayout(div, { width: null, autosize: true });
    redraw();
  });
}

function marked() {
  document.documentElement.dataset.drawn = String(Number(document.documentElement.dataset.drawn || 0) + 1);
}
