"use strict";

// The packed numbers of the page: base64 to bytes, and bytes to arrays.

/** Decode base64 to bytes. */
function bytesOf(text) {
  const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const values = new Uint8Array(128);
  for (let i = 0; i < 64; i++) values[alphabet.charCodeAt(i)] = i;
  const end = text.length - (text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0);
  const bytes = new Uint8Array(Math.floor((end * 3) / 4));
  let bits = 0, word = 0, at = 0;
  for (let i = 0; i < end; i++) {
    word = (word << 6) | values[text.charCodeAt(i)];
    bits += 6;
    if (bits >= 8) { bits -= 8; bytes[at++] = (word >> bits) & 255; word &= (1 << bits) - 1; }
  }
  return bytes;
}

/** The number of an IEEE half-precision pattern. */
function half(pattern) {
  const exponent = (pattern >> 10) & 31, fraction = pattern & 1023, sign = pattern & 32768 ? -1 : 1;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Replace every [kind, start, size] of a description by its numbers. */
function unpacked(value, bytes) {
  if (Array.isArray(value) && value.length === 3 && ["f2", "f4", "u1", "b1"].includes(value[0])) {
    return numbers(value, bytes);
  }
  if (Array.isArray(value)) return value.map((entry) => unpacked(entry, bytes));
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, unpacked(entry, bytes)]));
}

function numbers([kind, start, size], bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset + start);
  const read = {
    f2: (i) => half(view.getUint16(2 * i, true)),
    f4: (i) => view.getFloat32(4 * i, true),
    u1: (i) => view.getUint8(i),
    b1: (i) => (view.getUint8(i >> 3) >> (7 - (i & 7))) & 1,
  }[kind];
  const array = kind === "u1" || kind === "b1" ? new Uint8Array(size) : new Float32Array(size);
  for (let i = 0; i < size; i++) array[i] = read(i);
  return array;
}
