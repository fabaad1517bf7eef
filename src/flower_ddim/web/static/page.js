// The page: reads the controls, lets the sampler generate, and shows what comes out.

import { loadModel, loadNetwork, loadRuntime } from "./network.js";
import { Sampler, TorchGenerator, between } from "./sampler.js";

const MAX_DIFFERENCE = 0.01; // of a step on the graphics card from the same on the processor
const $ = (id) => document.getElementById(id);

let sampler = null; // once the model is loaded
let networks = {}; // the network by its provider, as far as loaded
let loaded = null; // the settings, the graph and runtime.json
let shown = null; // what the pictures were generated with, and their noise
let busy = Promise.resolve(); // one generation at a time

function say(text) {
  $("status").textContent = text;
}

function complain(error) {
  $("error").textContent = error.message;
  $("error").hidden = false;
  $("progress").hidden = true;
}

// Runs work after that under way, with the last error cleared; an error of its own is shown.
function run(work) {
  busy = busy.then(async () => {
    $("error").hidden = true;
    try {
      await work();
    } catch (error) {
      complain(error);
    }
  });
  return busy;
}

// ---- Loading

async function load() {
  if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly, which the model runs on: try a newer one.");
  const runtime = await (await fetch("runtime.json")).json();
  // Ten parts of the way are the model's, twenty the runtime's.
  const model = await loadModel((part) => ($("progress").value = part / 3));
  loaded = { runtime, ...model };
  await useProvider("wasm", (part) => ($("progress").value = (1 + 2 * part) / 3));
  setUp(model.settings);
  $("progress").hidden = true;
  for (const id of ["generate", "loop", "inside"]) $(id).disabled = false;
  say("Ready.");
  if (readLink()) await generate();
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
  try {
    await useProvider("webgpu");
    const noise = new TorchGenerator(0).randn(sampler.size);
    const [here, there] = [sampler, new Sampler(loaded.settings, networks.wasm)];
    const outputs = await Promise.all([here, there].map((one) => one.modelOutput(noise, 0.9, null, 1)));
    const difference = outputs[0].reduce((most, value, i) => Math.max(most, Math.abs(value - outputs[1][i])), 0);
    if (!(difference < MAX_DIFFERENCE)) throw new Error(`its predictions differ by ${difference.toPrecision(2)}`);
    say("Pictures are generated on the graphics card.");
  } catch (error) {
    await useProvider("wasm");
    $("webgpu").checked = false;
    throw new Error(`The graphics card cannot be used (${error.message}), so the processor goes on.`);
  }
}

// Fits the controls to the model.
function setUp(settings) {
  $("name").textContent = settings.name;
  $("steps").value = settings.num_inference_steps;
  $("steps-label").hidden = settings.is_student; // it has learned its own number only
  const names = settings.class_names ?? Array.from({ length: settings.num_classes }, (_, i) => String(i));
  $("class").replaceChildren(new Option("any", ""), ...names.map((name, i) => new Option(name, i)));
  $("class-label").hidden = !settings.num_classes;
  $("guidance").value = settings.guidance_scale;
  $("guidance-label").hidden = !settings.num_classes || settings.is_student;
  $("webgpu-label").hidden = !navigator.gpu || !loaded.runtime.webgpu;
}

// ---- Controls and links

function numberIn(id, lowest, highest, whole = true) {
  const [label, value] = [$(id).labels[0].textContent.trim(), Number($(id).value)];
  const fits = $(id).value.trim() !== "" && value >= lowest && value <= highest && (!whole || Number.isInteger(value));
  if (!fits) throw new Error(`${label} must be a ${whole ? "whole number" : "number"} from ${lowest} to ${highest}.`);
  return value;
}

function controls() {
  const text = $("seed").value.trim();
  if (!/^\d{1,18}$/.test(text)) throw new Error("The seed must be a whole number from 0, of at most 18 digits.");
  const label = $("class").value === "" ? null : Number($("class").value);
  return {
    seed: BigInt(text),
    number: numberIn("number", 1, 16),
    steps: numberIn("steps", 1, 100),
    eta: numberIn("eta", 0, 1, false),
    label,
    guidanceScale: label === null || loaded.settings.is_student ? 1 : numberIn("guidance", 0, 10, false),
  };
}

const LINKED = ["seed", "number", "steps", "eta", "class", "guidance"];

function writeLink() {
  const link = new URLSearchParams(LINKED.filter((id) => !$(`${id}-label`)?.hidden).map((id) => [id, $(id).value]));
  history.replaceState(null, "", `#${link}`);
  $("share").href = `#${link}`;
}

