// Loads the runtime (onnxruntime-web) and the network, and runs it. No byte of the runtime is run before its hash is right.

// Fetches a file and tells of the progress, from 0 to 1; a hash that is wrong is an error, and so is an answer that is none.
async function download(url, integrity, onProgress = () => {}) {
  let response;
  try {
    response = await fetch(url, integrity ? { integrity } : {});
  } catch (error) {
    throw new Error(`${fileName(url)} could not be loaded, or is not the file that this page was made for.`, { cause: error });
  }
  if (!response.ok) throw new Error(`${fileName(url)} could not be loaded (${response.status} ${response.statusText}).`);
  const total = Number(response.headers.get("content-length")) || 0;
  const chunks = [];
  let received = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    received += value.length;
    if (total) onProgress(Math.min(received / total, 1));
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

function fileName(url) {
  return String(url).split("/").pop();
}

// Loads one of the runtimes that runtime.json lists, "wasm" or "webgpu"; returns its module.
export async function loadRuntime(runtime, kind, onProgress) {
  const { module, binary } = runtime[kind];
  const code = await download(runtime.base + module.file, module.integrity);
  const wasm = await download(runtime.base + binary.file, binary.integrity, onProgress);
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
    throw new Error(`The model cannot be read (${error.message}).`, { cause: error });
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

// What the page loads: the settings of the sampler and the graph of the network, as bytes.
export async function loadModel(onProgress) {
  const settings = JSON.parse(new TextDecoder().decode(await download("model/sampler.json")));
  return { settings, graph: await download("model/unet.onnx", null, onProgress) };
}
