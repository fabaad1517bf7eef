// The page: reads the controls, lets the sampler generate, and shows what comes out.

import { loadModel, loadNetwork, loadRuntime, sentence } from "./network.js";
import { Sampler, TorchGenerator, between } from "./sampler.js";

const MAX_DIFFERENCE = 0.01; // of a step on the graphics card from the same on the processor
const MOVING_STEPS = 5; // at most, while the slider of the walk moves
const LOOP_PLACES = 40;
const LINKED = ["seed", "number", "steps", "eta", "class", "guidance"];
const $ = (id) => document.getElementById(id);

let loaded = null; // runtime.json, the settings of the sampler, and the graph of the network
let sampler = null; // with the network of the provider in use
const networks = {}; // by provider, as far as loaded
let shown = null; // the pictures that are shown: their seeds, their noise, and with what they were generated

function say(text) {
  $("status").textContent = text;
}

function showProgress(part) {
  $("progress").hidden = part === null;
  $("progress").value = part ?? 0;
}

// ---- One thing at a time

let newest = 0;
let busy = Promise.resolve();

// Does what the user asks for, after what is under way. That is given up at its next step: only the newest request counts. `work` is
// given a function that tells whether it still does.
function request(work) {
  const mine = ++newest;
  const counts = () => mine === newest;
  $("error").hidden = true;
  busy = busy.then(async () => {
    if (!counts()) return;
    try {
      await work(counts);
    } catch (error) {
      await complain(error);
    }
    showProgress(null);
  });
  return busy;
}

async function complain(error) {
  let text = error.message;
  if ($("webgpu").checked && !(error instanceof RangeError)) {
    $("webgpu").checked = false;
    await useProvider("wasm");
    text = `The graphics card cannot be used (${sentence(error)}), so the processor goes on.`;
  }
  say(sampler ? "" : "The model is not loaded.");
  $("error").textContent = text;
  $("error").hidden = false;
}

// ---- Loading

async function load() {
  if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly, which the model runs on: try a newer one.");
  // A third of the way is the model's, the rest the runtime's.
  loaded = await loadModel((part) => showProgress(part / 3));
  await useProvider("wasm", (part) => showProgress((1 + 2 * part) / 3));
  setUp(loaded.settings);
  say("Ready.");
  if (readLink()) request(generate);
}

async function useProvider(provider, onProgress) {
  if (!networks[provider]) {
    const ort = await loadRuntime(loaded.runtime, provider, onProgress);
    networks[provider] = await loadNetwork(ort, loaded.graph, loaded.settings, provider);
  }
  sampler = new Sampler(loaded.settings, networks[provider]);
}

// Goes over to the graphics card, unless a step there is another one than on the processor.
async function tryWebGpu() {
  say("Loading what the graphics card needs …");
  await useProvider("webgpu", showProgress);
  const noise = new TorchGenerator(0).randn(sampler.size);
  const there = await sampler.modelOutput(noise, 0.9, null, 1);
  const here = await new Sampler(loaded.settings, networks.wasm).modelOutput(noise, 0.9, null, 1);
  const difference = there.reduce((most, value, i) => Math.max(most, Math.abs(value - here[i])), 0);
  if (!(difference < MAX_DIFFERENCE)) throw new Error(`its predictions differ by ${difference.toPrecision(2)}`);
  say("Pictures are generated on the graphics card.");
}

async function leaveWebGpu() {
  await useProvider("wasm");
  say("Pictures are generated on the processor.");
}

// Fits the controls to the model.
function setUp(settings) {
  $("name").textContent = settings.name;
  $("steps").value = settings.num_inference_steps;
  $("steps").max = Math.max(100, settings.num_inference_steps);
  $("steps-label").hidden = settings.is_student; // it has learned its own number only
  const names = settings.class_names ?? Array.from({ length: settings.num_classes }, (_, i) => String(i));
  $("class").replaceChildren(new Option("any", ""), ...names.map((name, i) => new Option(name, i)));
  $("class-label").hidden = !settings.num_classes;
  $("guidance").value = settings.guidance_scale;
  $("guidance").max = Math.max(10, settings.guidance_scale);
  $("guidance-label").hidden = !settings.num_classes || settings.is_student;
  $("webgpu-label").hidden = !navigator.gpu;
  for (const group of document.querySelectorAll("fieldset")) group.disabled = false;
}

