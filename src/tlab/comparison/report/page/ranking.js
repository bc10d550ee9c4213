// Means with intervals, and results against time.
const MOST_RANKED = 25; // rows; on a phone fewer

function visible() {
  return [...shown].sort((a, b) => a - b).map((place) => ({ place, ...data.settings[place] }));
}

// The first eight settings shown have colors of their own, all others share one.
function colourOf(colours, at) {
  return at < colours.series.length ? colours.series[at] : colours.muted;
}

function drawRanking() {
  const colours = theme();
  const all = visible();
  const enough = all.length > 0 && data.runs.length > 1; // of one run the head of the page says it all
  hide("ranking-section", !enough);
  if (!enough) return;
  const narrow = document.getElementById("ranking").clientWidth < 600;
  const settings = all.slice(0, narrow ? MOST_RANKED - 10 : MOST_RANKED);
  document.getElementById("ranking-note").textContent =
    settings.length < all.length ? `The first ${settings.length} of ${all.length}; filter to see others.` : "";
  const rows = settings.map((_, i) => i);
  const half = settings.map((s) => (s.low === null ? 0 : (s.high - s.low) / 2));
  const several = settings.flatMap((s, i) => (s.values.length === 1 ? [] : s.values).map((value, k) => ({ value, row: i, name: s.replicates[k], s })));
  const traces = [
    {
      type: "scatter", mode: "markers", x: several.map((p) => p.value), y: several.map((p) => p.row + 0.24),
      marker: { size: 5, color: colours.soft, opacity: 0.65 },
      text: several.map((p) => `${p.name}: ${asText(p.value)}<br>${described(p.s)}`), hoverinfo: "text",
    },
    {
      type: "scatter", mode: "markers", x: settings.map((s) => s.mean), y: rows,
      marker: { size: 11, color: rows.map((i) => colourOf(colours, i)) },
      error_x: {
        type: "data", symmetric: false, thickness: 2, width: 0, color: colours.soft,
        array: settings.map((s, i) => (half[i] ? s.high - s.mean : 0)),
        arrayminus: settings.map((s, i) => (half[i] ? s.mean - s.low : 0)),
      },
      text: settings.map((s) => {
        const span = s.low === s.high ? `equal ${data.replicate}s, no interval` : `${asText(s.low)} to ${asText(s.high)}`;
        const interval = s.low === null ? `one ${data.replicate}` : span;
        return `<b>${asText(s.mean)}</b> (${interval})<br>${described(s)}`;
      }),
      hoverinfo: "text",
    },
  ];
  const labels = narrow
    ? settings.map((s, i) => ({
        x: 0, xref: "paper", xanchor: "left", y: i - 0.34, showarrow: false, text: short(s, 46),
        font: { size: 12, color: colours.ink },
      }))
    : [];
  plot("ranking", traces, layout(colours, {
    height: 80 + rows.length * (narrow ? 52 : 34),
    annotations: labels,
    xaxis: shareAxis(colours, data.share, { title: data.metric, ...padded(settings, data.share) }),
    yaxis: axis(colours, {
      range: [rows.length - 0.4, -0.6], tickvals: narrow ? [] : rows, ticktext: settings.map((s) => short(s)),
      showgrid: false, tickfont: { color: colours.ink, size: 13 },
    }),
  }));
}

// A range that holds the means and single values and, unless they are far wider, the intervals.
function padded(settings, share) {
  const inner = settings.flatMap((s) => [s.mean, ...s.values]);
  const [least, most] = [Math.min(...inner), Math.max(...inner)];
  const room = Math.max(most - least, share ? 0.02 : Math.abs(most) * 0.02);
  const low = Math.min(...settings.map((s) => s.low ?? s.mean), least);
  const high = Math.max(...settings.map((s) => s.high ?? s.mean), most);
  const from = Math.max(low, least - 1.2 * room) - 0.06 * room;
  const to = Math.min(high, most + 1.2 * room) + 0.06 * room;
  return { range: [from, to] };
}

