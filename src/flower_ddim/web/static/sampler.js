// The sampler: DDIM (Song et al. 2020) over continuous diffusion time, with PyTorch's own noise. It knows nothing of a page, and
// runs wherever JavaScript does. The names are those of sampler.json and of scheduling_flower_ddim.py.

// Whoever divides by a signal rate uses at least this: some schedules end in no signal at all.
const SIGNAL_RATE_FLOOR = 1e-3;

// Standard normal numbers as `torch.Generator().manual_seed(seed)` and `torch.randn` draw them on a CPU, 16 or more at a time.
export class TorchGenerator {
  // The Mersenne Twister (Matsumoto & Nishimura 1998), seeded with the lower 32 bits of a seed.
  constructor(seed) {
    this.state = new Uint32Array(624);
    this.state[0] = Number(BigInt.asUintN(32, BigInt(seed)));
    for (let i = 1; i < 624; i++) {
      const previous = this.state[i - 1] ^ (this.state[i - 1] >>> 30);
      this.state[i] = Math.imul(1812433253, previous) + i;
    }
    this.place = 624;
  }

  nextWord() {
    if (this.place === 624) this.twist();
    let word = this.state[this.place++];
    word ^= word >>> 11;
    word ^= (word << 7) & 0x9d2c5680;
    word ^= (word << 15) & 0xefc60000;
    return (word ^ (word >>> 18)) >>> 0;
  }

  twist() {
    const { state } = this;
    for (let i = 0; i < 624; i++) {
      const mixed = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (mixed >>> 1) ^ (mixed & 1 ? 0x9908b0df : 0);
    }
    this.place = 0;
  }

  // Uniform numbers of 24 bits first, then in every block of 16 eight pairs become normal ones (Box & Muller 1958).
  randn(count) {
    if (count % 16) throw new RangeError(`PyTorch draws normal numbers by sixteens, and ${count} is no multiple.`);
    const numbers = Float32Array.from({ length: count }, () => (this.nextWord() & 0xffffff) * 2 ** -24);
    for (let block = 0; block < count; block += 16) {
      for (let j = block; j < block + 8; j++) {
        const radius = Math.sqrt(-2 * Math.log(1 - numbers[j]));
        const angle = 2 * Math.PI * numbers[j + 8];
        numbers[j] = radius * Math.cos(angle);
        numbers[j + 8] = radius * Math.sin(angle);
      }
    }
    return numbers;
  }
}

export class Sampler {
  // `settings` is sampler.json. `predict(sample, embedding, labels, count)` runs the network on `count` images one after another in
  // a Float32Array, with as many embeddings, and labels in a BigInt64Array or null; it returns a promise of the predictions.
  constructor(settings, predict) {
    this.settings = settings;
    this.predict = predict;
    this.size = settings.channels * settings.height * settings.width;
  }

  // Signal and noise rate at the diffusion time u: cosine and sine of an angle that is linear between those of a table.
  rates(u) {
    const { angles } = this.settings;
    const position = u * (angles.length - 1);
    const lower = Math.min(Math.floor(position), angles.length - 2);
    const angle = angles[lower] + (position - lower) * (angles[lower + 1] - angles[lower]);
    return [Math.cos(angle), Math.sin(angle)];
  }

  // The sinusoidal embedding of the noise power, all sines and then all cosines.
  embedding(noiseRate) {
    const angles = this.settings.frequencies.map((frequency) => 2 * Math.PI * frequency * noiseRate ** 2);
    return [...angles.map(Math.sin), ...angles.map(Math.cos)];
  }

  // What the network says of the latents at a noise rate, guided to a class (Ho & Salimans 2022) where there is one.
  async modelOutput(latents, noiseRate, label, guidanceScale) {
    const { num_classes: nullClass } = this.settings;
    const embedding = this.embedding(noiseRate);
    const isGuided = label !== null && guidanceScale !== 1;
    const labels = nullClass ? [label ?? nullClass] : null;
    if (!isGuided) return this.predict(latents, Float32Array.from(embedding), labels && BigInt64Array.from(labels, BigInt), 1);
    const twice = new Float32Array(2 * this.size);
    twice.set(latents);
    twice.set(latents, this.size);
    const both = BigInt64Array.from([label, nullClass], BigInt);
    const outputs = await this.predict(twice, Float32Array.from([...embedding, ...embedding]), both, 2);
    const [named, without] = [outputs.subarray(0, this.size), outputs.subarray(this.size)];
    return without.map((value, i) => value + guidanceScale * (named[i] - value));
  }

  // Yields after every step what it began with (`noisy`), the image that the network has predicted there (`predicted`), and what
  // comes of it (`latents`), which after the last step is the image. `generator` draws the noise of η > 0.
  async *denoise(noise, { steps, eta = 0, generator = null, label = null, guidanceScale = 1 }) {
    let latents = noise;
    for (let step = steps; step > 0; step--) {
      const [signalRate, noiseRate] = this.rates(step / steps);
      const [nextSignalRate, nextNoiseRate] = step > 1 ? this.rates((step - 1) / steps) : [1, 0];
      const output = await this.modelOutput(latents, noiseRate, label, guidanceScale);
      const predicted = this.predictedImage(output, latents, signalRate, noiseRate);
      // σ of equation (16), and equation (12): signal, direction to the noisy image, fresh noise.
      const variance = Math.max(1 - (signalRate / nextSignalRate) ** 2, 0);
      const deviation = eta * (nextNoiseRate / noiseRate) * Math.sqrt(variance);
      const direction = Math.sqrt(Math.max(nextNoiseRate ** 2 - deviation ** 2, 0));
      const fresh = eta > 0 ? generator.randn(this.size) : null;
      const noisy = latents;
      latents = predicted.map((image, i) => {
        const predictedNoise = (noisy[i] - signalRate * image) / noiseRate;
        return nextSignalRate * image + direction * predictedNoise + (fresh ? deviation * fresh[i] : 0);
      });
      yield { step: steps - step, time: step / steps, signalRate, noiseRate, noisy, predicted, latents };
    }
  }

  // The image x̂₀ in what the network predicts: the noise, the image itself, or the velocity (Salimans & Ho 2022, appendix D).
  predictedImage(output, noisy, signalRate, noiseRate) {
    const { prediction_type: type, clip_sample_range: limit } = this.settings;
    const clip = (value) => (limit === null ? value : Math.max(-limit, Math.min(limit, value)));
    return output.map((value, i) => {
      if (type === "sample") return clip(value);
      if (type === "v_prediction") return clip(signalRate * noisy[i] - noiseRate * value);
      return clip((noisy[i] - noiseRate * value) / Math.max(signalRate, SIGNAL_RATE_FLOOR));
    });
  }

  // Latents as pixels from 0 to 255, four numbers each (red, green, blue, opacity).
  pixels(latents) {
    const { channels, height, width, image_mean: mean, image_std: std } = this.settings;
    const area = height * width;
    const pixels = new Uint8ClampedArray(4 * area).fill(255);
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) {
        const channel = channels === 1 ? 0 : c;
        pixels[4 * i + c] = 255 * (mean[channel] + std[channel] * latents[channel * area + i]);
      }
    }
    return pixels;
  }
}

// The noise a share w of the way from one to another, on the arc on which the variance stays at one.
export function between(from, to, w) {
  const [a, b] = [Math.cos((Math.PI * w) / 2), Math.sin((Math.PI * w) / 2)];
  return from.map((value, i) => a * value + b * to[i]);
}