// Takes the controls from the address; returns whether it says anything of them.
function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  for (const id of LINKED) if (link.has(id)) $(id).value = link.get(id);
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

// Generates a picture from noise, calling `onState` after every step; returns the time that each took, in milliseconds.
async function generateOne(noise, generator, options, onState) {
  const times = [];
  let start = performance.now();
  for await (const state of sampler.denoise(noise, { ...options, generator })) {
    times.push(performance.now() - start);
    onState(state);
    await new Promise(requestAnimationFrame); // lets the browser show it
    start = performance.now();
  }
  return times;
}

function pictureOf(seed) {
  const item = document.createElement("li");
  const canvas = newCanvas(`Picture of seed ${seed}`);
  const save = document.createElement("button");
  save.textContent = `Save ${seed}`;
  save.addEventListener("click", () => {
    canvas.toBlob((blob) => {
      const link = document.createElement("a");
      [link.href, link.download] = [URL.createObjectURL(blob), `seed-${seed}.png`];
      link.click();
    });
  });
  item.append(canvas, save);
  $("pictures").append(item);
  return canvas;
}

async function generate() {
  const options = controls();
  say("Generating …");
  writeLink();
  $("pictures").replaceChildren();
  const seeds = Array.from({ length: options.number }, (_, i) => options.seed + BigInt(i));
  shown = { options, seeds, noises: seeds.map((seed) => new TorchGenerator(seed).randn(sampler.size)) };
  const times = [];
  for (const [i, seed] of seeds.entries()) {
    const canvas = pictureOf(seed);
    const generator = new TorchGenerator(seed);
    const noise = generator.randn(sampler.size); // draws on from here where η > 0
    times.push(
      ...(await generateOne(noise, generator, options, ({ step, predicted }) => {
        draw(canvas, predicted);
        say(`Picture ${i + 1} of ${seeds.length}, step ${step + 1} of ${options.steps}.`);
      })),
    );
  }
  for (const id of ["from", "to", "inside-of"]) $(id).replaceChildren(...seeds.map((seed, i) => new Option(`seed ${seed}`, i)));
  $("to").selectedIndex = Math.min(1, seeds.length - 1);
  const median = times.sort((a, b) => a - b)[Math.floor(times.length / 2)];
  say(`A step takes ${median.toFixed(0)} ms.`);
}

// ---- Walk

let wanted = null; // the place on the way that is to be drawn next

// Draws the picture at a place from 0 (the first noise) to 1 (the second) and 2 (back again); of several requests the last.
function walkTo(w) {
  const isWaiting = wanted !== null;
  wanted = w;
  if (isWaiting) return busy;
  return run(async () => {
    const place = wanted;
    wanted = null;
    if (!shown) throw new Error("Generate pictures first.");
    const { noises, options } = shown;
    const [from, to] = [noises[$("from").value], noises[$("to").value]];
    const noise = place <= 1 ? between(from, to, place) : between(to, from, place - 1);
    let last = null;
    await generateOne(noise, null, { ...options, eta: 0 }, ({ latents }) => (last = latents));
    draw($("walk"), last);
  });
}

async function loop() {
  const isOn = $("loop").getAttribute("aria-pressed") === "true";
  $("loop").setAttribute("aria-pressed", String(!isOn));
  for (let i = 0; $("loop").getAttribute("aria-pressed") === "true"; i = (i + 1) % 40) {
    $("way").value = i <= 20 ? 5 * i : 200 - 5 * i;
    await walkTo(i / 20);
    if (!$("error").hidden) $("loop").setAttribute("aria-pressed", "false");
  }
}

// ---- Look inside

async function lookInside() {
  if (!shown) throw new Error("Generate pictures first.");
  const rows = $("states").tBodies[0];
  rows.replaceChildren();
  $("states").hidden = false;
  const seed = shown.seeds[$("inside-of").value];
  const generator = new TorchGenerator(seed);
  const noise = generator.randn(sampler.size);
  await generateOne(noise, generator, shown.options, (state) => {
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
  run(generate);
});
$("die").addEventListener("click", () => {
  $("seed").value = Math.floor(Math.random() * 1e6);
  if (sampler) run(generate);
});
$("webgpu").addEventListener("change", () => run(() => ($("webgpu").checked ? tryWebGpu() : useProvider("wasm"))));
for (const id of ["way", "from", "to"]) $(id).addEventListener("input", () => walkTo($("way").value / 100));
$("loop").addEventListener("click", loop);
$("inside").addEventListener("click", () => run(lookInside));
addEventListener("hashchange", () => sampler && readLink() && run(generate));
run(load);
