#!/usr/bin/env bash
# One key of a new kind in an issuer's JWKS: some libraries lose the whole set, also the RSA key that signed the token.
#
# Versions: crates jsonwebtoken 10.4.0 and 11.1.0; PyPI pyjwt 2.15.1, joserfc 1.8.0, authlib 1.9.6, jwcrypto 1.6.1,
#   python-jose 3.5.0; npm jose 6.2.17, jwks-rsa 4.1.0.
# Guess: RFC 7517 section 5 says that keys which are not understood should be ignored, so all Python and npm libraries do
#   that, but for authlib; Rust's jsonwebtoken, whose set is one typed struct, fails as a whole, in each version.
# Seen (below: is a token signed with the set's RSA key still verified, or its key still found, when one more key is there):
#   - jsonwebtoken 10 loses the set for every key that it has no type for: ML-DSA (kty AKP), secp256k1, brainpool, and also
#     X25519, which is only there for encryption. jsonwebtoken 11 keeps such a key as "Other" and goes on;
#   - joserfc skips an unknown kty, but ends with KeyError at an unknown curve;
#   - authlib's JsonWebKey.import_key_set ends with KeyError at an unknown kty; given the same set as a dict, its decode works;
#   - the others verify the token in each case.
# Why it matters: issuers (CI systems, Kubernetes, identity providers) add keys of new kinds beside the old ones; with such a
#   reader all logins fail from that minute on. A verifier should keep its last good set, and be tested with a set that holds
#   a key of tomorrow.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
python3 -m venv py
py/bin/pip install -q cryptography==50.0.2 pyjwt==2.15.1 joserfc==1.8.0 authlib==1.9.6 jwcrypto==1.6.1 python-jose==3.5.0
npm install --silent --no-fund --no-audit jose@6.2.17 jwks-rsa@4.1.0 jsonwebtoken@9.0.3
mkdir -p rust/src
cat >rust/Cargo.toml <<'TOML'
[package]
name = "sets"
edition = "2021"
[dependencies]
ten = { package = "jsonwebtoken", version = "=10.4.0", default-features = false }
eleven = { package = "jsonwebtoken", version = "=11.1.0", default-features = false }
serde_json = "1"
TOML
cat >rust/src/main.rs <<'RS'
fn main() {
    let sets: serde_json::Value = serde_json::from_str(&std::fs::read_to_string("sets.json").unwrap()).unwrap();
    for (added, set) in sets["sets"].as_object().unwrap() {
        let ten = serde_json::from_value::<ten::jwk::JwkSet>(set.clone()).is_ok_and(|set| set.find("rsa").is_some());
        let eleven = serde_json::from_value::<eleven::jwk::JwkSet>(set.clone()).is_ok_and(|set| set.find("rsa").is_some());
        for (name, found) in [("jsonwebtoken-10", ten), ("jsonwebtoken-11", eleven)] {
            println!("{added} {} {name}", if found { "ok" } else { "LOST" });
        }
    }
}
RS
cargo build -q --manifest-path rust/Cargo.toml

cat >sets.py <<'PY'
import base64, json, time
import jwt as pyjwt
from authlib.jose import JsonWebKey, jwt as authlib_jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet
from jose import jwt as python_jose
from jwcrypto import jwk as jwcrypto_jwk, jwt as jwcrypto_jwt
text = lambda raw: base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
def curve(curve, name):
    point = ec.generate_private_key(curve).public_key().public_numbers()
    return {"kty": "EC", "crv": name, "x": text(point.x.to_bytes(32, "big")), "y": text(point.y.to_bytes(32, "big"))}
private = rsa.generate_private_key(65537, 2048)
modulus = private.public_key().public_numbers().n
signer = {"kty": "RSA", "kid": "rsa", "use": "sig", "alg": "RS256", "n": text(modulus.to_bytes(256, "big")), "e": "AQAB"}
added = {"nothing": None, "ML-DSA": {"kty": "AKP", "alg": "ML-DSA-44", "pub": text(bytes(1312))}, "unknown-kty": {"kty": "NEW"},
         "secp256k1": curve(ec.SECP256K1(), "secp256k1"), "brainpool": curve(ec.BrainpoolP256R1(), "BP-256"),
         "X25519": {"kty": "OKP", "crv": "X25519", "use": "enc", "x": text(x25519.X25519PrivateKey.generate().public_key().public_bytes_raw())}}
