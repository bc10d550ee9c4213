// Asks about each image by a request of its own, a few at a time, and shows the answer at its card.
const AT_ONCE = 4;
const MOST_BARS = 5;
const RETRIES = 5;
const cards = document.getElementById("cards");
const waiting = [];
let underway = 0;

function add(files) {
  for (const file of files) {
    const card = document.getElementById("card").content.firstElementChild.cloneNode(true);
    const image = card.querySelector("img");
    image.src = URL.createObjectURL(file);
    image.addEventListener("error", () => (image.style.visibility = "hidden")); // one that browsers don't show
    card.querySelector("h2").textContent = file.name;
    cards.append(card);
    waiting.push({ file, card });
  }
  tell();
  askNext();
}

function askNext() {
  while (underway < AT_ONCE && waiting.length) {
    const { file, card } = waiting.shift();
    underway += 1;
    card.querySelector(".answer").textContent = "…";
    ask("predict", file)
      .then(async (answer) => {
        show(card, (await answer.json()).results[0]);
        offerMap(card, file);
      })
      .catch((error) => fail(card, withoutName(error, file)))
      .finally(() => {
        card.removeAttribute("aria-busy");
        underway -= 1;
        tell();
        askNext();
      });
  }
}

// Returns the answer to a file, asked again while the server is full; throws an error that says why there is none.
async function ask(path, file) {
  const form = new FormData();
  form.append("file", file);
  for (let retries = RETRIES; ; retries -= 1) {
    const answer = await fetch(path, { method: "POST", body: form }).catch(() => {
      throw new Error("No answer: this is no file that can be read, or the server has ended.");
    });
    if (answer.ok) return answer;
    const seconds = Number(answer.headers.get("retry-after"));
    if (!seconds || !retries) {
      const { detail } = await answer.json().catch(() => ({ detail: `the server failed (${answer.status})` }));
      throw new Error(detail);
    }
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

function percent(share) {
  return `${(100 * share).toFixed(1)}%`;
}

function show(card, result) {
  card.querySelector(".answer").textContent = result.prediction;
  const ranked = Object.entries(result.probabilities).sort((a, b) => b[1] - a[1]);
  for (const [name, share] of ranked.slice(0, MOST_BARS)) {
    const row = document.createElement("li");
    const [label, figure, bar] = ["span", "span", "i"].map((tag) => row.appendChild(document.createElement(tag)));
    label.textContent = name;
    figure.textContent = percent(share);
    bar.style.width = `${100 * share}%`;
    card.querySelector("ol").append(row);
  }
  note(card, [result.reason, result.known === false ? "unlike the training images" : ""].filter(Boolean).join("; "));
}

function note(card, text) {
  card.querySelector(".note").textContent = text;
  card.querySelector(".note").hidden = !text;
}

// Lets a card's button change between the image and its heat map, which is asked for the first time.
function offerMap(card, file) {
  const button = card.querySelector("button");
  if (!button) return;
  const image = card.querySelector("img");
  const pictures = { false: image.src };
  const noted = card.querySelector(".note").textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    if (button.getAttribute("aria-disabled") === "true") return;
    const pressed = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-disabled", "true"); // unlike `disabled` this leaves it the keyboard's focus
    try {
      pictures[pressed] ??= URL.createObjectURL(await (await ask("heatmap", file)).blob());
    } catch (error) {
      note(card, [noted, `no heat map: ${withoutName(error, file)}`].filter(Boolean).join("; "));
      return;
    } finally {
      button.setAttribute("aria-disabled", "false");
    }
    note(card, noted);
    button.setAttribute("aria-pressed", pressed);
    image.style.visibility = "";
    image.src = pictures[pressed];
    image.alt = pressed ? "where the network sees it" : "";
  });
}

function withoutName(error, file) {
  return error.message.replace(`${file.name}: `, "");
}

function fail(card, reason) {
  card.classList.add("failed");
  card.querySelector(".answer").textContent = reason;
}

function tell() {
  const all = cards.children.length;
  const left = cards.querySelectorAll(":scope > [aria-busy]").length;
  const failed = cards.querySelectorAll(".failed").length;
  const parts = [`${all - left} of ${all} answered`];
  if (failed) parts.push(`${failed} of them with an error`);
  document.getElementById("said").textContent = all ? parts.join(", ") : "";
  document.getElementById("clear").hidden = !all;
}

const files = document.getElementById("files");
files.addEventListener("change", () => {
  add(files.files);
  files.value = ""; // the same file may be chosen again
});
document.addEventListener("paste", (event) => add(event.clipboardData.files));
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    document.body.classList.toggle("dragged", name === "dragenter" || name === "dragover");
    if (name === "drop") add(event.dataTransfer.files);
  });
}
document.getElementById("clear").addEventListener("click", () => {
  for (const image of cards.querySelectorAll("img")) URL.revokeObjectURL(image.src);
  waiting.length = 0;
  cards.replaceChildren();
  tell();
  files.focus();
});
