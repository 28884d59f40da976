#!/usr/bin/env bash
# A layer of several compressed frames: many ways to read it give the first file and no error.
#
# Versions: PyPI zstandard 0.25.0, backports.zstd 1.8.0, pyzstd 0.20.0 (Python 3.11's own gzip and zlib);
#   npm fzstd 0.1.1, fflate 0.8.3, pako 3.0.3 (Node 20's own zlib).
# Guess: zstandard's readers stop after the first frame, all of them; whole-file functions of other libraries read all,
#   or fail; a browser's DecompressionStream refuses a second gzip member.
# Seen (below; each input holds 3,000 bytes in three frames, and zstd ends with a frame to be skipped):
#   - within zstandard, three ways read all and three stop after the first frame; decompress() is an error instead if
#     the frames do not state their size;
#   - the "one-shot" forms are the ones that lose data: zstandard.decompress, zlib.decompress, fflate.gunzipSync;
#   - streaming fflate reads all three members, its own one-shot form one; Node's DecompressionStream reads all.
# Why it matters: zstd:chunked (podman push) writes each file of a layer as a frame of its own, estargz and pigz write
#   gzip in members. Tools that look into layers with the short call see one file, take the rest for absent, and no
#   digest fails, since the compressed bytes are right. Use: stream_reader, copy_stream, gzip.decompress, fzstd, pako.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv py
py/bin/pip install -q zstandard==0.25.0 backports.zstd==1.8.0 pyzstd==0.20.0
npm install --silent --no-fund --no-audit fzstd@0.1.1 fflate@0.8.3 pako@3.0.3

cat >frames.py <<'PY'
import gzip, io, struct, zlib
import pyzstd, zstandard
from backports import zstd
parts = [letter * 1000 for letter in (b"a", b"b", b"c")]
skipped = struct.pack("<II", 0x184D2A50, 3) + b"toc"
def unsized(part):
    out = zstandard.ZstdCompressor().compressobj()
    return out.compress(part) + out.flush()
sized = zstandard.ZstdCompressor().compress
def into(call):
    out = io.BytesIO()
    call(out)
    return out.getvalue()
ways = {
    "zstandard.decompress": zstandard.decompress,
    "zstandard decompressobj": lambda d: zstandard.ZstdDecompressor().decompressobj().decompress(d),
    "zstandard read_to_iter": lambda d: b"".join(zstandard.ZstdDecompressor().read_to_iter(io.BytesIO(d))),
    "zstandard stream_reader": lambda d: zstandard.ZstdDecompressor().stream_reader(io.BytesIO(d)).read(),
    "zstandard copy_stream": lambda d: into(lambda o: zstandard.ZstdDecompressor().copy_stream(io.BytesIO(d), o)),
    "zstandard stream_writer": lambda d: into(lambda o: zstandard.ZstdDecompressor().stream_writer(o, closefd=False).write(d)),
    "backports.zstd.decompress": zstd.decompress,
    "backports ZstdDecompressor": lambda d: zstd.ZstdDecompressor().decompress(d),
    "pyzstd.decompress": pyzstd.decompress,
}
def length(read, data):
    try:
        return len(read(data))
    except zstandard.ZstdError as error:
        return error
stated, data = (b"".join(map(frame, parts)) + skipped for frame in (sized, unsized))
for way, read in ways.items():
    print(f"zstd: {way}: {length(read, stated)}, and without sizes: {length(read, data)}")
open("zstd", "wb").write(data)
data = b"".join(map(gzip.compress, parts))
open("gzip", "wb").write(data)
print("gzip: gzip.decompress:", len(gzip.decompress(data)))
print("gzip: zlib.decompress:", len(zlib.decompress(data, 31)))
PY
cat >frames.mjs <<'JS'
import { readFileSync } from 'node:fs';
import { gunzipSync } from 'node:zlib';
import * as fflate from 'fflate';
import { decompress } from 'fzstd';
import * as pako from 'pako';
const data = readFileSync('gzip');
let streamed = 0;
new fflate.Gunzip(chunk => { streamed += chunk.length; }).push(data, true);
console.log('zstd: fzstd.decompress without sizes:', decompress(readFileSync('zstd')).length);
console.log('gzip: fflate.gunzipSync:', fflate.gunzipSync(data).length);
console.log('gzip: fflate Gunzip:', streamed);
console.log('gzip: pako.ungzip:', pako.ungzip(data).length);
console.log('gzip: node gunzipSync:', gunzipSync(data).length);
const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream('gzip'));
console.log('gzip: DecompressionStream:', (await new Response(stream).arrayBuffer()).byteLength);
JS
{ py/bin/python frames.py && node frames.mjs; } >seen
cat seen
diff - seen <<'SEEN'
zstd: zstandard.decompress: 1000, and without sizes: could not determine content size in frame header
zstd: zstandard decompressobj: 1000, and without sizes: 1000
zstd: zstandard read_to_iter: 1000, and without sizes: 1000
zstd: zstandard stream_reader: 3000, and without sizes: 3000
zstd: zstandard copy_stream: 3000, and without sizes: 3000
zstd: zstandard stream_writer: 3000, and without sizes: 3000
zstd: backports.zstd.decompress: 3000, and without sizes: 3000
zstd: backports ZstdDecompressor: 1000, and without sizes: 1000
zstd: pyzstd.decompress: 3000, and without sizes: 3000
gzip: gzip.decompress: 3000
gzip: zlib.decompress: 1000
zstd: fzstd.decompress without sizes: 3000
gzip: fflate.gunzipSync: 1000
gzip: fflate Gunzip: 3000
gzip: pako.ungzip: 3000
gzip: node gunzipSync: 3000
gzip: DecompressionStream: 3000
SEEN