sets = {name: {"keys": [signer] + ([key | {"kid": "new"}] if key else [])} for name, key in added.items()}
token = pyjwt.encode({"sub": "ci", "exp": int(time.time()) + 600}, private, "RS256", headers={"kid": "rsa"})
json.dump({"sets": sets, "token": token}, open("sets.json", "w"))
readers = {
    "pyjwt": lambda s: pyjwt.decode(token, pyjwt.PyJWKSet.from_dict(s)["rsa"], algorithms=["RS256"]),
    "joserfc": lambda s: joserfc_jwt.decode(token, KeySet.import_key_set(s)),
    "authlib,import_key_set": lambda s: authlib_jwt.decode(token, JsonWebKey.import_key_set(s)),
    "authlib,dict": lambda s: authlib_jwt.decode(token, s),
    "jwcrypto": lambda s: jwcrypto_jwt.JWT(jwt=token, key=jwcrypto_jwk.JWKSet.from_json(json.dumps(s))),
    "python-jose": lambda s: python_jose.decode(token, s, algorithms=["RS256"]),
}
for name, key_set in sets.items():
    for reader, read in readers.items():
        try:
            read(json.loads(json.dumps(key_set)))
            word = "ok"
        except Exception as error:
            word = "LOST"
        print(name, word, reader)
PY
cat >sets.mjs <<'JS'
import { readFileSync } from 'node:fs';
import http from 'node:http';
import * as jose from 'jose';
import jwksRsa from 'jwks-rsa';
import jsonwebtoken from 'jsonwebtoken';
const { sets, token } = JSON.parse(readFileSync('sets.json'));
let current;
const issuer = http.createServer((_, answer) => answer.end(JSON.stringify(current))).listen(0, '127.0.0.1');
await new Promise((ready) => issuer.on('listening', ready));
const jwksUri = `http://127.0.0.1:${issuer.address().port}/`;
const readers = {
  jose: () => jose.jwtVerify(token, jose.createRemoteJWKSet(new URL(jwksUri))),
  'jwks-rsa': async () => jsonwebtoken.verify(token, (await jwksRsa({ jwksUri }).getSigningKey('rsa')).getPublicKey()),
};
for (const [name, set] of Object.entries(sets)) {
  current = set;
  for (const [reader, read] of Object.entries(readers)) {
    const word = await read().then(() => 'ok', () => 'LOST');
    console.log(name, word, reader);
  }
}
issuer.close();
JS
# One line for each added key and outcome, with all who came to it.
{ py/bin/python -W ignore sets.py && node sets.mjs && rust/target/debug/sets; } | awk '{ key = $1 ": " $2; who[key] = who[key] " " $3 }
    END { for (key in who) print key who[key] }' | LC_ALL=C sort >seen
cat seen
diff - seen <<'SEEN'
ML-DSA: LOST authlib,import_key_set jsonwebtoken-10
ML-DSA: ok pyjwt joserfc authlib,dict jwcrypto python-jose jose jwks-rsa jsonwebtoken-11
X25519: LOST jsonwebtoken-10
X25519: ok pyjwt joserfc authlib,import_key_set authlib,dict jwcrypto python-jose jose jwks-rsa jsonwebtoken-11
brainpool: LOST joserfc jsonwebtoken-10
brainpool: ok pyjwt authlib,import_key_set authlib,dict jwcrypto python-jose jose jwks-rsa jsonwebtoken-11
nothing: ok pyjwt joserfc authlib,import_key_set authlib,dict jwcrypto python-jose jose jwks-rsa jsonwebtoken-10 jsonwebtoken-11
secp256k1: LOST jsonwebtoken-10
secp256k1: ok pyjwt joserfc authlib,import_key_set authlib,dict jwcrypto python-jose jose jwks-rsa jsonwebtoken-11
unknown-kty: LOST authlib,import_key_set jsonwebtoken-10
unknown-kty: ok pyjwt joserfc authlib,dict jwcrypto python-jose jose jwks-rsa jsonwebtoken-11
SEEN
