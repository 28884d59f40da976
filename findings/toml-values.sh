#!/usr/bin/env bash
# One valid TOML file: the same text has three different values, and one parser loses the rest without a word.
#
# Versions: Python 3.11's tomllib; PyPI tomli 2.5.0, tomlkit 0.15.2, rtoml 0.14.0 (Rust's toml), toml 0.10.2;
#   npm smol-toml 1.9.1, @iarna/toml 3.0.0, toml 5.0.1.
# Guess: valid TOML has one value; only numbers beyond JavaScript's range and parsers of TOML 0.5 differ.
# Seen (below):
#   - a multi-line string in a file with Windows line ends: "\n" for tomllib, tomli and npm toml, "\r\n" for tomlkit,
#     rtoml, smol-toml and @iarna/toml. PyPI toml ends there: that key and all behind it are gone, without an error;
#   - what TOML 1.1 brought (inline tables over several lines, \e, \x41, times without seconds) is taken by tomli,
#     tomlkit, rtoml, smol-toml and npm toml, and is an error for Python 3.11's own tomllib, PyPI toml and @iarna/toml:
#     five of eight read what the standard library beside them refuses;
#   - a size of 2^53 + 1 is an error for smol-toml and npm toml (before, npm's toml rounded it).
# Why it matters: configuration of mirrors and clients (hosts.toml, registries.conf, buildkitd.toml, and ours) is
#   written and checked by tools of another language than the program's. Stay within TOML 1.0, \n ends, and no
#   multi-line strings; do not take "it parses here" for a proof.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv py
py/bin/pip install -q tomli==2.5.0 tomlkit==0.15.2 rtoml==0.14.0 toml==0.10.2
npm install --silent --no-fund --no-audit smol-toml@1.9.1 @iarna/toml@3.0.0 toml-npm@npm:toml@5.0.1

printf 'a = 1\r\nreason = """one\r\ntwo"""\r\nz = 2\r\n' >crlf.toml
printf 'mirror = {\n  host = "m.example",\n  port = 5000,\n}\n' >inline.toml
printf 'colour = "\\e[1m\\x41"\n' >escape.toml
printf 'at = 07:30\n' >time.toml
printf 'size = 9007199254740993\n' >big.toml
cat >values.py <<'PY'
import glob, json, tomllib
import rtoml, toml, tomli, tomlkit
parsers = {"tomllib": tomllib.loads, "tomli": tomli.loads, "tomlkit": lambda text: tomlkit.parse(text).unwrap(),
           "rtoml": rtoml.loads, "PyPI-toml": toml.loads}
for path in sorted(glob.glob("*.toml")):
    text = open(path, newline="").read()
    for name, parse in parsers.items():
        try:
            value = json.dumps(parse(text), default=str, separators=(",", ":"))
        except Exception:
            value = "refused"
        print(path, value, name)
PY
cat >values.mjs <<'JS'
import { readFileSync } from 'node:fs';
import iarna from '@iarna/toml';
import npm from 'toml-npm';
import { parse } from 'smol-toml';
const parsers = { 'smol-toml': parse, '@iarna/toml': iarna.parse, 'npm-toml': npm.parse };
for (const path of ['big.toml', 'crlf.toml', 'escape.toml', 'inline.toml', 'time.toml']) {
  for (const [name, read] of Object.entries(parsers)) {
    let value = 'refused';
    try {
      value = JSON.stringify(read(readFileSync(path, 'utf8')), (_, v) => (typeof v === 'bigint' ? Number(v) === v ? v : `BigInt ${v}` : v));
    } catch {}
    console.log(path, value.replace('07:30:00.000', '07:30:00'), name);
  }
}
JS
# One line for each value, with all who read it so.
{ py/bin/python values.py && node values.mjs; } | awk '{ key = $0; sub(/ [^ ]+$/, "", key); who[key] = who[key] " " $NF }
    END { for (key in who) print key " <-" who[key] }' | LC_ALL=C sort >seen
cat seen
diff - seen <<'SEEN'
big.toml refused <- smol-toml npm-toml
big.toml {"size":"BigInt 9007199254740993"} <- @iarna/toml
big.toml {"size":9007199254740993} <- tomllib tomli tomlkit rtoml PyPI-toml
crlf.toml {"a":1,"reason":"one\ntwo","z":2} <- tomllib tomli npm-toml
crlf.toml {"a":1,"reason":"one\r\ntwo","z":2} <- tomlkit rtoml smol-toml @iarna/toml
crlf.toml {"a":1} <- PyPI-toml
escape.toml refused <- tomllib PyPI-toml @iarna/toml
escape.toml {"colour":"\u001b[1mA"} <- tomli tomlkit rtoml smol-toml npm-toml
inline.toml refused <- tomllib PyPI-toml @iarna/toml
inline.toml {"mirror":{"host":"m.example","port":5000}} <- tomli tomlkit rtoml smol-toml npm-toml
time.toml refused <- tomllib PyPI-toml @iarna/toml
time.toml {"at":"07:30:00"} <- tomli tomlkit rtoml smol-toml npm-toml
SEEN
