// Runs the exported model with onnxruntime-web: reads images, makes the model's view of them, and answers.

import * as ort from "./ort.js";
import { answering } from "./answer.js";
import { view } from "./view.js";

const MAX_PIXELS = 100_000_000; // 400 MB while it is read
const MAX_TOP = 10;
const here = (name) => new URL(name, import.meta.url).href;
let loading = null;

async function fetched(name) {
  const response = await fetch(here(name));
  if (!response.ok) throw new Error(`${name} cannot be loaded (${response.status})`);
  return response;
}

async function load() {
  const record = await (await fetched("./export.json")).json();
  const page = await (await fetched("./page.json")).json();
  ort.env.wasm.wasmPaths = { mjs: here("./ort-wasm.js"), wasm: here("./ort-wasm.wasm") };
  ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(8, navigator.hardwareConcurrency) : 1;
  const [model] = Object.values(record.precisions);
  const bytes = new Uint8Array(await (await fetched(model.file.path)).arrayBuffer());
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"] });
  const inputs = {};
  if (record.class_vectors) {
    const vectors = matrix(await (await fetched(record.class_vectors.path)).arrayBuffer());
    inputs.class_vectors = new ort.Tensor("float32", vectors, [record.classes.length, vectors.length / record.classes.length]);
  }
  const answer = answering(record.classes, record.calibration ?? null, page.least_typicality);
  return { record, page, session, inputs, answer };
}

/** Return the values of a matrix of float32 in numpy's format. */
function matrix(buffer) {
  const header = new DataView(buffer).getUint16(8, true);
  return new Float32Array(buffer.slice(10 + header));
}

/** Return an image as the eye sees it: upright, on white, 3 bytes per pixel. */
async function pixels(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error("not an image that this browser can read: convert it to JPEG or PNG");
  }
  const { width, height } = bitmap;
  if (width * height > MAX_PIXELS) throw new Error(`${width} x ${height} pixels are too many for a browser: make it smaller`);
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const colours = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; from < data.length; from += 4, to += 3) {
    colours[to] = data[from];
    colours[to + 1] = data[from + 1];
    colours[to + 2] = data[from + 2];
  }
  return { data: colours, width, height };
}

async function classify(blob) {
  const { record, page, session, inputs, answer } = await loading;
  let image;
  try {
    image = await pixels(blob);
  } catch (error) {
    return { error: error.message };
  }
  const { size } = record.preprocess;
  const images = new ort.Tensor("uint8", view(image, record.preprocess, page.columns_first), [1, size, size, 3]);
  const { logits } = await session.run({ images, ...inputs });
  const answered = answer(Array.from(logits.data));
  return answered.top ? { top: answered.top.slice(0, MAX_TOP) } : answered;
}

async function describe() {
  const { record, page } = await loading;
  const note = [record.note && `${record.note}.`, "Images stay on this device."].filter(Boolean).join(" ");
  return { title: page.title, classes: record.classes, note };
}

const ACTIONS = { describe, classify: ({ blob }) => classify(blob) };
let queue = Promise.resolve(); // one image at a time

self.addEventListener("message", ({ data }) => {
  loading ??= load();
  queue = queue.then(async () => {
    try {
      self.postMessage({ id: data.id, result: await ACTIONS[data.kind](data) });
    } catch (error) {
      self.postMessage({ id: data.id, error: error?.message || String(error) });
    }
  });
});
