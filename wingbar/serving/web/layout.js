// Where pictures stand: whole pictures in justified rows, each row as wide as the grid.

/**
 * One row of pictures.
 * @typedef {object} Row
 * @property {number} first   place of its first picture
 * @property {number} end     place after its last one
 * @property {number} top     from the top of the grid, in pixels
 * @property {number} height  of its pictures, in pixels
 */

/**
 * Where all pictures stand. The caption of a picture stands below it, inside its row.
 * @typedef {object} Layout
 * @property {Row[]} rows
 * @property {number[]} left    of each picture, in pixels
 * @property {number[]} width   of each picture, in pixels
 * @property {number | null} line  top of the line, if there is one
 * @property {number} height    of the grid, in pixels
 */

/**
 * What the rows depend on, in pixels.
 * @typedef {object} Measures
 * @property {number} width    of the grid
 * @property {number} target   height of a row of pictures, as far as it can be had
 * @property {number} gap      between pictures
 * @property {number} caption  height of what stands below a picture
 * @property {number} least    width of the narrowest picture
 */

const LINE = 56; // height of the line, in pixels
const MOST = 1.5; // times `target` that a full row may be high

/**
 * Lay pictures out in rows.
 * @param {readonly number[]} ratios  width over height of each picture
 * @param {Measures} measures
 * @param {number | null} [lineAt]    place of the picture before which the line stands
 * @returns {Layout}
 */
export function justify(ratios, { width, target, gap, caption, least }, lineAt = null) {
  /** @type {Layout} */
  const layout = { rows: [], left: [], width: [], line: null, height: 0 };
  let top = 0;
  let first = 0;
  while (first < ratios.length) {
    if (first === lineAt) {
      layout.line = top;
      top += LINE;
    }
    const stop = lineAt !== null && first < lineAt ? lineAt : ratios.length;
    const end = endOfRow(ratios, first, stop, width, target, gap);
    const height = heightOfRow(ratios, first, end, width, target, gap);
    layout.rows.push({ first, end, top, height });
    let left = 0;
    for (let i = first; i < end; i++) {
      const across = Math.min(width, Math.max(least, ratios[i] * height));
      layout.left.push(left);
      layout.width.push(across);
      left += across + gap;
    }
    fitWidths(layout.left, layout.width, first, end, width, gap);
    top += height + caption + gap;
    first = end;
  }
  if (lineAt !== null && lineAt === ratios.length && lineAt > 0) {
    layout.line = top;
    top += LINE;
  }
  layout.height = top;
  return layout;
}

/**
 * The place of the first row that ends below `y`, or the number of rows.
 * @param {readonly Row[]} rows
 * @param {number} y
 */
export function rowAt(rows, y) {
  let [low, high] = [0, rows.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    const bottom = middle + 1 < rows.length ? rows[middle + 1].top : Infinity;
    if (bottom > y) high = middle;
    else low = middle + 1;
  }
  return low;
}

/**
 * Where a row ends: where its height comes closest to the target.
 * @param {readonly number[]} ratios
 * @param {number} first
 * @param {number} stop
 * @param {number} width
 * @param {number} target
 * @param {number} gap
 */
function endOfRow(ratios, first, stop, width, target, gap) {
  let sum = 0;
  for (let end = first; end < stop; end++) {
    const before = (width - gap * (end - first - 1)) / sum;
    sum += ratios[end];
    const after = (width - gap * (end - first)) / sum;
    if (after > target) continue;
    const isLess = end > first && before / target < target / after && before < MOST * target;
    return isLess ? end : end + 1;
  }
  return stop;
}

/**
 * The height at which a row is full; the target, if it would be much higher.
 * @param {readonly number[]} ratios
 * @param {number} first
 * @param {number} end
 * @param {number} width
 * @param {number} target
 * @param {number} gap
 */
function heightOfRow(ratios, first, end, width, target, gap) {
  let sum = 0;
  for (let i = first; i < end; i++) sum += ratios[i];
  const full = (width - gap * (end - first - 1)) / sum;
  const isLast = full > MOST * target || (end === ratios.length && full > 1.15 * target);
  return Math.round(isLast ? target : full);
}

/**
 * Make a row that is too wide for its narrowest pictures as wide as the grid.
 * @param {number[]} left
 * @param {number[]} widths
 * @param {number} first
 * @param {number} end
 * @param {number} width
 * @param {number} gap
 */
function fitWidths(left, widths, first, end, width, gap) {
  const all = left[end - 1] + widths[end - 1];
  if (all <= width + 1) return;
  const scale = (width - gap * (end - first - 1)) / (all - gap * (end - first - 1));
  let x = 0;
  for (let i = first; i < end; i++) {
    widths[i] *= scale;
    left[i] = x;
    x += widths[i] + gap;
  }
}
