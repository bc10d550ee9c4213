// Main effects, one small chart per factor on a common scale; and settings as lines through their levels.
function drawEffects() {
  const colours = theme();
  const panels = document.getElementById("effects");
  hide("effects-section", data.effects.length < 2); // of one factor the ranking says it all
  if (data.effects.length < 2) return;
  const all = data.effects.flatMap((effect) => effect.levels.flatMap((level) =>
    [level.mean - (level.half_width ?? 0), level.mean + (level.half_width ?? 0)]));
  const room = 0.06 * (Math.max(...all) - Math.min(...all));
  const range = [Math.min(...all) - room, Math.max(...all) + room];
  data.effects.forEach((effect, i) => { // all panels first: each chart takes the width that it finds
    if (!document.getElementById(`effect-${i}`)) panels.append(effectPanel(effect, i));
  });
  data.effects.forEach((effect, i) => {
    const levels = effect.levels;
    const trace = {
      type: "scatter", mode: "lines+markers", x: levels.map((_, k) => k), y: levels.map((level) => level.mean),
      line: { color: colours.muted, width: 1.5 }, marker: { color: colours.series[0], size: 10 },
      error_y: {
        type: "data", array: levels.map((level) => level.half_width ?? 0), color: colours.soft, thickness: 1.6, width: 0,
      },
      text: levels.map((level) => {
        const half = level.half_width === null ? "" : ` ± ${asText(level.half_width)}`;
        const settings = `${level.settings} setting${level.settings === 1 ? "" : "s"}`;
        return `<b>${asText(level.mean)}</b>${half}<br>${escaped(effect.factor)}: ${escaped(level.name)} (${settings})`;
      }),
      hoverinfo: "text",
    };
    const crowded = levels.reduce((sum, level) => sum + Math.min(18, level.name.length) + 2, 0) > 42;
    plot(`effect-${i}`, [trace], layout(colours, {
      height: crowded ? 270 : 230,
      margin: { l: 52, r: 12, t: 8, b: crowded ? 76 : 28 },
      xaxis: axis(colours, {
        tickvals: levels.map((_, k) => k), ticktext: levels.map((level) => cut(level.name, 18)), showgrid: false,
        range: [-0.5, levels.length - 0.5], automargin: false, tickangle: crowded ? -30 : 0,
      }),
      yaxis: shareAxis(colours, data.share, { range, nticks: 5, automargin: false }),
    }));
  });
}

function effectPanel(effect, i) {
  const figure = document.createElement("figure");
  const caption = document.createElement("figcaption");
  const share = document.createElement("small");
  const part = data.effects.length > 1 ? ` ${Math.round(100 * effect.share)} % of the differences` : "";
  share.textContent = effect.separable ? part : " cannot be told from another factor here";
  caption.append(effect.factor, share);
  const chart = document.createElement("div");
  chart.className = "chart";
  chart.id = `effect-${i}`;
  figure.append(caption, chart);
  return figure;
}

function cut(text, most) {
  return escaped(text.length > most ? `${text.slice(0, most - 1)}…` : text);
}

function drawParallel() {
  const colours = theme();
  const settings = visible();
  const enough = data.factors.length >= 2 && data.settings.length >= 3 && settings.length > 0;
  hide("parallel-section", !enough);
  if (!enough) return;
  const axes = [...data.factors.map(factorAxis), resultAxis()];
  const [least, most] = [Math.min(...settings.map((s) => s.mean)), Math.max(...settings.map((s) => s.mean))];
  const traces = [];
  const bins = new Map();
  const goodness = (s) => (most === least ? 1 : (data.mode === "max" ? s.mean - least : most - s.mean) / (most - least));
  for (const s of settings) {
    const bin = Math.min(7, Math.floor(goodness(s) * 8));
    if (!bins.has(bin)) bins.set(bin, []);
    bins.get(bin).push(s);
  }
  const line = (members, style) => ({
    type: "scatter", mode: "lines+markers", hoverinfo: "text",
    x: members.flatMap(() => [...axes.keys(), null]),
    y: members.flatMap((s) => [...axes.map((a, i) => a.place(s, i)), null]),
    text: members.flatMap((s) => [...axes.map(() => `<b>${asText(s.mean)}</b><br>${described(s)}`), ""]),
    ...style,
  });
  const faint = settings.length > 60 ? 0.45 : 0.8;
  for (const bin of [...bins.keys()].sort((a, b) => a - b)) {
    const colour = scale(bin / 7);
    traces.push(line(bins.get(bin), { line: { color: colour, width: 1.4 }, marker: { size: 5, color: colour }, opacity: faint }));
  }
  const best = settings.slice(0, 1);
  traces.push(line(best, { line: { color: colours.accent, width: 3.5 }, marker: { size: 9, color: colours.accent } }));
  const narrow = document.getElementById("parallel").clientWidth < 600;
  plot("parallel", traces, layout(colours, {
    height: 420,
    margin: { l: 24, r: narrow ? 44 : 64, t: 8, b: 8 },
    xaxis: axis(colours, {
      tickvals: [...axes.keys()], ticktext: axes.map((a) => (narrow ? cut(a.name, 12) : cut(a.name, 26))), showgrid: true,
      range: [-0.12, axes.length - 0.75], tickfont: { color: colours.ink, size: 12 },
    }),
    yaxis: axis(colours, { showgrid: false, showticklabels: false, range: [-0.06, 1.06] }),
    annotations: axes.flatMap((a, i) => a.ticks.map((tick) => ({
      x: i, y: tick.at, text: cut(tick.text, narrow ? 9 : 18), showarrow: false, xanchor: "left", xshift: 9,
      bgcolor: faded(colours.ground, 0.75), borderpad: 1, font: { size: 11, color: colours.soft },
    }))),
  }));
}

// Levels are spread evenly; a number with many levels lies on its own scale, over orders of magnitude a logarithmic one.
function factorAxis(factor, which) {
  const levels = factor.levels;
  if (factor.number && levels.length > 12) {
    const numbers = levels.map(Number);
    const [low, high] = [numbers[0], numbers[numbers.length - 1]];
    const bend = low > 0 && high / low > 50 ? Math.log : (x) => x;
    const at = (x) => (bend(x) - bend(low)) / (bend(high) - bend(low));
    const middle = numbers.reduce((a, b) => (Math.abs(at(b) - 0.5) < Math.abs(at(a) - 0.5) ? b : a));
    const ticks = [low, middle, high].map((x) => ({ at: at(x), text: String(Number(x.toPrecision(3))) }));
    return { name: factor.name, ticks, place: (s) => at(Number(s.levels[which])) };
  }
  const at = (k) => (levels.length === 1 ? 0.5 : k / (levels.length - 1));
  const few = levels.length <= 20;
  const ticks = few ? levels.map((text, k) => ({ at: at(k), text })) : [];
  return { name: factor.name, ticks, place: (s) => at(levels.indexOf(s.levels[which])) };
}

function resultAxis() {
  const means = data.settings.map((s) => s.mean);
  const [low, high] = [Math.min(...means), Math.max(...means)];
  const at = (x) => (high === low ? 0.5 : (x - low) / (high - low));
  const ticks = [low, (low + high) / 2, high].map((x) => ({ at: at(x), text: asText(x) }));
  return { name: data.metric, ticks, place: (s) => at(s.mean) };
}
