// The data of the page, and how settings are written.
const data = JSON.parse(document.getElementById("data").textContent);

// A setting in short: its levels alone, numbers in three digits. Long texts end in an ellipsis.
function short(setting, most = 44) {
  const levels = setting.levels.map((level, i) => (data.factors[i].number ? Number(Number(level).toPrecision(3)) : level));
  const text = levels.length ? levels.join(" · ") : setting.label;
  return escaped(text.length > most ? `${text.slice(0, most - 1)}…` : text);
}

function described(setting) {
  const lines = data.factors.map((factor, i) => `${escaped(factor.name)}: ${escaped(setting.levels[i])}`);
  return lines.length ? lines.join("<br>") : escaped(setting.label);
}
