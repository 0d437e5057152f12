// Reads `.npy` files (format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html) as typed arrays.

const half = globalThis.Float16Array ?? Uint16Array;

// numpy's type -> [onnxruntime-web's name, array]. One-byte types have no byte order.
const TYPES = {
  "<f2": ["float16", half], "<f4": ["float32", Float32Array], "<f8": ["float64", Float64Array],
  "|i1": ["int8", Int8Array], "|u1": ["uint8", Uint8Array], "|b1": ["bool", Uint8Array],
  "<i2": ["int16", Int16Array], "<u2": ["uint16", Uint16Array], "<i4": ["int32", Int32Array], "<u4": ["uint32", Uint32Array],
  "<i8": ["int64", BigInt64Array], "<u8": ["uint64", BigUint64Array],
};

export function readNpy(buffer, name) {
  const bytes = new Uint8Array(buffer);
  if (bytes.length < 12 || String.fromCharCode(...bytes.subarray(1, 6)) !== "NUMPY") throw new Error(`input ${name} is no .npy file`);
  const view = new DataView(buffer);
  const wide = bytes[6] > 1;  // version 1 writes the header's length in two bytes, later ones in four
  const start = wide ? 12 : 10;
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder().decode(bytes.subarray(start, start + length));
  const descr = /'descr': '([^']+)'/.exec(header)?.[1];
  const shape = /'shape': \(([^)]*)\)/.exec(header)?.[1].split(",").filter((size) => size.trim()).map(Number);
  if (!(descr in TYPES) || !shape?.length || !header.includes("'fortran_order': False")) throw new Error(`input ${name} has a form that this page does not read: ${header.trim()}`);
  const [type, Kind] = TYPES[descr];
  const row = shape.slice(1).reduce((product, size) => product * size, 1);
  // A copy, so that the data is aligned.
  const data = new Kind(buffer.slice(start + length, start + length + shape[0] * row * Kind.BYTES_PER_ELEMENT));
  return { type, data, rows: shape[0], row, inner: shape.slice(1) };
}

// Rows [first, first + batch) as data of their own; where fewer are left, filled up with the last one if `fill`. Returns [data, dims, rows that count].
export function batchOf(input, first, batch, fill) {
  const count = Math.min(batch, input.rows - first);
  const size = fill ? batch : count;
  const data = new input.data.constructor(size * input.row);
  data.set(input.data.subarray(first * input.row, (first + count) * input.row));
  const last = input.data.subarray((first + count - 1) * input.row, (first + count) * input.row);
  for (let index = count; index < size; index++) data.set(last, index * input.row);
  return [data, [size, ...input.inner], count];
}
