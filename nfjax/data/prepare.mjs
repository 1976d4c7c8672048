// From a picture's pixels to those that the model takes: nfjax.EvalTransform.pixels, with Pillow's arithmetic.

const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  hamming: [1, (x) => (x === 0 ? 1 : Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)))],
  bicubic: [2, (x) => cubic(Math.abs(x), -0.5)],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};
const BITS = 22; // of a weight

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

function cubic(x, a) {
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// Python's: a half goes to the even neighbour.
function round(x) {
  const below = Math.floor(x);
  const rest = x - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below;
}

// For each place of the result: where its window begins, and the whole-numbered weights in it.
function windows(before, after, [reach, filter]) {
  const scale = before / after;
  const wide = Math.max(scale, 1);
  const support = reach * wide;
  return Array.from({ length: after }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(before, Math.trunc(centre + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, i) => filter((i + first - centre + 0.5) / wide));
    const sum = weights.reduce((a, b) => a + b, 0);
    const whole = (w) => Math.trunc(w < 0 ? w * 2 ** BITS - 0.5 : w * 2 ** BITS + 0.5);
    return [first, weights.map((w) => whole(sum === 0 ? w : w / sum))];
  });
}

// One axis of `lines` lines of pixels. `step` is from a pixel to the next one of its line, `stride` from line to line.
function along(source, lines, [step, stride], [outStep, outStride], weighed, result) {
  weighed.forEach(([first, weights], place) => {
    for (let line = 0; line < lines; line++) {
      const from = line * stride + first * step;
      const to = line * outStride + place * outStep;
      for (let channel = 0; channel < 3; channel++) {
        let sum = 1 << (BITS - 1);
        for (let i = 0; i < weights.length; i++) sum += source[from + i * step + channel] * weights[i];
        result[to + channel] = Math.min(255, Math.max(0, sum >> BITS));
      }
    }
  });
  return result;
}

function across(pixels, [height, width], newWidth, filter) {
  if (newWidth === width) return pixels;
  const result = new Uint8ClampedArray(height * newWidth * 3);
  return along(pixels, height, [3, width * 3], [3, newWidth * 3], windows(width, newWidth, filter), result);
}

function down(pixels, [height, width], newHeight, filter) {
  if (newHeight === height) return pixels;
  const result = new Uint8ClampedArray(newHeight * width * 3);
  return along(pixels, width, [width * 3, 3], [width * 3, 3], windows(height, newHeight, filter), result);
}

// RGB bytes, across first and then down, as Pillow does. (Pillow 13 goes down first where the height shrinks more.)
function resize(pixels, [height, width], [newHeight, newWidth], interpolation) {
  const filter = FILTERS[interpolation];
  return down(across(pixels, [height, width], newWidth, filter), [height, newWidth], newHeight, filter);
}

function resized([height, width], { scale_size: [targetHeight, targetWidth], crop_mode }) {
  if (crop_mode === "squash") return [targetHeight, targetWidth];
  if (crop_mode === "center" && targetHeight === targetWidth) {
    const long = Math.trunc((targetHeight * Math.max(height, width)) / Math.min(height, width));
    return width <= height ? [long, targetHeight] : [targetHeight, long];
  }
  const ratios = [height / targetHeight, width / targetWidth];
  const ratio = crop_mode === "border" ? Math.max(...ratios) : Math.min(...ratios);
  return [Math.max(1, round(height / ratio)), Math.max(1, round(width / ratio))];
}

// RGBA bytes of a picture, as a canvas gives them, to the RGB bytes of the model's own size.
export function prepare(rgba, height, width, config) {
  const rgb = new Uint8ClampedArray(height * width * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    rgb[j++] = rgba[i];
    rgb[j++] = rgba[i + 1];
    rgb[j++] = rgba[i + 2];
  }
  const [rows, columns] = resized([height, width], config);
  const whole = resize(rgb, [height, width], [rows, columns], config.interpolation);
  const [outHeight, outWidth] = config.size;
  const missing = [Math.max(0, outHeight - rows), Math.max(0, outWidth - columns)];
  const top = round((rows + missing[0] - outHeight) / 2) - Math.trunc(missing[0] / 2);
  const left = round((columns + missing[1] - outWidth) / 2) - Math.trunc(missing[1] / 2);
  const result = new Uint8Array(outHeight * outWidth * 3);
  for (let y = 0, to = 0; y < outHeight; y++) {
    for (let x = 0; x < outWidth; x++, to += 3) {
      const [row, column] = [y + top, x + left];
      const inside = row >= 0 && row < rows && column >= 0 && column < columns;
      const from = (row * columns + column) * 3;
      result.set(inside ? whole.subarray(from, from + 3) : config.fill, to);
    }
  }
  return result;
}
