use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::media_type::{DOCKER_SCHEMA1_SIGNED, OCI_MANIFEST};
use super::*;

const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const SCHEMA1: &str = "application/vnd.docker.distribution.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn parse_as(media_type: &str, text: &str) -> Manifest {
    Manifest::parse(Some(media_type), text.as_bytes()).unwrap()
}

fn digests(descriptors: &[Descriptor]) -> Vec<&Digest> {
    descriptors
        .iter()
        .map(|descriptor| &descriptor.digest)
        .collect()
}

#[test]
fn an_image_names_its_config_and_layers() {
    let [config, layer, subject] = [b"c", b"l", b"s"].map(|bytes| Digest::of(bytes));
    let text = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": "a/b", "annotations": { "x": "y" },
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 7 },
        "layers": [{ "digest": layer, "size": 9, "urls": [] }, { "digest": "blake3:00", "size": 1 }, "nonsense", 1, null],
        "subject": { "digest": subject, "size": 3 },
    });
    let manifest = parse_as(OCI_MANIFEST, &text.to_string());
    assert_eq!(digests(&manifest.blobs), [&config, &layer]);
    assert_eq!(manifest.blobs[0].size, 7);
    assert!(manifest.blobs[1].elsewhere && !manifest.blobs[0].elsewhere);
    assert!(manifest.manifests.is_empty() && manifest.self_described);
}

#[test]
fn an_index_names_manifests_and_old_forms_name_blobs() {
    let [one, two] = [b"1", b"2"].map(|bytes| Digest::of(bytes));
    let text = json!({ "manifests": [{ "digest": one, "size": 1 }, { "digest": two, "size": 2 }] });
    let index = parse_as(OCI_INDEX, &text.to_string());
    assert_eq!(digests(&index.manifests), [&one, &two]);

    let blob = "application/vnd.buildkit.cacheconfig.v0";
    let text = json!({ "manifests": [{ "digest": one, "mediaType": OCI_MANIFEST }, { "mediaType": blob, "digest": two }] });
    let index = parse_as(OCI_INDEX, &text.to_string());
    let kinds: Vec<_> = index.manifests.iter().map(|it| it.is_blob).collect();
    assert_eq!(kinds, [false, true]);
    let text = json!({ "blobs": [{ "digest": two, "mediaType": blob }] });
    assert!(
        !parse_as(ARTIFACT, &text.to_string()).blobs[0].is_blob,
        "only of an index it tells anything"
    );

    let text = json!({ "fsLayers": [{ "blobSum": one }, { "blobSum": one }] });
    let schema1 = parse_as(SCHEMA1, &text.to_string());
    assert_eq!(digests(&schema1.blobs), [&one, &one]);

    let text = json!({ "blobs": [{ "digest": two, "size": 2 }] });
    let artifact = parse_as(ARTIFACT, &text.to_string());
    assert_eq!(digests(&artifact.blobs), [&two]);
}

#[test]
fn a_field_of_another_type_names_nothing() {
    let [own, secret] = [b"o", b"s"].map(|bytes| Digest::of(bytes));
    let all = json!({
        "config": { "digest": own }, "layers": [{ "digest": own }], "manifests": [{ "digest": own }],
        "blobs": [{ "digest": secret }], "fsLayers": [{ "blobSum": secret }],
    });
    for media_type in [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX] {
        let manifest = parse_as(media_type, &all.to_string());
        let named = [digests(&manifest.blobs), digests(&manifest.manifests)].concat();
        assert!(
            !named.is_empty() && !named.contains(&&secret),
            "{media_type}"
        );
        assert!(!manifest.self_described, "its shape is of several kinds");
    }
    let unknown = parse_as("application/vnd.x+json", &all.to_string());
    assert!(unknown.blobs.is_empty() && unknown.manifests.is_empty());
}