function drawTime() {
  const colours = theme();
  const settings = visible().filter((s) => s.seconds !== null);
  const enough = settings.length > 0 && data.runs.length > 1;
  hide("time-section", !enough);
  if (!enough) return;
  const at = new Map(settings.map((s, i) => [s.place, i]));
  const runs = data.runs.filter((run) => at.has(run.setting) && run.seconds !== null);
  const front = frontier(settings);
  const seconds = runs.map((run) => run.seconds);
  const wide = Math.max(...seconds) > 12 * Math.min(...seconds);
  const traces = [
    {
      type: "scatter", mode: "lines", x: front.map((s) => s.seconds), y: front.map((s) => s.mean), hoverinfo: "skip",
      line: { color: colours.muted, width: 1.5, shape: "hv" },
    },
    {
      type: "scatter", mode: "markers", x: seconds, y: runs.map((run) => run.value),
      marker: { size: 5, opacity: 0.6, color: runs.map((run) => colourOf(colours, at.get(run.setting))) },
      text: runs.map((run) => `${run.replicate}: ${asText(run.value)}, ${asTime(run.seconds)}<br>`
        + described(data.settings[run.setting])),
      hoverinfo: "text",
    },
    {
      type: "scatter", mode: "markers", x: settings.map((s) => s.seconds), y: settings.map((s) => s.mean),
      marker: {
        size: 12, symbol: "diamond", color: settings.map((_, i) => colourOf(colours, i)),
        line: { width: 1.5, color: colours.ground },
      },
      text: settings.map((s) => `<b>${asText(s.mean)}</b>, ${asTime(s.seconds)}<br>${described(s)}`),
      hoverinfo: "text",
    },
  ];
  plot("time", traces, layout(colours, {
    height: 400,
    xaxis: axis(colours, { title: "time of training", ...timeScale(seconds, wide) }),
    yaxis: shareAxis(colours, data.share, { title: data.metric }),
  }));
}

const SECOND_STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 18000, 36000, 86400,
  172800, 432000, 864000]; // what people count times in

// An axis of seconds whose ticks read 1 s, 2 s, 5 s, 10 s, 1 min ...; few enough to stand side by side.
function timeScale(seconds, logarithmic) {
  const [least, most] = [Math.min(...seconds), Math.max(...seconds)];
  const room = document.getElementById("time").clientWidth < 600 ? 5 : 9;
  if (!logarithmic) {
    const gap = (most - least || most) * 0.06;
    const [from, to] = [Math.max(0, least - gap), most + gap];
    const step = SECOND_STEPS.find((wanted) => (to - from) / wanted <= room) ?? to - from;
    const first = Math.ceil(from / step);
    const at = [...Array(Math.floor(to / step) - first + 1).keys()].map((i) => (first + i) * step);
    return { type: "linear", range: [from, to], tickvals: at, ticktext: at.map(tickTime) };
  }
  const gap = (most / least) ** 0.06;
  const within = SECOND_STEPS.filter((at) => at >= least / gap && at <= most * gap);
  const every = Math.ceil(within.length / room);
  const at = within.filter((_, i) => i % every === 0);
  return { type: "log", range: [Math.log10(least / gap), Math.log10(most * gap)], tickvals: at, ticktext: at.map(tickTime) };
}

function tickTime(seconds) {
  const [unit, name] = [[86400, "d"], [3600, "h"], [60, "min"]].find(([unit]) => seconds >= unit) ?? [1, "s"];
  return `${Number((seconds / unit).toPrecision(3))} ${name}`;
}

// The settings that no quicker one equals, the quickest first.
function frontier(settings) {
  const sign = data.mode === "max" ? 1 : -1;
  let best = -Infinity;
  return [...settings].sort((a, b) => a.seconds - b.seconds).filter((s) => {
    const better = sign * s.mean > best;
    if (better) best = sign * s.mean;
    return better;
  });
}
