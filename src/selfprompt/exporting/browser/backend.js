// The page's backend: a worker that runs the model in this browser. No image leaves this machine.

const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
const waiting = new Map();
let number = 0;

worker.addEventListener("message", ({ data: { id, result, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(new Error(error));
  else resolve(result);
});
worker.addEventListener("error", (event) => {
  event.preventDefault();
  for (const { reject } of waiting.values()) reject(new Error(event.message || "its scripts cannot be loaded"));
  waiting.clear();
});

function ask(message) {
  number += 1;
  const id = number;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, ...message });
  });
}

export async function describe() {
  return ask({ kind: "describe" });
}

export async function classify(blob) {
  return ask({ kind: "classify", blob });
}
