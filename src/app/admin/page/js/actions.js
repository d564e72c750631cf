// What else can be done: only what this engine's API has a route for is offered.

const JOB_POLL = 1000;
const JOB_RUNNING = new Set(["queued", "running"]);
/** The routes of this engine: `POST /sync`. */
let routes = new Set();
const SCOPED = {
  "/backfill": {
    button: "Backfill…",
    title: "Backfill",
    what: "Copies the present rows from Postgres again, while changes go on.",
    ok: "Start the backfill",
  },
  "/nuke": {
    button: "Nuke…",
    title: "Nuke",
    what: "Drops what walcast made there, makes it anew, and fills it. Readers find it empty for a while.",
    ok: "Drop and fill anew",
    isDangerous: true,
  },
};

/** Where a button's routes are not known yet, or not there, it is not shown. */
function offered(route, button) {
  button.dataset.route = `POST ${route}`;
  button.hidden = !routes.has(button.dataset.route);
  return button;
}

async function loadRoutes() {
  const description = await send("GET", "/openapi.json");
  routes = new Set(Object.entries(description.paths ?? {}).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`)));
  for (const button of document.querySelectorAll("[data-route]")) show(button, routes.has(button.dataset.route));
}

/** Backfill and nuke, for a region, a table, or (from the top) whatever is chosen. */
function scopeButtons(scope) {
  const isMinor = Boolean(scope.db || scope.table);
  return Object.entries(SCOPED).map(([route, { button, isDangerous, title }]) => offered(route, h("button", {
    type: "button",
    class: `quiet${isMinor ? " minor" : ""}${isDangerous ? " danger" : ""}`,
    "aria-label": isMinor ? `${title} ${scope.db ? `region ${scope.db}` : `table ${scope.table}`}…` : null,
    onclick: () => askScope(route, scope),
  }, button)));
}

/** The body that says which regions and tables are meant. */
function scopeBody({ db, table }) {
  if (table) return db ? { type: "table", db, table } : { type: "table", table };
  return db ? { type: "db", db } : { type: "all" };
}

const scopeName = ({ db, table }) => [db, table].filter(Boolean).join("/") || "all";

function askScope(route, scope) {
  const { title, what, ok, isDangerous } = SCOPED[route];
  const dialog = $("scope-dialog");
  const regions = [...($("region-list").kept ?? new Map()).keys()];
  setOptions($("scope-db"), [{ value: "", text: "all regions" }, ...regions.map((name) => ({ value: name, text: name }))]);
  setOptions($("scope-table"), [{ value: "", text: "all tables" }, ...tableNames.map((name) => ({ value: name, text: name }))]);
  $("scope-db").value = scope.db ?? "";
  $("scope-table").value = scope.table ?? "";
  $("scope-typed").value = "";
  setText($("scope-title"), title);
  setText($("scope-what"), what);
  setText($("scope-ok"), ok);
  setText($("scope-problem"), "");
  setAttribute($("scope-ok"), "class", isDangerous ? "danger" : null);
  show($("scope-typed-field"), Boolean(isDangerous));
  const chosen = () => ({ db: $("scope-db").value, table: $("scope-table").value });
  const update = () => {
    setText($("scope-name"), scopeName(chosen()));
    $("scope-ok").disabled = Boolean(isDangerous) && $("scope-typed").value !== scopeName(chosen());
  };
  const done = new AbortController();
  const close = () => {
    done.abort();
    dialog.close();
  };
  const options = { signal: done.signal };
  $("scope-form").addEventListener("input", update, options);
  $("scope-cancel").addEventListener("click", close, options);
  dialog.addEventListener("cancel", () => done.abort(), options);
  $("scope-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const body = scopeBody(chosen());
    const name = scopeName(chosen());
    close();
    await act($("actions"), async () => follow(`${title} of ${name}`, await askedFor(route, body)));
  }, options);
  update();
  dialog.showModal();
}

/** Asks for it, and once more where there is no way back from it. */
async function askedFor(route, body) {
  try {
    return await request("POST", route, body);
  } catch (refusal) {
    const isFinal = refusal.status === 409 && refusal.message.includes("no way back");
    if (!isFinal || !window.confirm(`${refusal.message}. Go on all the same?`)) throw refusal;
    return request("POST", route, { ...body, yes: true });
  }
}

/** Follows a job until it ends, and says how it went. */
async function follow(title, answer) {
  // A job, or only its number.
  const id = answer?.id ?? answer?.job;
  if (id === undefined || !routes.has("GET /jobs/{id}")) {
    toast(`${title}: done.`);
    return;
  }
  let job = answer;
  const told = toast(`${title}: started.`, false, true);
  try {
    do {
      await new Promise((resolve) => setTimeout(resolve, JOB_POLL));
      job = await request("GET", `/jobs/${encodeURIComponent(id)}`);
      setText(told.firstChild, `${title}: ${jobText(job)}`);
    } while (JOB_RUNNING.has(job.state));
  } finally {
    told.remove();
  }
  toast(`${title}: ${jobText(job)}`, job.state === "failed");
}

/** How far a job is, or what came of it. */
function jobText({ state, progress, waits_for: waits, outcome, hint }) {
  const unit = progress?.unit ? ` ${progress.unit}` : "";
  const far = isNumber(progress?.done) ? `, ${count(progress.done)}${isNumber(progress.total) ? ` of ${count(progress.total)}` : ""}${unit}` : "";
  return [`${state}${far}.`, ...(JOB_RUNNING.has(state) ? waits ?? [] : [outcome, hint])].filter(Boolean).join(" ");
}

async function retryLetters() {
  const body = {};
  if ($("letters-sink").value) body.sink = $("letters-sink").value;
  if ($("letters-table").value) body.table = $("letters-table").value;
  await follow("Retry of dead letters", await request("POST", "/retry-failed", body));
  await loadLetters(null);
}

function makeActions() {
  const sync = h("button", { type: "button", onclick: () => act(sync, async () => follow("Sync", await request("POST", "/sync"))) }, "Sync now");
  const retry = h("button", { type: "button", class: "quiet", onclick: () => act(retry, retryLetters) }, "Retry them");
  $("actions").append(offered("/sync", sync), ...scopeButtons({}));
  $("letters-actions").append(offered("/retry-failed", retry));
}
