// The backend of the page: asks the server. The token, if there is one, stays in this tab.

const KEY = "selfprompt-token";
const TOP = 5;
const PARALLEL = 4; // requests at the same time; the server puts them into one batch
const ATTEMPTS = 5; // of a request that meets a busy server

let maxBytes = Infinity;
let asking = null; // the dialog for the token: one for all requests

export async function describe() {
  const response = await send("classes");
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  maxBytes = answer.max_bytes;
  return { title: answer.title, classes: answer.classes, note: answer.note, parallel: PARALLEL };
}

export async function classify(blob, name) {
  if (blob.size > maxBytes) return { error: `larger than ${Math.floor(maxBytes / 2 ** 20)} MB, which the server takes` };
  const form = new FormData();
  form.append("top", TOP);
  form.append("images", blob, name);
  const response = await send("predict", { method: "POST", body: form });
  const answer = await response.json();
  return response.ok ? answer[0] : { error: answer.error };
}

async function send(path, options = {}) {
  for (let attempt = 1; ; ) {
    const token = sessionStorage.getItem(KEY);
    const response = await fetch(path, { ...options, headers: token ? { Authorization: `Bearer ${token}` } : {} }).catch(() => {
      throw new Error("The server does not answer.");
    });
    if (response.status === 401) {
      if (token === sessionStorage.getItem(KEY)) await (asking ??= askForToken(token !== null));
    } else if (response.status === 503 && attempt < ATTEMPTS) {
      attempt += 1;
      await new Promise((wake) => setTimeout(wake, 1000 * response.headers.get("Retry-After")));
    } else {
      return response;
    }
  }
}

/** Ask for the token until something is entered. */
function askForToken(again) {
  const dialog = document.createElement("dialog");
  const form = document.createElement("form");
  form.method = "dialog";
  const label = document.createElement("label");
  label.textContent = again ? "This token is wrong. Token of this server:" : "Token of this server:";
  const input = document.createElement("input");
  Object.assign(input, { type: "password", required: true, autocomplete: "current-password" });
  const button = document.createElement("button");
  Object.assign(button, { textContent: "Continue", className: "main" });
  const buttons = document.createElement("div");
  buttons.className = "buttons";
  buttons.append(button);
  label.append(input);
  form.append(label, buttons);
  dialog.append(form);
  document.body.append(dialog);
  dialog.addEventListener("cancel", (event) => event.preventDefault()); // nothing works without a token
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      sessionStorage.setItem(KEY, input.value);
      dialog.remove();
      asking = null;
      resolve();
    });
  });
}
