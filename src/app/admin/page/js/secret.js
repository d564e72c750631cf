// The secret, asked once and kept in memory, and every request but the stream.

/** What the API answered instead of what was asked for. */
class Refusal extends Error {
  constructor(status, problem) {
    super(problem?.message || `the API answered with status ${status}`);
    this.status = status;
    this.hint = problem?.hint || "";
  }

  get text() {
    return this.hint ? `${this.message}. ${this.hint}` : this.message;
  }
}

/** The operator closed the question for the secret. */
class Declined extends Error {}

let secret = null;
let asked = null;
const onSecret = [];

const authorization = () => (secret === null ? {} : { authorization: `Bearer ${secret}` });

/** One request as it is; the answer is JSON. */
async function send(method, path, body, headers = authorization()) {
  const options = { method, headers: { ...headers }, cache: "no-store", credentials: "omit", redirect: "error" };
  if (body !== undefined) {
    options.headers["content-type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const answer = await fetch(path, options);
  const told = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refusal(answer.status, told);
  return told;
}

/** A request that needs the secret: asks for it first. */
async function request(method, path, body) {
  for (;;) {
    if (secret === null) await askSecret();
    const shown = secret;
    try {
      return await send(method, path, body);
    } catch (error) {
      if (!(error instanceof Refusal) || error.status !== 401) throw error;
      // Another question may have been answered meanwhile.
      if (shown === secret) await askSecret(error);
    }
  }
}

function setSecret(value) {
  if (value === secret) return;
  secret = value;
  setText($("secret-button"), secret === null ? "Enter the secret" : "Forget the secret");
  for (const tell of onSecret) tell();
}

/** Asks for the secret; several who need it at once share one question. */
function askSecret(refusal) {
  asked ??= new Promise((answer, decline) => {
    const dialog = $("secret-dialog");
    setText($("secret-why"), "It lets you see rows, and steer the regions.");
    setText($("secret-problem"), refusal?.status === 401 && secret !== null ? refusal.text : "");
    setSecret(null);
    $("secret-input").value = "";
    const done = new AbortController();
    const close = (finish) => {
      done.abort();
      $("secret-input").value = "";
      dialog.close();
      asked = null;
      finish();
    };
    const options = { signal: done.signal };
    $("secret-form").addEventListener("submit", async (event) => {
      event.preventDefault();
      const offered = $("secret-input").value;
      $("secret-ok").disabled = true;
      try {
        await checkSecret(offered);
        close(() => {
          setSecret(offered);
          answer();
        });
      } catch (error) {
        setText($("secret-problem"), error instanceof Refusal ? error.text : "the engine does not answer");
        $("secret-input").select();
      } finally {
        $("secret-ok").disabled = false;
      }
    }, options);
    const cancel = (event) => {
      event.preventDefault();
      close(() => decline(new Declined()));
    };
    $("secret-cancel").addEventListener("click", cancel, options);
    dialog.addEventListener("cancel", cancel, options);
    dialog.showModal();
  });
  return asked;
}

/** Fails unless this is the secret: a route that needs it and shows little is asked. */
async function checkSecret(offered) {
  // What a header cannot carry is not it.
  if (!/^[\x20-\x7e]+$/.test(offered)) throw new Refusal(401, { message: "the secret is not the right one" });
  try {
    await send("GET", "/failed?limit=1", undefined, { authorization: `Bearer ${offered}` });
  } catch (error) {
    // Anything but a refusal of the secret is another matter.
    if (!(error instanceof Refusal) || [401, 403, 429].includes(error.status)) throw error;
  }
}

/** Does what an operator asked for, and says how it went. The button rests meanwhile. */
async function act(button, work) {
  if (button.hasAttribute("aria-busy")) return undefined;
  button.setAttribute("aria-busy", "true");
  try {
    return await work();
  } catch (error) {
    if (error instanceof Refusal) {
      toast(error.text, true);
    } else if (!(error instanceof Declined)) {
      console.error(error);
      toast("The engine does not answer.", true);
    }
    return undefined;
  } finally {
    button.removeAttribute("aria-busy");
  }
}

$("secret-button").addEventListener("click", () => {
  if (secret === null) {
    askSecret().catch(() => {});
  } else {
    setSecret(null);
    // Where everything on the page needed it, nothing of that stays.
    if (connection.isProtected) location.reload();
  }
});
