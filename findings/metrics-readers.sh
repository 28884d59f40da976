#!/usr/bin/env bash
# A metrics page read back: one library loses the labels of histograms, another renames counters.
#
# Versions: PyPI prometheus-client 0.26.0 (its parser); npm parse-prometheus-text-format 1.1.1. Text format 0.0.4.
# Guess: both give back the samples that are on the page.
# Seen (below):
#   - npm: a histogram with labels becomes ONE histogram without labels: of two registries the last one's buckets stay,
#     and sum and count are gone. Without labels it is read rightly;
#   - Python: a counter pulls is given back as pulls_total, and a page that has pulls and pulls_total gives two families
#     of one name, told apart by nothing. npm leaves the names as they are.
# Why it matters: dashboards and tests of mirrors read /metrics with these. A program that writes metrics is read alike
#   by both if its counters end in _total and its histograms have no labels; labelled histograms need another reader in Node.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv py
py/bin/pip install -q prometheus-client==0.26.0
npm install --silent --no-fund --no-audit parse-prometheus-text-format@1.1.1

cat >page <<'TEXT'
# TYPE wait histogram
wait_bucket{registry="a",le="1"} 2
wait_bucket{registry="a",le="+Inf"} 3
wait_sum{registry="a"} 4.5
wait_count{registry="a"} 3
wait_bucket{registry="b",le="1"} 70
wait_bucket{registry="b",le="+Inf"} 90
wait_sum{registry="b"} 80
wait_count{registry="b"} 90
# TYPE plain histogram
plain_bucket{le="1"} 2
plain_bucket{le="+Inf"} 3
plain_sum 4.5
plain_count 3
# TYPE pulls counter
pulls{registry="a"} 7
# TYPE pulls_total counter
pulls_total 8
TEXT
cat >read.py <<'PY'
from prometheus_client.parser import text_string_to_metric_families as read
for family in read(open("page").read()):
    print("python", family.name, [(s.name, s.labels, s.value) for s in family.samples if s.labels.get("registry") != "b"])
PY
cat >read.mjs <<'JS'
import { readFileSync } from 'node:fs';
import module from 'parse-prometheus-text-format';
const read = module.default ?? module;
for (const family of read(readFileSync('page', 'utf8'))) console.log('npm', family.name, JSON.stringify(family.metrics));
JS
{ py/bin/python read.py && node read.mjs; } >seen
cat seen
diff - seen <<'SEEN'
python wait [('wait_bucket', {'registry': 'a', 'le': '1'}, 2), ('wait_bucket', {'registry': 'a', 'le': '+Inf'}, 3), ('wait_sum', {'registry': 'a'}, 4.5), ('wait_count', {'registry': 'a'}, 3)]
python plain [('plain_bucket', {'le': '1'}, 2), ('plain_bucket', {'le': '+Inf'}, 3), ('plain_sum', {}, 4.5), ('plain_count', {}, 3)]
python pulls [('pulls_total', {'registry': 'a'}, 7)]
python pulls [('pulls_total', {}, 8)]
npm wait [{"buckets":{"1":"70","+Inf":"90"}}]
npm plain [{"buckets":{"1":"2","+Inf":"3"},"count":"3","sum":"4.5"}]
npm pulls [{"value":"7","labels":{"registry":"a"}}]
npm pulls_total [{"value":"8"}]
SEEN
