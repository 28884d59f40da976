#!/usr/bin/env bash
# ~/.docker/config.json in Python: the SDK's rules are the reverse of Docker's own, and oras has rules of its own.
#
# Versions: PyPI docker 7.2.0 (docker-py), oras 0.2.43.
# Guess: both follow the docker command: a credential helper comes before "auths", "not found" from it means no
#   credentials, a broken one falls back to "auths"; a damaged entry hurts itself alone; the key that `docker login`
#   writes for Docker Hub is found.
# Seen (table below):
#   - docker-py turns both rules round: "not found" (or empty fields) sends the old plain entry, a broken helper is an error;
#   - oras asks no helper while a plain entry is there, however old; a helper's empty fields become the login ":";
#   - one damaged or null entry of ANOTHER registry takes all credentials away from docker-py; oras does not mind;
#   - oras finds an entry only under the exact host: https://host is not found, and so is https://index.docker.io/v1/,
#     the one key that `docker login` writes for Docker Hub: its pulls there are always anonymous;
#   - with an identity token oras shows the user name and an empty password, docker-py the token.
# Why it matters: after a change of password, helper or store the same file gives three different logins; pulls that
#   count as anonymous meet the rate limit. A reader of this file must say which rules it follows.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv py
py/bin/pip install -q docker==7.2.0 oras==0.2.43
mkdir bin
helper() { printf '#!/bin/sh\nread -r server\n%s\n' "$2" >"bin/docker-credential-$1" && chmod +x "bin/docker-credential-$1"; }
# shellcheck disable=SC2016
helper good 'echo "{\"ServerURL\":\"$server\",\"Username\":\"helper\",\"Secret\":\"h\"}"'
helper none 'echo "credentials not found in native keychain"; exit 1'
# shellcheck disable=SC2016
helper empty 'echo "{\"ServerURL\":\"$server\",\"Username\":\"\",\"Secret\":\"\"}"'
helper broken 'echo "the vault is sealed"; exit 1'
export PATH="$tmp/bin:$PATH" HOME="$tmp/home" DOCKER_CONFIG="$tmp/none"

cat >read.py <<'PY'
import base64, json, logging
import docker.auth
from oras.auth.basic import BasicAuth
from oras.container import Container
logging.disable()
code = lambda text: base64.b64encode(text.encode()).decode()
HOST, HUB = "reg.example:5000", "https://index.docker.io/v1/"
plain = {"auths": {HOST: {"auth": code("plain:p")}}}
beside = lambda entry: {"auths": {"other.example": entry, **plain["auths"]}}
cases = {
    "plain entry": (plain, HOST),
    "key https://HOST": ({"auths": {"https://" + HOST: {"auth": code("plain:p")}}}, HOST),
    "Docker Hub's key": ({"auths": {HUB: {"auth": code("plain:p")}}}, "docker.io"),
    "identity token": ({"auths": {HOST: {"auth": code("plain:"), "identitytoken": "T"}}}, HOST),
    "other entry damaged": (beside({"auth": code("no colon")}), HOST),
    "other entry null": (beside(None), HOST),
    "other entry empty": (beside({}), HOST),
    **{f"plain + helper {h}": ({**plain, "credHelpers": {HOST: h}}, HOST) for h in ("good", "none", "empty", "broken")},
    **{f"helper {h} alone": ({"credHelpers": {HOST: h}}, HOST) for h in ("good", "none", "empty", "broken")},
}
def sdk(path, host):
    found = docker.auth.load_config(path).resolve_authconfig(host) or {}
    found = {k.lower(): v for k, v in found.items()}
    if found.get("identitytoken"): return "token " + found["identitytoken"]
    return f"{found.get('username')}:{found.get('password')}" if found.get("username") else "anonymous"
def oras(path, host):
    auth = BasicAuth()
    auth.load_configs(Container(host + "/team/app:1"), configs=[path])
    basic = getattr(auth, "_basic_auth", None)
    return base64.b64decode(basic).decode() if basic else "anonymous"
print("config;docker-py;oras")
for name, (config, host) in cases.items():
    json.dump(config, open("config.json", "w"))
    row = []
    for reader in sdk, oras:
        try:
            row.append(reader("config.json", host))
        except Exception as error:
            row.append(type(error).__name__)
    print(name, *row, sep=";")
PY
py/bin/python read.py | column -ts';' >seen
cat seen
diff -b - seen <<'SEEN'
config                 docker-py          oras
plain entry            plain:p            plain:p
key https://HOST       plain:p            anonymous
Docker Hub's key       plain:p            anonymous
identity token         token T            plain:
other entry damaged    ValueError         plain:p
other entry null       InvalidConfigFile  plain:p
other entry empty      plain:p            plain:p
plain + helper good    helper:h           plain:p
plain + helper none    plain:p            plain:p
plain + helper empty   plain:p            plain:p
plain + helper broken  DockerException    plain:p
helper good alone      helper:h           helper:h
helper none alone      anonymous          anonymous
helper empty alone     anonymous          :
helper broken alone    DockerException    anonymous
SEEN
