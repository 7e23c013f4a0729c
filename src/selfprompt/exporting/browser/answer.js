// What logits answer, as selfprompt/inference/answers.py and calibration.py compute it.

/** Return the probabilities of logits divided by a temperature. */
export function softmax(logits, temperature = 1) {
  const scaled = Array.from(logits, (value) => value / temperature);
  const largest = Math.max(...scaled);
  const exponentials = scaled.map((value) => Math.exp(value - largest));
  const sum = exponentials.reduce((one, other) => one + other, 0);
  return exponentials.map((value) => value / sum);
}

/** Return how many of the values, in ascending order, are smaller. */
function place(values, value) {
  let [low, high] = [0, values.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

const ascending = (values) => Float64Array.from(values).sort();

/**
 * Return the function from logits to {top: [[label, score], ...]}, {unknown: true} or {error}.
 *
 * @param {string[]} classes Names in the order of the logits.
 * @param {object | null} calibration As export.json has it.
 * @param {number | null} leastTypicality Below it an image is unknown; null if no image is.
 */
export function answering(classes, calibration, leastTypicality) {
  const known = calibration && {
    logits: ascending(calibration.largest_logits),
    probabilities: ascending(calibration.largest_probabilities),
  };
  return (logits) => {
    if (!logits.every(Number.isFinite)) return { error: "the model's scores for it are not finite numbers" };
    const scores = softmax(logits, calibration?.temperature);
    if (known && leastTypicality !== null) {
      const places = [place(known.logits, Math.max(...logits)), place(known.probabilities, Math.max(...scores))];
      if (Math.min(...places) + Math.max(...places) / (known.logits.length + 1) < leastTypicality) return { unknown: true };
    }
    const order = scores.map((_, index) => index).sort((one, other) => scores[other] - scores[one] || one - other);
    return { top: order.map((index) => [classes[index], scores[index]]) };
  };
}
