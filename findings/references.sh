#!/usr/bin/env bash
# One valid image reference, read by eight libraries: they do not agree on the registry.
#
# Versions: PyPI docker-image-py 0.2.0, docker 7.2.0, oras 0.2.43, docker-registry-client-async 1.0.3, crpy 0.4.0;
#   npm docker-parse-image 3.0.1, @swimlane/docker-reference 2.0.1, parse-docker-image-name 3.0.0.
# Guess: all of them follow Docker's rule: the first part is a host if it has a dot or a colon or is "localhost",
#   and "library/" is added on Docker Hub alone.
# Seen (the table below; "hub" is Docker Hub):
#   - four libraries send localhost/app:1 to Docker Hub, as the user "localhost";
#   - docker-registry-client-async and docker-parse-image put library/ before the name at EVERY registry;
#   - docker-parse-image takes everything behind the first colon of host:5000/a/b/c:1 for the tag, and asks
#     Docker Hub for an image named after the host;
#   - crpy cuts a digest behind a tag down to the word "sha256", and asks for the tag "1.0@sha256";
#   - docker-py takes app:1.0 for the name when a digest follows; oras does not add "library/" at Docker Hub.
# Why it matters: a mirror on localhost without a port is never asked, a name that works at Docker Hub is
#   "not found" at a private registry, and a pin by digest is lost. Write host:port, two parts and a digest alone.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv py
py/bin/pip install -q docker-image-py==0.2.0 docker==7.2.0 oras==0.2.43 docker-registry-client-async==1.0.3 crpy==0.4.0
npm install --silent --no-fund --no-audit docker-parse-image@3.0.1 @swimlane/docker-reference@2.0.1 parse-docker-image-name@3.0.0

cat >refs.py <<'PY'
import sys
import docker.auth, docker.utils, oras.container
from crpy.registry import RegistryInfo
from docker_image import reference
from docker_registry_client_async import ImageName

def image_py(ref):
    name = reference.Reference.parse_normalized_named(ref)
    return *name.split_hostname(), name.get("tag"), name.get("digest")

def docker_py(ref):
    name, tag = docker.utils.parse_repository_tag(ref)
    return *docker.auth.resolve_repository_name(name), tag, None

def oras_py(ref):
    c = oras.container.Container(ref)
    return c.registry, "/".join(filter(None, (c.namespace, c.repository))), c.tag, c.digest

def async_client(ref):
    i = ImageName.parse(ref)
    return i.resolve_endpoint(), i.resolve_image(), i.resolve_tag(), i.digest

for ref in sys.argv[1:]:
    for f in image_py, docker_py, oras_py, async_client:
        print(f.__name__, ref, *(str(x or "-") for x in f(ref)))
    print("crpy", ref, RegistryInfo.from_url(ref))
PY
cat >refs.js <<'JS'
const parse = require('docker-parse-image'), swim = require('@swimlane/docker-reference');
const pdin = require('parse-docker-image-name'), name = pdin.default || pdin.parseDockerImageName || pdin;
for (const ref of process.argv.slice(2)) {
  const p = parse(ref), s = swim.parseQualifiedName(ref), d = name(ref), row = (...x) => console.log(...x.map(v => v || '-'));
  row('docker-parse-image', ref, p.registry, p.fullname);
  row('swimlane', ref, s._domain, s._repository, s._tag, s._digest);
  row('parse-docker-image-name', ref, d.domain, d.path, d.tag, d.digest);
}
JS
digest=sha256:$(printf '%064d' 7)
refs=(localhost/app:1 reg.example:5000/app reg.example:5000/a/b/c:1 "app:1.0@$digest")
{ py/bin/python refs.py "${refs[@]}"; node refs.js "${refs[@]}"; } 2>err.log |
    sed -e "s/$digest/DIGEST/g; s/index.docker.io/hub/g; s/docker.io/hub/g" >all || { cat err.log; exit 1; }
# One line for each library: what it makes of the four, in their order: registry, name, tag, digest.
awk '{ who = $1; $1 = $2 = ""; if (!(who in row)) order[++n] = who; row[who] = row[who] " |" substr($0, 2) }
    END { for (i = 1; i <= n; i++) print order[i] row[order[i]] }' all >seen
cat seen
diff - seen <<'SEEN'
image_py | localhost app 1 - | reg.example:5000 app - - | reg.example:5000 a/b/c 1 - | hub library/app 1.0 DIGEST
docker_py | localhost app 1 - | reg.example:5000 app - - | reg.example:5000 a/b/c 1 - | hub app:1.0 DIGEST -
oras_py | hub localhost/app 1 - | reg.example:5000 app latest - | reg.example:5000 a/b/c 1 - | hub app 1.0 DIGEST
async_client | hub localhost/app 1 - | reg.example:5000 library/app latest - | reg.example:5000 a/b/c 1 - | hub library/app 1.0 DIGEST
crpy | hub/localhost/app:1 | reg.example:5000/app:latest | reg.example:5000/a/b/c:1 | hub/library/app:1.0@sha256
docker-parse-image | - localhost/app:1 | reg.example:5000 reg.example:5000/library/app:latest | - library/reg.example:5000/a/b/c:1 | - library/app:1.0@DIGEST
swimlane | localhost app 1 - | reg.example:5000 app - - | reg.example:5000 a/b/c 1 - | - app 1.0 DIGEST
parse-docker-image-name | localhost app 1 - | reg.example:5000 app - - | reg.example:5000 a/b/c 1 - | - app 1.0 DIGEST
SEEN
