// Resizes images as Pillow does, bit for bit: another way of resizing would give other predictions.
//
// Pillow weighs the pixels under a filter that is widened when an image is made smaller, along rows and along columns,
// with weights of 22 bits after the point, and rounds to 8 bits after each of both. Rows come first; from Pillow 13 on,
// columns do if more than twice as many rows as columns are lost.

const BITS = 22;
const HALF = 1 << (BITS - 1);

const FILTERS = {
  bilinear: { reach: 1, weight: (x) => (x < 1 ? 1 - x : 0) },
  bicubic: {
    reach: 2,
    weight: (x) => {
      const a = -0.5;
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
    },
  },
};

/**
 * Resize a box of an image and return a window of the result.
 *
 * @param {{data: Uint8Array, width: number, height: number}} image 3 bytes per pixel, row by row.
 * @param {string} filter "bicubic", "bilinear" or "nearest".
 * @param {{left: number, top: number, right: number, bottom: number}} box The part of the image, in its pixels.
 * @param {{width: number, height: number}} size What the box is resized to.
 * @param {{left: number, top: number, width: number, height: number}} window The part of the result.
 * @param {boolean} columnsFirst Whether columns may come first, as in Pillow 13.
 * @returns {{data: Uint8Array, width: number, height: number}}
 */
export function resize(image, filter, box, size, window, columnsFirst = true) {
  const across = [image.width, Math.fround(box.left), Math.fround(box.right), size.width, window.left, window.width];
  const down = [image.height, Math.fround(box.top), Math.fround(box.bottom), size.height, window.top, window.height];
  if (filter === "nearest") return pick(image, nearest(...across), nearest(...down));
  const [columns, rows] = [weights(FILTERS[filter], ...across), weights(FILTERS[filter], ...down)];
  const [lostRows, lostColumns] = [image.height - size.height, image.width - size.width];
  if (columnsFirst && lostRows > 0 && lostRows > 2 * lostColumns) {
    return alongRows(alongColumns(image, rows, 0), columns);
  }
  const [first, end] = [Math.min(...rows.map((row) => row.start)), Math.max(...rows.map((row) => row.end))];
  const data = image.data.subarray(3 * image.width * first, 3 * image.width * end);
  return alongColumns(alongRows({ data, width: image.width, height: end - first }, columns), rows, first);
}

/** The weights of the pixels of one side for each pixel of a window of the result. */
function weights({ reach, weight }, length, from, to, target, offset, count) {
  const scale = (to - from) / target;
  const wide = Math.max(scale, 1);
  return Array.from({ length: count }, (_, index) => {
    const centre = from + (offset + index + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - reach * wide + 0.5));
    const end = Math.min(length, Math.trunc(centre + reach * wide + 0.5));
    const values = new Float64Array(end - start);
    let sum = 0;
    for (let x = 0; x < values.length; x += 1) {
      values[x] = weight(Math.abs((x + start - centre + 0.5) * (1 / wide)));
      sum += values[x];
    }
    const whole = Int32Array.from(values, (value) => {
      const share = (sum === 0 ? value : value / sum) * (1 << BITS);
      return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
    return { start, end, whole };
  });
}

const byte = (value) => Math.max(0, Math.min(255, value >> BITS));

function alongRows({ data, width, height }, columns) {
  const result = new Uint8Array(3 * columns.length * height);
  let at = 0;
  for (let y = 0; y < height; y += 1) {
    for (const { start, whole } of columns) {
      let [red, green, blue] = [HALF, HALF, HALF];
      let from = 3 * (y * width + start);
      for (let x = 0; x < whole.length; x += 1, from += 3) {
        red += data[from] * whole[x];
        green += data[from + 1] * whole[x];
        blue += data[from + 2] * whole[x];
      }
      result[at] = byte(red);
      result[at + 1] = byte(green);
      result[at + 2] = byte(blue);
      at += 3;
    }
  }
  return { data: result, width: columns.length, height };
}

function alongColumns({ data, width }, rows, first) {
  const line = 3 * width;
  const result = new Uint8Array(line * rows.length);
  rows.forEach(({ start, whole }, y) => {
    for (let x = 0; x < line; x += 1) {
      let sum = HALF;
      let from = (start - first) * line + x;
      for (let k = 0; k < whole.length; k += 1, from += line) sum += data[from] * whole[k];
      result[y * line + x] = byte(sum);
    }
  });
  return { data: result, width, height: rows.length };
}

/** The nearest pixel of one side for each pixel of a window of the result; sums up steps, as Pillow does. */
function nearest(length, from, to, target, offset, count) {
  const scale = (to - from) / target;
  const found = [];
  let position = from + scale * 0.5;
  for (let index = 0; index < offset + count; index += 1, position += scale) {
    if (index >= offset) found.push(Math.min(length - 1, Math.trunc(position)));
  }
  return found;
}

function pick({ data, width }, columns, rows) {
  const result = new Uint8Array(3 * columns.length * rows.length);
  let at = 0;
  for (const y of rows) {
    for (const x of columns) {
      const from = 3 * (y * width + x);
      result.set(data.subarray(from, from + 3), at);
      at += 3;
    }
  }
  return { data: result, width: columns.length, height: rows.length };
}
