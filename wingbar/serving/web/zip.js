// A ZIP file of pictures, which are compressed already and are stored as they are (APPNOTE 6.3).

const UTF8 = 0x0800; // names are UTF-8
const VERSION = 20; // 2.0
const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

/**
 * A ZIP file. Equal names get a number.
 * @param {{ name: string, data: Uint8Array }[]} files
 * @returns {Uint8Array}
 */
export function zipOf(files) {
  const names = distinct(
    files.map(({ name }) => name.replace(/[\\/:*?"<>|\0]/g, "_") || "picture"),
  );
  /** @type {Uint8Array[]} */
  const parts = [];
  /** @type {Uint8Array[]} */
  const directory = [];
  let offset = 0;
  for (const [i, { data }] of files.entries()) {
    const name = new TextEncoder().encode(names[i]);
    const rest = [UTF8, 0, 0, 0x21, crc32(data), data.length, data.length, name.length, 0];
    const sizes = [2, 2, 2, 2, 4, 4, 4, 2, 2]; // method, time and date (1980-01-01), ...
    const local = pack([0x04034b50, VERSION, ...rest], [4, 2, ...sizes]);
    parts.push(local, name, data);
    const central = [0x02014b50, VERSION, VERSION, ...rest, 0, 0, 0, 0, offset];
    directory.push(pack(central, [4, 2, 2, ...sizes, 2, 2, 2, 4, 4]), name);
    offset += local.length + name.length + data.length;
  }
  const length = directory.reduce((sum, part) => sum + part.length, 0);
  const end = [0x06054b50, 0, 0, files.length, files.length, length, offset, 0];
  return joined([...parts, ...directory, pack(end, [4, 2, 2, 2, 2, 4, 4, 2])]);
}

/** Names of which none occurs twice. @param {string[]} names */
function distinct(names) {
  const used = new Set();
  return names.map((name) => {
    const [, stem, ending] = /** @type {RegExpExecArray} */ (/^(.*?)(\.[^.]*)?$/s.exec(name));
    let one = name;
    for (let n = 2; used.has(one.toLowerCase()); n++) one = `${stem} (${n})${ending ?? ""}`;
    used.add(one.toLowerCase());
    return one;
  });
}

/** Numbers of 2 or 4 bytes each, the lowest byte first. @param {number[]} values @param {number[]} sizes */
function pack(values, sizes) {
  const view = new DataView(new ArrayBuffer(sizes.reduce((sum, size) => sum + size, 0)));
  let at = 0;
  for (const [i, size] of sizes.entries()) {
    if (size === 2) view.setUint16(at, values[i], true);
    else view.setUint32(at, values[i], true);
    at += size;
  }
  return new Uint8Array(view.buffer);
}

/** @param {Uint8Array[]} parts */
function joined(parts) {
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** @param {Uint8Array} data */
function crc32(data) {
  let crc = -1;
  for (const byte of data) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ -1) >>> 0;
}
