// Sorts a table by the column whose heading is pressed, and hides the rows that lack a word or choice of the filter.
function sortBy(heading) {
  const table = heading.closest("table");
  const column = heading.cellIndex;
  const number = heading.classList.contains("number");
  const before = heading.getAttribute("aria-sort");
  const direction = before === "ascending" ? "descending" : "ascending";
  for (const other of heading.parentNode.cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const keyed = [...table.tBodies[0].rows].map((row, place) => {
    const text = row.cells[column].dataset.key;
    return { row, place, key: number ? parseFloat(text) : text, empty: text === "" };
  });
  keyed.sort((a, b) => {
    if (a.empty || b.empty) return a.empty - b.empty || a.place - b.place; // what has no value comes last
    const order = number ? a.key - b.key : a.key.localeCompare(b.key, undefined, { numeric: true });
    return sign * order || a.place - b.place;
  });
  table.tBodies[0].append(...keyed.map((item) => item.row));
}

for (const heading of document.querySelectorAll("th[aria-sort]")) {
  heading.querySelector("button").addEventListener("click", () => sortBy(heading));
}

// Hides the rows that lack a word, or that `fits` does not take; returns the others.
function filterRows(table, fits) {
  const words = document.getElementById("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...table.tBodies[0].rows];
  const kept = rows.filter((row) => {
    row.hidden = !(words.every((word) => row.dataset.words.includes(word)) && fits(row));
    return !row.hidden;
  });
  table.querySelector("output").textContent = `${kept.length} of ${rows.length} shown`;
  return kept;
}

// Calls `changed` whenever a word or a choice of the filter is another one.
function onFilter(changed) {
  const words = document.getElementById("words");
  const lists = document.querySelectorAll(".filter select");
  words.addEventListener("input", changed);
  for (const list of lists) list.addEventListener("change", changed);
  document.getElementById("reset").addEventListener("click", () => {
    words.value = "";
    for (const list of lists) list.value = "";
    changed();
  });
}
