// The S x S view of an image that a model sees, as selfprompt/data/loading/image_views.py makes it.

import { resize } from "./resize.js";

const MAX_RESIZED_PIXELS = 1 << 24; // a longer strip is scaled only where it shows

/** Round half to even, as Python does. */
export function round(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest === 0.5) return below % 2 === 0 ? below : below + 1;
  return rest < 0.5 ? below : below + 1;
}

/**
 * Return the view of an image, 3 bytes per pixel.
 *
 * @param {{data: Uint8Array, width: number, height: number}} image 3 bytes per pixel, row by row.
 * @param {object} preprocess As export.json has it: size, mean, interpolation, mode, resize.
 * @param {boolean} columnsFirst See `resize`.
 * @returns {Uint8Array}
 */
export function view(image, preprocess, columnsFirst = true) {
  const scale = (part, box, size, window) => resize(part, preprocess.interpolation, box, size, window, columnsFirst).data;
  return (preprocess.mode === "pad" ? padded : centre)(image, preprocess, scale);
}

function centre(image, { size, mode, resize: to }, scale) {
  const target = to ?? size;
  const short = Math.min(image.width, image.height);
  const [width, height] = [image.width, image.height].map((side) =>
    mode === "squash" ? target : Math.floor((target * side) / short)
  );
  const [left, top] = [round((width - size) / 2), round((height - size) / 2)];
  if (width * height > MAX_RESIZED_PIXELS) {
    const [across, down] = [image.width / width, image.height / height];
    const box = { left: left * across, top: top * down, right: (left + size) * across, bottom: (top + size) * down };
    return scale(image, box, { width: size, height: size }, { left: 0, top: 0, width: size, height: size });
  }
  const window = { left, top, width: size, height: size };
  return scale(image, whole(image), { width, height }, window);
}

function padded(image, { size, mean }, scale) {
  const result = new Uint8Array(3 * size * size);
  const colour = mean.map((value) => Math.min(255, Math.max(0, round(255 * value))));
  for (let at = 0; at < result.length; at += 1) result[at] = colour[at % 3];
  const side = Math.max(image.width, image.height);
  const [across, down] = [image.width, image.height].map((length) => visible(length, side, size));
  const scaled = { width: across.pixels, height: down.pixels };
  const data = scale(image, whole(image), scaled, { left: 0, top: 0, ...scaled });
  for (let y = 0; y < scaled.height; y += 1) {
    const line = data.subarray(3 * y * scaled.width, 3 * (y + 1) * scaled.width);
    result.set(line, 3 * ((down.offset + y) * size + across.offset));
  }
  return result;
}

const whole = ({ width, height }) => ({ left: 0, top: 0, right: width, bottom: height });

/** Where one side of an image lies in the view, whose square is as wide as the long side. */
function visible(length, side, size) {
  const begin = Math.floor((side - length) / 2);
  const offset = Math.min(size - 1, round((begin * size) / side));
  const end = Math.max(offset + 1, round(((begin + length) * size) / side));
  return { offset, pixels: end - offset };
}
