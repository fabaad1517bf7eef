// Runs the sampler of the page without a browser: `node parity.mjs FOLDER JOB`, where the job is JSON. Prints numbers as JSON.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const [folder, text] = process.argv.slice(2);
const job = JSON.parse(text);
const { Sampler, TorchGenerator } = await import(join(folder, "sampler.mjs"));

if (job.draw) {
  const generator = new TorchGenerator(BigInt(job.seed));
  console.log(JSON.stringify(job.draw.flatMap((count) => [...generator.randn(count)])));
} else {
  const { loadNetwork } = await import(join(folder, "network.mjs"));
  const dist = fileURLToPath(new URL("node_modules/onnxruntime-web/dist", import.meta.url));
  const ort = await import(join(dist, "ort.wasm.bundle.min.mjs"));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = readFileSync(join(dist, "ort-wasm-simd-threaded.wasm")).buffer;
  const settings = JSON.parse(readFileSync(join(folder, "model", "sampler.json")));
  const graph = new Uint8Array(readFileSync(join(folder, "model", "unet.onnx")));
  const sampler = new Sampler(settings, await loadNetwork(ort, graph, settings, "wasm"));
  const generator = new TorchGenerator(BigInt(job.seed));
  let latents = generator.randn(sampler.size);
  for await (const state of sampler.denoise(latents, { ...job.options, generator })) latents = state.latents;
  console.log(JSON.stringify([...latents]));
}