// ---- Controls and links

function isOffered(id) {
  return !$(`${id}-label`).hidden;
}

function numberIn(id, whole = true) {
  const input = $(id);
  const [label, value, lowest, highest] = [input.labels[0].textContent.trim(), Number(input.value), Number(input.min), Number(input.max)];
  const fits = input.value.trim() !== "" && value >= lowest && value <= highest && (!whole || Number.isInteger(value));
  if (!fits) throw new RangeError(`${label} must be a ${whole ? "whole number" : "number"} from ${lowest} to ${highest}.`);
  return value;
}

function controls() {
  const text = $("seed").value.trim();
  if (!/^\d{1,18}$/.test(text)) throw new RangeError("The seed must be a whole number from 0, of at most 18 digits.");
  const label = $("class").value === "" ? null : Number($("class").value);
  return {
    seed: BigInt(text),
    number: numberIn("number"),
    steps: numberIn("steps"),
    eta: numberIn("eta", false),
    label,
    guidanceScale: label === null || loaded.settings.is_student ? 1 : numberIn("guidance", false),
  };
}

function writeLink() {
  const link = new URLSearchParams(LINKED.filter(isOffered).map((id) => [id, $(id).value]));
  history.replaceState(null, "", `#${link}`);
  $("share").href = `#${link}`;
}

// Takes the controls from the address; returns whether it says anything of them.
function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  for (const id of LINKED) if (link.has(id) && isOffered(id)) $(id).value = link.get(id);
  return link.has("seed");
}

// ---- Pictures

function draw(canvas, latents) {
  const { height, width } = loaded.settings;
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(new ImageData(sampler.pixels(latents), width, height), 0, 0);
}

function newCanvas(label) {
  const canvas = document.createElement("canvas");
  canvas.className = "picture";
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  return canvas;
}

// Generates a picture from noise, calling `onState` after every step, as long as the request `counts`; returns whether it did to the
// end.
async function generateOne(noise, generator, options, counts, onState) {
  for await (const state of sampler.denoise(noise, { ...options, generator })) {
    if (!counts()) return false;
    onState(state);
    await new Promise((resolve) => setTimeout(resolve)); // lets the browser show it
  }
  return true;
}

function pictureOf(seed) {
  const item = document.createElement("li");
  const canvas = newCanvas(`Picture of seed ${seed}`);
  const save = document.createElement("button");
  save.type = "button";
  save.textContent = `Save ${seed}`;
  save.addEventListener("click", () => {
    canvas.toBlob((blob) => {
      const link = document.createElement("a");
      [link.href, link.download] = [URL.createObjectURL(blob), `seed-${seed}.png`];
      link.click();
      URL.revokeObjectURL(link.href);
    });
  });
  item.append(canvas, save);
  $("pictures").append(item);
  return canvas;
}

// The noise of a seed, and the generator that has drawn it and goes on with that of η > 0.
function noiseOf(seed) {
  const generator = new TorchGenerator(seed);
  return { noise: generator.randn(sampler.size), generator };
}

async function generate(counts) {
  const options = controls();
  say("Generating …");
  // A walk would end it.
  const walks = document.querySelectorAll("section fieldset");
  for (const group of walks) group.disabled = true;
  try {
    await generateAll(options, counts);
  } finally {
    for (const group of walks) group.disabled = false;
  }
}

