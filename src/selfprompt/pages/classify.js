// The page: takes images, asks the backend about each, and shows the answers. Every name is set as text, never as HTML.

import { classify, describe } from "./backend.js";
import { csvText, rowsOf } from "./csv.js";

const THUMBNAIL = 256; // longest side in pixels
const SHOWN_BARS = 5;

const byId = (id) => document.getElementById(id);
const entries = []; // {file, name, card, answer}, in the order in which the images were added
const waiting = [];
let ready = false;
let running = 0;
let parallel = 1;
let photos = 0;

/** Return a new element with classes, text and children. */
function make(tag, kind = "", text = "", children = []) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  if (text) element.textContent = text;
  element.append(...children);
  return element;
}

function say(text, wrong = false) {
  byId("status").textContent = text;
  byId("status").classList.toggle("wrong", wrong);
}

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : noun.endsWith("s") ? "es" : "s"}`;

// Start

async function start() {
  setUpInputs();
  try {
    const described = await describe();
    parallel = described.parallel ?? 1;
    showClassifier(described);
    ready = true;
    say("Ready.");
    work();
  } catch (error) {
    say(`The classifier cannot be used: ${error.message}`, true);
  }
}

function showClassifier({ title, classes, note }) {
  document.title = title;
  byId("title").textContent = title;
  byId("note").textContent = note;
  byId("note").hidden = !note;
  const list = byId("classes");
  list.hidden = false;
  list.querySelector("summary").textContent = plural(classes.length, "class");
  list.querySelector("ul").append(...classes.map((name) => make("li", "", name)));
}

// Input: a file picker, drag and drop, the clipboard, the camera

function setUpInputs() {
  for (const id of ["files", "capture"]) {
    byId(id).addEventListener("change", ({ target }) => {
      add([...target.files]);
      target.value = ""; // the same file may be chosen again
    });
  }
  byId("choose").addEventListener("click", () => byId("files").click());
  document.addEventListener("paste", (event) => add([...event.clipboardData.files]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault(); // else the browser would leave the page and show the file
    byId("drop").classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget || byId("drop").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("drop").classList.remove("over");
    add([...event.dataTransfer.files]);
  });
  byId("download").addEventListener("click", download);
  byId("clear").addEventListener("click", clear);
  setUpCamera();
}

function setUpCamera() {
  const phone = matchMedia("(hover: none) and (pointer: coarse)").matches; // its own camera app takes better photos
  const camera = byId("camera");
  byId("photograph").hidden = !phone && !navigator.mediaDevices; // which browsers offer on https and localhost only
  byId("photograph").addEventListener("click", () => (phone ? byId("capture").click() : openCamera()));
  byId("shoot").addEventListener("click", shoot);
  byId("leave").addEventListener("click", () => camera.close());
  camera.addEventListener("close", stopCamera);
}

async function openCamera() {
  const camera = byId("camera");
  const message = camera.querySelector("p");
  message.textContent = "Starting the camera …";
  byId("shoot").disabled = true;
  camera.showModal();
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    const video = camera.querySelector("video");
    video.srcObject = stream;
    if (!camera.open) return stopCamera(); // closed while the browser asked for permission
    await video.play();
    message.textContent = "";
    byId("shoot").disabled = false;
  } catch (error) {
    if (camera.open) message.textContent = `The camera cannot be used: ${error.message}`;
  }
}

function stopCamera() {
  const video = byId("camera").querySelector("video");
  for (const track of video.srcObject?.getTracks() ?? []) track.stop();
  video.srcObject = null;
}

function shoot() {
  const video = byId("camera").querySelector("video");
  const canvas = make("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  byId("camera").close();
  photos += 1;
  const name = `photo-${photos}.jpg`;
  canvas.toBlob((blob) => blob && add([new File([blob], name, { type: blob.type })]), "image/jpeg", 0.92);
}

// Work: a queue, so that hundreds of images neither start at once nor wait for one another's pictures

function add(files) {
  for (const file of files) {
    const entry = { file, name: file.name, card: newCard(file.name), answer: null };
    entries.push(entry);
    waiting.push(entry);
    byId("gallery").append(entry.card);
  }
  byId("results").hidden = !entries.length;
  if (files.length) work();
}

function work() {
  while (ready && running < parallel && waiting.length) {
    running += 1;
    answer(waiting.shift()).finally(() => {
      running -= 1;
      report();
      work();
    });
  }
  if (ready) report();
}

async function answer(entry) {
  const picture = showPicture(entry);
  const given = await classify(entry.file, entry.name).catch((error) => ({ error: error.message }));
  await picture;
  entry.answer = given;
  entry.file = null; // let the browser forget the photo
  if (!entries.includes(entry)) return; // cleared meanwhile
  showAnswer(entry);
  for (const [image, rank, label, score] of rowsOf(entry.name, entry.answer)) {
    byId("rows").append(
      make("tr", "", "", [make("td", "", image), make("td", "number", rank), make("td", "", label), make("td", "number", score)])
    );
  }
}

function report() {
  const done = entries.filter((entry) => entry.answer);
  const failed = done.filter((entry) => entry.answer.error).length;
  byId("download").disabled = done.length === failed;
  if (!entries.length) return say("Ready.");
  const without = failed ? ` ${plural(failed, "image")} without a result; the CSV leaves ${failed === 1 ? "it" : "them"} out.` : "";
  const count = done.length === entries.length ? plural(done.length, "image") : `${done.length} of ${plural(entries.length, "image")}`;
  say(`${count} done.${without}`);
}

// Results

function newCard(name) {
  const text = make("div", "text", "", [make("h3", "", name), make("p", "answer", "Waiting …")]);
  return make("li", "", "", [make("div", "picture"), text]);
}

async function showPicture({ file, name, card }) {
  const frame = card.querySelector(".picture");
  try {
    const full = await createImageBitmap(file);
    const scale = Math.min(1, THUMBNAIL / Math.max(full.width, full.height));
    const canvas = make("canvas");
    [canvas.width, canvas.height] = [full.width, full.height].map((side) => Math.max(1, Math.round(side * scale)));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(full, 0, 0, canvas.width, canvas.height);
    full.close();
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", name);
    frame.append(canvas);
  } catch {
    frame.textContent = "no preview"; // a format that the browser does not know; the backend may
  }
}

function showAnswer({ card, answer }) {
  const old = card.querySelector(".answer");
  if (answer.error) old.replaceWith(make("p", "answer wrong", answer.error));
  else if (answer.unknown) old.replaceWith(make("p", "answer unknown", "unknown: unlike the trained classes"));
  else old.replaceWith(make("ol", "answer bars", "", answer.top.slice(0, SHOWN_BARS).map(bar)));
}

function bar([label, score]) {
  const fill = make("span", "fill");
  fill.style.width = `${100 * score}%`;
  const track = make("span", "track", "", [fill]);
  track.setAttribute("aria-hidden", "true");
  return make("li", "", "", [make("span", "name", label), make("span", "number", `${(100 * score).toFixed(1)} %`), track]);
}

function download() {
  const rows = entries.flatMap(({ name, answer }) => (answer ? rowsOf(name, answer) : []));
  // The byte-order mark tells spreadsheets that this is UTF-8.
  const url = URL.createObjectURL(new Blob(["\ufeff", csvText(rows)], { type: "text/csv" }));
  const link = make("a");
  link.href = url;
  link.download = "predictions.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // some browsers read it only after the click
}

function clear() {
  entries.length = waiting.length = 0;
  byId("gallery").replaceChildren();
  byId("rows").replaceChildren();
  byId("results").hidden = true;
  byId("choose").focus();
  report();
}

start();