/// A registry in Go checks the last of `layers`, `LAYERS` and `layerſ`; a manifest that says two things names nothing.
#[test]
fn a_key_that_readers_take_for_another_makes_it_name_nothing() {
    let secret = format!(r#"[{{"digest":"{}"}}]"#, Digest::of(b"secret"));
    let own = Digest::of(b"own");
    for body in [
        format!(r#"{{"layers":{secret},"layers":[]}}"#),
        format!(r#"{{"layers":[],"layers":{secret}}}"#),
        format!(r#"{{"layers":{secret},"LAYERS":[]}}"#),
        format!(r#"{{"Layers":[],"layers":{secret}}}"#),
        format!(r#"{{"layers":{secret},"layer\u017f":[]}}"#),
        format!(r#"{{"layers":{secret},"layerſ":[]}}"#),
        format!(r#"{{"layers":{secret},"l\u0061yers":[]}}"#),
        format!(r#"{{"layers":{secret},"Config":null}}"#),
        format!(r#"{{"layers":{secret},"mediatype":"{OCI_INDEX}"}}"#),
        format!(r#"{{"layers":[{{"digest":"{own}","Digest":"{own}"}}]}}"#),
        format!(r#"{{"layers":[{{"digest":"{own}","digest":"{own}"}}]}}"#),
        format!(r#"{{"layers":[{{"digest":"{own}","ſize":1}}]}}"#),
        format!(r#"{{"layers":[{{"digest":"{own}","url\u017f":[]}}]}}"#),
    ] {
        let manifest = parse_as(OCI_MANIFEST, &body);
        assert!(manifest.blobs.is_empty(), "{body}");
        assert!(!manifest.self_described, "{body}");
    }
    let other = r#"{"x":1,"x":2,"layer":[],"layerss":[],"annotations":{"Layers":1,"layers":2}}"#;
    let manifest = format!("{}{}", &format!(r#"{{"layers":{secret},"#), &other[1..]);
    assert_eq!(parse_as(OCI_MANIFEST, &manifest).blobs.len(), 1);
}

#[test]
fn null_and_fields_of_the_wrong_type_are_tolerated_and_nonsense_is_not() {
    for body in [
        r#"{"layers":null,"subject":null,"config":5} "#,
        r#"{"layers":{"digest":1},"config":[{}],"mediaType":7}"#,
        r#"{"layers":[1.5,-1,true,[],{"digest":{},"size":-1}],"config":{"digest":null}}"#,
    ] {
        let manifest = parse_as(OCI_MANIFEST, body);
        assert!(manifest.blobs.is_empty() && manifest.manifests.is_empty());
    }
    for nonsense in [
        "",
        "[]",
        "null",
        "\"x\"",
        "{} {}",
        "{}x",
        "{",
        "\u{feff}{}",
        "<html>",
    ] {
        let parsed = Manifest::parse(Some(OCI_MANIFEST), nonsense.as_bytes());
        assert!(parsed.is_err(), "{nonsense}");
    }
    let deep = |open: &str| format!("{{\"layers\":{}", open.repeat(4 << 20));
    for open in ["[", "{\"\":"] {
        assert!(Manifest::parse(None, deep(open).as_bytes()).is_err());
    }
}

#[test]
fn more_descriptors_than_any_image_has_are_none() {
    let one = format!(r#"{{"digest":"{}"}},"#, Digest::of(b"x"));
    let list = |count: usize| {
        let all = one.repeat(count);
        format!(r#"{{"layers":[{}]}}"#, all.trim_end_matches(','))
    };
    assert_eq!(parse_as(OCI_MANIFEST, &list(20_000)).blobs.len(), 20_000);
    assert!(parse_as(OCI_MANIFEST, &list(20_001)).blobs.is_empty());
}

#[test]
fn content_type_and_body_must_name_the_same_type() {
    let own = |name: &str| format!(r#"{{"mediaType":"{name}","config":{{}},"layers":[]}}"#);
    let parse = |said: Option<&str>, body: &str| Manifest::parse(said, body.as_bytes());
    let manifest = parse(Some(OCI_MANIFEST), &own(OCI_MANIFEST)).unwrap();
    assert!(manifest.self_described);
    let with_parameter = format!("{OCI_MANIFEST}; charset=utf-8");
    assert_eq!(
        parse(Some(&with_parameter), "{}").unwrap().media_type,
        OCI_MANIFEST
    );
    let error = parse(Some(OCI_INDEX), &own(OCI_MANIFEST)).unwrap_err();
    assert!(matches!(error, ManifestError::TwoTypes { .. }), "{error}");
    // What no manifest can be is a label on bytes that say what they are.
    for said in ["text/html", "image/png", "application/javascript"] {
        let manifest = parse(Some(said), &own(OCI_MANIFEST)).unwrap();
        assert_eq!(manifest.media_type, OCI_MANIFEST, "{said}");
        assert!(parse(Some(said), "{}").is_err(), "{said}");
    }
    let upper = parse(Some(&OCI_MANIFEST.to_ascii_uppercase()), &own(OCI_MANIFEST));
    assert_eq!(upper.unwrap().media_type, OCI_MANIFEST);
    assert!(parse(None, &own("text/html")).is_err());
    // A file server's word is none.
    for said in [
        None,
        Some(""),
        Some(" ; x"),
        Some("text/plain; charset=utf-8"),
        Some("Application/JSON"),
    ] {
        let manifest = parse(said, &own(OCI_INDEX)).unwrap();
        assert_eq!(manifest.media_type, OCI_INDEX, "{said:?}");
        assert!(manifest.self_described);
    }
}

#[test]
fn json_without_the_members_of_a_manifest_does_not_look_like_one() {
    for (body, looks) in [
        (
            r#"{"schemaVersion":2,"config":{},"layers":[]}"#,
            Looks::LikeAManifest,
        ),
        (r#"{"schemaVersion":1,"fsLayers":[]}"#, Looks::LikeAManifest),
        (
            r#"{"manifests":null,"schemaVersion":2}"#,
            Looks::LikeAManifest,
        ),
        (r#"{"schemaVersion":2}"#, Looks::LikeNeither),
        (r#"{"schemaVersion":"2","layers":[]}"#, Looks::LikeNeither),
        (r#"{"schemaVersion":2.0,"layers":[]}"#, Looks::LikeNeither),
        (r#"{"schemaVersion":7,"layers":[]}"#, Looks::LikeNeither),
        (r#"{"layers":[]}"#, Looks::LikeNeither),
        (
            r#"{"mediaType":"application/vnd.x+json","layers":[]}"#,
            Looks::LikeNeither,
        ),
        (r#"{"message":"maintenance"}"#, Looks::LikeNeither),
        (r#"{"errors":[]}"#, Looks::LikeAnError),
        (
            r#"{"schemaVersion":2,"layers":[],"errors":null}"#,
            Looks::LikeAnError,
        ),
    ] {
        let read = Manifest::parse(Some("application/json"), body.as_bytes());
        assert_eq!(read.unwrap().looks, looks, "{body}");
    }
    let typed = format!(r#"{{"mediaType":"{ARTIFACT}","blobs":[]}}"#);
    assert_eq!(parse_as(ARTIFACT, &typed).looks, Looks::LikeAManifest);
}

#[test]
fn shape_decides_when_nothing_is_said() {
    for (body, expected) in [
        (r#"{"manifests":[]}"#, Some(OCI_INDEX)),
        (r#"{"config":{},"layers":[]}"#, Some(OCI_MANIFEST)),
        (
            r#"{"fsLayers":[],"signatures":[]}"#,
            Some(DOCKER_SCHEMA1_SIGNED),
        ),
        (r#"{"fsLayers":[]}"#, Some(SCHEMA1)),
        (
            r#"{"mediaType":"a/b\r\nSet-Cookie: x","manifests":[]}"#,
            Some(OCI_INDEX),
        ),
        (r#"{"config":{},"layers":[],"manifests":[]}"#, None),
        (r#"{"mediaType":"a/b","manifests":[]}"#, None),
        ("{}", None),
    ] {
        let found = Manifest::parse(None, body.as_bytes()).ok();
        let found = found.map(|manifest| manifest.media_type);
        assert_eq!(found.as_deref(), expected, "{body}");
    }
    let json = Manifest::parse(Some("application/json; charset=utf-8"), b"{}").unwrap();
    assert_eq!(json.media_type, "application/json");
    assert!(!json.self_described);
}

/// The word of an endpoint is confirmed by the bytes alone.
#[test]
fn a_type_that_the_bytes_do_not_say_is_not_self_described() {
    let image = r#"{"schemaVersion":2,"config":{},"layers":[]}"#;
    assert!(parse_as(OCI_MANIFEST, image).self_described);
    for said in [DOCKER_MANIFEST, OCI_INDEX, "application/vnd.x+json"] {
        assert!(!parse_as(said, image).self_described, "{said}");
    }
}

/// A payload, and the same with a signature put in before its last brace.
fn signed(payload: &str) -> (Vec<u8>, String) {
    let (length, tail) = (payload.len() - 2, &payload[payload.len() - 2..]);
    let signatures = format!(",\n   \"signatures\": [{}]\n}}", signature(length, tail));
    (
        payload.into(),
        format!("{}{signatures}", &payload[..length]),
    )
}

fn signature(length: usize, tail: &str) -> String {
    let tail = URL_SAFE_NO_PAD.encode(tail);
    let protected = format!("{{\"formatLength\":{length},\"formatTail\":\"{tail}\"}}");
    let protected = URL_SAFE_NO_PAD.encode(protected);
    format!("{{\"header\":{{}},\"signature\":\"x\",\"protected\": \"{protected}\"}}")
}

const PAYLOAD: &str = "{\n   \"schemaVersion\": 1,\n   \"name\": \"a/b\",\n   \"fsLayers\": []\n}";

#[test]
fn the_digest_of_a_signed_manifest_is_that_of_its_payload() {
    let (payload, text) = signed(PAYLOAD);
    let digest = Digest::of(&payload);
    assert!(is_digest_of(
        &digest,
        DOCKER_SCHEMA1_SIGNED,
        text.as_bytes()
    ));
    assert!(is_digest_of(
        &Digest::of(text.as_bytes()),
        DOCKER_SCHEMA1_SIGNED,
        text.as_bytes()
    ));
    assert!(!is_digest_of(
        &Digest::of(b"other"),
        DOCKER_SCHEMA1_SIGNED,
        text.as_bytes()
    ));
    for media_type in [SCHEMA1, OCI_MANIFEST, OCI_INDEX, "application/json"] {
        assert!(
            !is_digest_of(&digest, media_type, text.as_bytes()),
            "{media_type}"
        );
    }
}

/// The rule for schema 1 is in the bytes that are checked: none of them may choose what is hashed.
#[test]
fn no_bytes_choose_what_their_digest_is_of() {
    let victim = br#"{"schemaVersion":1,"name":"victim"}"#;
    let digest = Digest::of(victim);
    let tail = std::str::from_utf8(victim).unwrap();
    let (_, honest) = signed(PAYLOAD);
    let length = PAYLOAD.len() - 2;
    let one = signature(length, "\n}");
    let body = |start: &str, rest: &str| format!("{start}{rest}");
    let forged = [
        // All of the victim as the tail.
        body(
            "",
            &format!(
                r#"{{"schemaVersion":1,"layers":[1],"signatures":[{}]}}"#,
                signature(0, tail)
            ),
        ),
        body(
            "{",
            &format!(
                r#""schemaVersion":1,"signatures":[{}]}}"#,
                signature(1, &tail[1..])
            ),
        ),
        // The signatures are not the last member, or not all of the rest.
        format!(
            r#"{},"signatures":[{one}],"layers":[]}}"#,
            &PAYLOAD[..length]
        ),
        format!(
            r#"{},"layers":[],"signatures":[{one}]}}"#,
            &PAYLOAD[..length]
        ),
        format!(
            r#"{},"signatures":[{one}],"signatures":[{one}]}}"#,
            &PAYLOAD[..length]
        ),
        format!(r#"{},"signatures":[{one}]}}x"#, &PAYLOAD[..length]),
        // They disagree, or say what cannot be.
        format!(
            r#"{},"signatures":[{one},{}]}}"#,
            &PAYLOAD[..length],
            signature(1, "}")
        ),
        format!(r#"{},"signatures":[]}}"#, &PAYLOAD[..length]),
        format!(
            r#"{},"signatures":[{}]}}"#,
            &PAYLOAD[..length],
            signature(usize::MAX, "}")
        ),
        honest.replace("\"schemaVersion\": 1", "\"schemaVersion\": 2"),
        honest.replace("\"schemaVersion\": 1", "\"schemaversion\": 1"),
        "no json".into(),
        r#"{"signatures":[]}"#.into(),
    ];
    for text in forged {
        let bytes = text.as_bytes();
        assert_eq!(schema1::payload(bytes), None, "{text}");
        assert!(
            !is_digest_of(&digest, DOCKER_SCHEMA1_SIGNED, bytes),
            "{text}"
        );
    }
}

/// A document of schema 1 with one member that differs between two bodies.
fn member() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z\"\\\\{},:\\[\\]]{0,12}",
        Just(r#""signatures":[]"#.to_owned()),
        Just(r#""x":{"y":1}"#.to_owned()),
    ]
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>) {
        let _ = Manifest::parse(None, &bytes);
        let _ = schema1::payload(&bytes);
    }

    /// What is served for a digest of a payload is that payload and signatures, as any reader of JSON sees it.
    #[test]
    fn a_payload_is_the_document_without_its_signatures(
        before in member(), within in member(), cut in 0..80_usize, tail in "[ \n}]{1,3}",
    ) {
        let text = format!("{{\"schemaVersion\":1,{before}");
        let cut = if cut % 2 == 0 { text.len() } else { cut.min(text.len()) };
        let text = format!("{text},{within}\"signatures\":[{}]}}", signature(cut, &tail));
        if let Some(payload) = schema1::payload(text.as_bytes()) {
            let mut whole: Value = serde_json::from_str(&text).unwrap();
            let signatures = whole.as_object_mut().unwrap().remove("signatures");
            prop_assert!(signatures.is_some());
            prop_assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap(), whole);
        }
    }

    /// Whatever else it has, what looks like a manifest has a member of one, and no errors.
    #[test]
    fn what_looks_like_a_manifest_has_a_member_of_one(
        keys in proptest::collection::btree_set("config|layers|manifests|blobs|fsLayers|errors|message|schemaVersion", 0..5),
        version in 0..4_u64,
    ) {
        let object: serde_json::Map<_, _> = keys.iter().map(|key| (key.clone(), json!(version))).collect();
        let looks = parse_as(OCI_MANIFEST, &Value::from(object).to_string()).looks;
        let has = |key: &str| keys.contains(key);
        let member = ["config", "layers", "manifests", "blobs", "fsLayers"].into_iter().any(has);
        let expected = match has("errors") {
            true => Looks::LikeAnError,
            false if member && has("schemaVersion") && (version == 1 || version == 2) => Looks::LikeAManifest,
            false => Looks::LikeNeither,
        };
        prop_assert_eq!(looks, expected);
    }

    /// What is read without a tree is what a tree says, where no key stands twice.
    #[test]
    fn it_reads_what_a_tree_says(layers in proptest::collection::vec((any::<u64>(), any::<bool>()), 0..5), extra: String) {
        let list: Vec<_> = layers.iter().map(|(size, elsewhere)| {
            let mut layer = json!({ "digest": Digest::of(&size.to_le_bytes()), "size": size, "x": extra });
            if *elsewhere { layer["urls"] = json!([extra]); }
            layer
        }).collect();
        let text = json!({ "layers": list, "annotations": { &extra: extra } }).to_string();
        let found: Vec<_> = parse_as(OCI_MANIFEST, &text).blobs.iter()
            .map(|blob| (blob.size, blob.elsewhere)).collect();
        prop_assert_eq!(found, layers);
    }
}