async function generateAll(options, counts) {
  writeLink();
  const seeds = Array.from({ length: options.number }, (_, i) => options.seed + BigInt(i));
  const drawn = seeds.map(noiseOf);
  shown = { options, seeds, noises: drawn.map(({ noise }) => noise) };
  forgetEarlier(seeds);
  const times = [];
  for (const [i, seed] of seeds.entries()) {
    const canvas = pictureOf(seed);
    const { noise, generator } = drawn[i];
    let start = performance.now();
    const isWhole = await generateOne(noise, generator, options, counts, ({ step, predicted }) => {
      times.push(performance.now() - start);
      draw(canvas, predicted);
      showProgress((i + (step + 1) / options.steps) / seeds.length);
      start = performance.now();
    });
    if (!isWhole) return;
  }
  const median = times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
  say(`Done. A step takes ${median.toFixed(0)} ms.`);
}

// Takes away what belongs to earlier pictures, and offers the new ones for the walk and the look inside.
function forgetEarlier(seeds) {
  $("pictures").replaceChildren();
  $("states").hidden = true;
  $("walk").width = $("walk").height = 1;
  $("way").value = 0;
  for (const id of ["from", "to", "inside-of"]) $(id).replaceChildren(...seeds.map((seed, i) => new Option(`seed ${seed}`, i)));
  $("to").selectedIndex = Math.min(1, seeds.length - 1);
}

// ---- Walk

// Draws the picture at the place of the slider, without fresh noise.
async function walk(counts, steps = shown?.options.steps) {
  if (!shown) throw new RangeError("Generate pictures first.");
  const [from, to] = [shown.noises[$("from").value], shown.noises[$("to").value]];
  const noise = from === to ? from : between(from, to, $("way").value / 100);
  await generateOne(noise, null, { ...shown.options, steps, eta: 0 }, counts, ({ predicted }) => draw($("walk"), predicted));
}

function walkWhileMoving() {
  const most = loaded.settings.is_student ? Infinity : MOVING_STEPS;
  request((counts) => walk(counts, shown && Math.min(shown.options.steps, most)));
}

// Walks there and back, until something else is asked for.
async function loop(counts) {
  $("loop").setAttribute("aria-pressed", "true");
  try {
    for (let place = 0; counts(); place = (place + 1) % LOOP_PLACES) {
      $("way").value = 100 * (1 - Math.abs(1 - (2 * place) / LOOP_PLACES));
      await walk(counts);
    }
  } finally {
    $("loop").setAttribute("aria-pressed", "false");
  }
}

// ---- Look inside

async function lookInside(counts) {
  if (!shown) throw new RangeError("Generate pictures first.");
  const rows = $("states").tBodies[0];
  rows.replaceChildren();
  const seed = shown.seeds[$("inside-of").value];
  $("states").caption.textContent = `The steps of seed ${seed}`;
  $("states").hidden = false;
  const { noise, generator } = noiseOf(seed);
  await generateOne(noise, generator, shown.options, counts, (state) => {
    const row = rows.insertRow();
    const numbers = [state.step + 1, ...[state.time, state.signalRate, state.noiseRate].map((value) => value.toFixed(3))];
    for (const text of numbers) row.insertCell().textContent = text;
    for (const part of ["noisy", "predicted"]) {
      const canvas = newCanvas(`${part}, step ${state.step + 1}`);
      row.insertCell().append(canvas);
      draw(canvas, state[part]);
    }
  });
}

// ---- What the controls do

$("controls").addEventListener("submit", (event) => {
  event.preventDefault();
  request(generate);
});
$("die").addEventListener("click", () => {
  $("seed").value = Math.floor(Math.random() * 1e6);
  request(generate);
});
$("webgpu").addEventListener("change", () => request(() => ($("webgpu").checked ? tryWebGpu() : leaveWebGpu())));
$("way").addEventListener("input", walkWhileMoving);
for (const id of ["way", "from", "to"]) $(id).addEventListener("change", () => request(walk));
$("loop").addEventListener("click", () => request($("loop").getAttribute("aria-pressed") === "true" ? () => {} : loop));
$("inside").addEventListener("click", () => request(lookInside));
addEventListener("hashchange", () => sampler && readLink() && request(generate));
document.documentElement.dataset.running = "";
request(load);
