// Loads the runtime (onnxruntime-web) and the network, and runs it. No byte of the runtime is run before its hash is right.

// Fetches a file and tells of the progress, from 0 to 1. Where `expected` names its size and its hash (`bytes`, `integrity`), another
// file is an error.
async function download(url, expected = null, onProgress = () => {}) {
  const name = String(url).split("/").pop();
  const wrong = `${name} could not be loaded, or is not the file that this page was made for.`;
  // A browser that compares hashes hands out nothing before it has all, and so tells of no progress: it does so only where the page
  // itself cannot, without https.
  const compares = Boolean(expected && globalThis.crypto?.subtle);
  let response;
  const chunks = [];
  try {
    response = await fetch(url, expected && !compares ? { integrity: expected.integrity } : {});
    const total = expected?.bytes ?? Number(response.headers.get("content-length"));
    let received = 0;
    for (const reader = response.body.getReader(); response.ok; ) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      received += value.length;
      if (total) onProgress(Math.min(received / total, 1));
    }
  } catch (error) {
    throw new Error(wrong, { cause: error });
  }
  if (!response.ok) throw new Error(`${name} could not be loaded (${response.status} ${response.statusText}).`);
  const content = await new Blob(chunks).arrayBuffer();
  if (compares && (await hashOf(content)) !== expected.integrity) throw new Error(wrong);
  return new Uint8Array(content);
}

async function hashOf(content) {
  const bytes = new Uint8Array(await crypto.subtle.digest("SHA-384", content));
  return `sha384-${btoa(String.fromCharCode(...bytes))}`;
}

async function downloadJson(url) {
  const text = new TextDecoder().decode(await download(url));
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${url} is damaged: write the page again.`, { cause: error });
  }
}

// Loads one of the runtimes that runtime.json lists, "wasm" or "webgpu"; returns its module.
export async function loadRuntime(runtime, kind, onProgress) {
  const { module, binary } = runtime[kind];
  const code = await download(runtime.base + module.file, module);
  const wasm = await download(runtime.base + binary.file, binary, onProgress);
  // From memory, so that what runs is what was checked.
  const ort = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
  ort.env.wasm.wasmBinary = wasm.buffer;
  // Threads need memory that they share, which a page has only under two headers, and never in a frame of the Hub.
  ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 4) : 1;
  return ort;
}

// The network as the function that a sampler calls. `provider` is "wasm" or "webgpu".
export async function loadNetwork(ort, graph, settings, provider) {
  const session = await ort.InferenceSession.create(graph, { executionProviders: [provider] }).catch((error) => {
    throw new Error(`The model cannot be read (${sentence(error)}).`, { cause: error });
  });
  const { channels, height, width, frequencies } = settings;
  return async (sample, embedding, labels, count) => {
    const inputs = {
      sample: new ort.Tensor("float32", sample, [count, channels, height, width]),
      embedding: new ort.Tensor("float32", embedding, [count, 2 * frequencies.length]),
    };
    if (labels) inputs.class_labels = new ort.Tensor("int64", labels, [count]);
    const { prediction } = await session.run(inputs);
    return prediction.getData();
  };
}

// The message of an error, to stand within another.
export function sentence(error) {
  return error.message.replace(/[.\s]+$/, "");
}

// What the page loads first: the list of runtimes, the settings of the sampler, and the graph of the network as bytes.
export async function loadModel(onProgress) {
  const runtime = await downloadJson("runtime.json");
  const settings = await downloadJson("model/sampler.json");
  return { runtime, settings, graph: await download("model/unet.onnx", null, onProgress) };
}
