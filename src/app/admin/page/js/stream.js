// The stream that the page lives from. `EventSource` can show no secret, so it is read from a plain request, which is
// made again, after longer and longer pauses, whenever it ends.

const PAUSE_MIN = 1000;
const PAUSE_MAX = 30000;
/** The engine gives a sign of life every ten seconds. */
const SILENCE_MAX = 25000;
/** An event is never nearly as long. */
const EVENT_CHARS_MAX = 4_000_000;

const connection = {
  /** `connecting`, `live`, `lost` or `locked`. */
  state: "connecting",
  /** When the last snapshot came, by this machine's clock. */
  told: null,
  /** When it is tried again. */
  next: null,
  /** Whether reading needs the secret here. */
  isProtected: false,
};
let retryNow = () => {};

/** Splits a text into events: calls `tell(name, data)` for each whole one and returns what is left. */
function parseEvents(text, tell) {
  for (;;) {
    const end = text.indexOf("\n\n");
    if (end < 0) return text;
    let name = "message";
    const data = [];
    for (const line of text.slice(0, end).split("\n")) {
      if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (line.startsWith("data:")) data.push(line.slice(line[5] === " " ? 6 : 5));
    }
    text = text.slice(end + 2);
    if (data.length > 0) tell(name, JSON.parse(data.join("\n")));
  }
}

/** Reads one stream until it ends. */
async function readStream(tell, signal, heard) {
  const answer = await fetch("/events", {
    headers: { accept: "text/event-stream", ...authorization() },
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    signal,
  });
  if (!answer.ok) throw new Refusal(answer.status, await answer.json().catch(() => null));
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    rest = parseEvents((rest + value).replaceAll("\r\n", "\n"), tell);
    if (rest.length > EVENT_CHARS_MAX) throw new Error("an event without end");
  }
}

/** Keeps a stream open for as long as the page is there. */
async function keepStream(tell, changed) {
  let pause = PAUSE_MIN;
  const become = (state, next = null) => {
    connection.state = state;
    connection.next = next;
    changed();
  };
  for (;;) {
    const abort = new AbortController();
    let watch;
    let isRestart = false;
    const heard = () => {
      clearTimeout(watch);
      watch = setTimeout(() => abort.abort(), SILENCE_MAX);
    };
    retryNow = () => {
      isRestart = true;
      abort.abort();
    };
    heard();
    let refusal = null;
    try {
      await readStream((name, data) => {
        if (name === "state") {
          pause = PAUSE_MIN;
          connection.told = Date.now();
          connection.state = "live";
          connection.next = null;
        }
        tell(name, data);
      }, abort.signal, heard);
    } catch (error) {
      refusal = error instanceof Refusal ? error : null;
    }
    clearTimeout(watch);
    if (isRestart) continue;
    const isLocked = refusal?.status === 401;
    connection.isProtected ||= isLocked;
    const wait = isLocked ? null : pause * (0.75 + Math.random() / 2);
    become(isLocked ? "locked" : "lost", wait === null ? null : Date.now() + wait);
    await new Promise((resolve) => {
      retryNow = resolve;
      if (wait !== null) setTimeout(resolve, wait);
    });
    pause = Math.min(PAUSE_MAX, pause * 2);
  }
}

onSecret.push(() => {
  // A stream that needs no secret goes on.
  if (connection.isProtected) retryNow();
});
