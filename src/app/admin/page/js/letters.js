// Dead letters: the rows that a region did not take. They are rows' keys, so the API asks for the secret.

const LETTERS_PER_PAGE = 50;
let lettersNext = null;

function showLettersCount({ status }) {
  const holding = status.sinks.filter((sink) => sink.dead_letters > 0);
  const text = holding.length === 0 ? "No region has set a row aside."
    : `Set aside with a reason: ${holding.map((sink) => `${count(sink.dead_letters)} in ${sink.name}`).join(", ")}.`;
  setText($("letters-count"), text);
  const regions = status.sinks.map(({ name }) => ({ value: name, text: name }));
  setOptions($("letters-sink"), [{ value: "", text: "all" }, ...regions]);
  setOptions($("log-sink"), [{ value: "", text: "all" }, ...regions]);
}

function showLettersTables({ tables }) {
  setOptions($("letters-table"), [{ value: "", text: "all" }, ...tables.map(({ target }) => ({ value: target, text: target }))]);
}

function letterItem(letter) {
  return h("li", { class: "letter" },
    h("p", null, foreign(letter.target, { class: "text strong" }), " ", foreign(letter.key, { class: "text code" })),
    h("p", null, foreign(letter.reason)),
    h("p", { class: "quiet-text" }, foreign(letter.sink), `: ${letter.operation} of ${time(new Date(letter.recorded))}, ${letter.commit_lsn}, number ${letter.id}`));
}

async function loadLetters(after) {
  const query = new URLSearchParams({ limit: LETTERS_PER_PAGE });
  if ($("letters-sink").value) query.set("sink", $("letters-sink").value);
  if ($("letters-table").value) query.set("table", $("letters-table").value);
  if (after) query.set("after", after);
  const page = await request("GET", `/failed?${query}`);
  const items = page.letters.map(letterItem);
  if (!after) $("letters-list").replaceChildren(...items);
  else $("letters-list").append(...items);
  if (!after && items.length === 0) $("letters-list").append(h("li", { class: "quiet-text" }, "There are none."));
  lettersNext = page.next;
  show($("letters-more"), lettersNext !== null);
}

$("letters-form").addEventListener("submit", (event) => {
  event.preventDefault();
  act(event.submitter ?? $("letters-form"), () => loadLetters(null));
});
$("letters-more").addEventListener("click", () => act($("letters-more"), () => loadLetters(lettersNext)));
onSecret.push(() => {
  // What needed the secret goes with it.
  if (secret !== null) return;
  $("letters-list").replaceChildren();
  $("row-result").replaceChildren();
  show($("letters-more"), false);
});
