// Starts the page: one stream in, everything shown from it.

let snapshot = null;

function tell(name, data) {
  if (name === "entries") {
    addEntries(data);
    return;
  }
  if (name !== "state") return;
  const isAnother = snapshot?.status.engine?.started !== data.status.engine?.started;
  snapshot = data;
  showVerdict(snapshot);
  showRegions(snapshot);
  showSource(snapshot);
  showTables(snapshot);
  showRowForm(snapshot);
  showLettersCount(snapshot);
  showLettersTables(snapshot);
  setText($("address"), snapshot.status.source.address);
  const started = snapshot.status.engine?.started;
  setText($("foot"), `walcast ${snapshot.version}${started ? `, running since ${time(new Date(started))}` : ""}.`);
  if (isAnother) loadRoutes().catch(() => {});
  if (!snapshot.keeps_log) setText($("log-note"), "No sync log is kept. Set [log] sync_file in walcast.toml.");
  show($("log-form"), snapshot.keeps_log);
  if (snapshot.keeps_log && (isAnother || !isLogLoaded)) loadLog();
}

function connectionChanged() {
  // What came meanwhile is not in the stream.
  if (connection.state === "lost") isLogLoaded = false;
  if (connection.state === "locked") {
    snapshot = null;
    if (secret === null) askSecret().catch(() => {});
  }
  showVerdict(snapshot);
}

makeActions();
showVerdict(null);
setInterval(() => showVerdict(snapshot), 1000);
keepStream(tell, connectionChanged);
